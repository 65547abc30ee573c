/** Sizes of workgroups and register tiles. Software adapters and GPUs want opposite ones: see DESIGN.md, "Kernels". */

import type { AttentionTile, Splits } from "../../kernels/attention/attention.ts";
import type { Kernel } from "../../kernels/kernel.ts";
import type { MatmulTile } from "../../kernels/linear/matmul.ts";
import type { MatvecTile } from "../../kernels/linear/matvec.ts";

/** Sizes of workgroups and register tiles, by the family of kernels that takes them. */
export interface Sizes {
  readonly matvec: MatvecTile;
  readonly matmul: MatmulTile;
  readonly decodeAttention: AttentionTile & Splits;
  readonly prefillAttention: AttentionTile;
  readonly normLanes: number;
  readonly argmaxLanes: number;
  readonly sampleThreads: number;
}

export type Family = keyof Sizes;

/** Sizes by kernel and shape (`Step.size`), as tune.ts measures them. */
export type TunedSizes = { readonly [F in Family]?: Readonly<Record<string, Sizes[F]>> };

/** The sizes of a plan, which are chosen per adapter. */
export interface Tuning extends Sizes {
  /** In place of a family's. */
  readonly tuned?: TunedSizes;
  /** Whether compilers may unroll long loops (state.wgsl). */
  readonly unroll: boolean;
}

/** A kernel in a size of its family. */
export interface Sized<F extends Family> {
  readonly kernel: Kernel;
  readonly size: { readonly family: F; readonly key: string };
  readonly value: Sizes[F];
}

/** The kernel of a shape, in the size that was measured for the two, or else in the family's. */
export function sized<F extends Family>(
  tuning: Tuning,
  family: F,
  shape: string | number,
  kernelOf: (size: Sizes[F]) => Kernel,
): Sized<F> {
  const key = `${kernelOf(tuning[family]).name} ${shape}`;
  const value: Sizes[F] = tuning.tuned?.[family]?.[key] ?? tuning[family];
  return { kernel: kernelOf(value), size: { family, key }, value };
}

/** What sizes depend on of a device, or an adapter. */
export interface TunedDevice {
  readonly isSoftware: boolean;
  readonly subgroupSize: number;
}

/** Threads that share loads on a software adapter: its subgroup, where that is small. */
function sharing(subgroup: number): number {
  return subgroup > 1 && subgroup <= 8 ? subgroup : 1;
}

/**
 * An invocation of a software adapter is a SIMD lane: a thread that owns whole rows needs no reduction. Each lane's load
 * takes several instructions, and passing a value within the subgroup takes one.
 */
function software(subgroupSize: number): Tuning {
  const subgroup = sharing(subgroupSize);
  return {
    matvec: { lanes: 1, groups: 8, subgroup },
    matmul: subgroup > 1 ? { threads: 8, tokens: 32, subgroup } : { threads: 16, tokens: 4, subgroup },
    decodeAttention: { threads: subgroup > 1 ? subgroup : 8, quads: 1, subgroup, splits: 1, span: 1 },
    prefillAttention: subgroup > 1 ? { threads: subgroup, quads: 4, subgroup } : { threads: 8, quads: 1, subgroup },
    normLanes: 8,
    argmaxLanes: 256,
    sampleThreads: 64,
    unroll: false,
  };
}

/** Untuned defaults that are sound on any GPU. */
const gpu: Tuning = {
  matvec: { lanes: 32, groups: 2, subgroup: 1 },
  matmul: { threads: 64, tokens: 8, subgroup: 1 },
  decodeAttention: { threads: 32, quads: 1, subgroup: 1, splits: 8, span: 256 },
  prefillAttention: { threads: 32, quads: 1, subgroup: 1 },
  normLanes: 128,
  argmaxLanes: 256,
  sampleThreads: 256,
  unroll: true,
};

/** Sizes worth measuring beside the defaults, likely ones first. */
export type Candidates = { readonly [F in Family]: readonly Sizes[F][] };

/** Compiling is most of what a candidate costs here (a matvec 0.8 s of CPU time, attention 1 to 4), so there are few. */
function softwareCandidates(subgroupSize: number): Candidates {
  const subgroup = sharing(subgroupSize);
  const own = { threads: 8, quads: 1, subgroup, splits: 1, span: 1 };
  return {
    matvec: [
      ...[1, 2, 4].map((n) => ({ lanes: 1, groups: 8 * n, subgroup })),
      ...(subgroup === 1 ? [] : [{ lanes: 1, groups: 8, subgroup: 1 }]),
    ],
    matmul: [
      ...[8, 16].flatMap((threads) => [16, 32, 64].map((tokens) => ({ threads, tokens, subgroup }))),
      ...(subgroup === 1 ? [] : [{ threads: 16, tokens: 4, subgroup: 1 }]),
    ],
    decodeAttention: [
      { ...own, threads: 16 },
      { ...own, splits: 2, span: 256 },
    ],
    prefillAttention: [
      { threads: 8, quads: 2, subgroup },
      { threads: 16, quads: 2, subgroup },
    ],
    normLanes: [4, 16],
    argmaxLanes: [64, 128],
    sampleThreads: [128],
  };
}

const splits = [
  { splits: 1, span: 1 },
  { splits: 4, span: 256 },
  { splits: 8, span: 128 },
  { splits: 16, span: 128 },
] as const;

const gpuCandidates = (subgroupSize: number): Candidates => ({
  matvec: [
    ...[8, 16, 32, 64].flatMap((lanes) => [1, 2, 4].map((groups) => ({ lanes, groups, subgroup: 1 }))),
    ...[16, 32, 64]
      .filter((lanes) => lanes <= subgroupSize)
      .map((lanes) => ({ lanes, groups: 1, subgroup: 1, subgroupSum: true })),
  ],
  matmul: [32, 64, 128].flatMap((threads) => [4, 8, 16].map((tokens) => ({ threads, tokens, subgroup: 1 }))),
  decodeAttention: [
    ...[32, 64, 128].map((threads) => ({ threads, quads: 1, subgroup: 1, splits: 8, span: 256 })),
    ...splits.map((split) => ({ threads: 64, quads: 1, subgroup: 1, ...split })),
  ],
  // A thread has two vec4f for each quad in workgroup memory: 128 threads with 4 quads pass the 16 KiB of every adapter.
  prefillAttention: [1, 2, 4].flatMap((quads) =>
    [32, 64, 128].filter((threads) => threads * quads <= 256).map((threads) => ({ threads, quads, subgroup: 1 })),
  ),
  normLanes: [32, 64, 256],
  argmaxLanes: [64, 128],
  sampleThreads: [64, 128],
});

/** What is measured on a device beside its defaults. None takes more than the 256 threads that WebGPU guarantees. */
export function candidatesFor({ isSoftware, subgroupSize }: TunedDevice): Candidates {
  return isSoftware ? softwareCandidates(subgroupSize) : gpuCandidates(subgroupSize);
}

/** The sizes for a device, or an adapter; `tuned` are those of tune.ts, from wherever they were kept. */
export function tuningFor(device: TunedDevice, tuned?: unknown): Tuning {
  const base = device.isSoftware ? software(device.subgroupSize) : gpu;
  return tuned === undefined ? base : { ...base, tuned: soundSizes(tuned, candidatesFor(device)) };
}

/**
 * The sizes of `tuned` that are candidates of this device: whatever else a file may hold (an earlier version's sizes,
 * another device's, nonsense) counts for nothing.
 */
export function soundSizes(tuned: unknown, candidates: Candidates): TunedSizes {
  const families = Object.entries(candidates).map(([family, sizes]) => {
    const known = new Map(sizes.map((size) => [sizeText(size), size]));
    const given = Object.entries(recordOf(recordOf(tuned)[family]));
    const sound = given.flatMap(([key, size]) => {
      const own = known.get(sizeText(size));
      return own === undefined ? [] : [[key, own] as const];
    });
    return [family, Object.fromEntries(sound)] as const;
  });
  return Object.fromEntries(families);
}

function recordOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? { ...value } : {};
}

/** A size as text: `lanes 1 groups 8 subgroup 8`, or a number; equal for equal sizes. */
export function sizeText(size: unknown): string {
  if (typeof size !== "object" || size === null) return JSON.stringify(size) ?? "";
  return Object.entries(size)
    .map(([name, value]) => `${name} ${JSON.stringify(value)}`)
    .sort()
    .join(" ");
}

/**
 * Rows of a weight that lie block by block on a device (kernels/weights/matrix.wgsl). Software adapters read what lies
 * one after the other, as a workgroup of 32 rows then does, without waiting for memory.
 */
export function tileRowsFor({ isSoftware }: Pick<TunedDevice, "isSoftware">): number {
  return isSoftware ? 32 : 1;
}

/** The plainest sizes, in place of those whose kernels compute wrong numbers on an adapter (selfcheck.ts). */
export const safeTuning: Tuning = software(1);
