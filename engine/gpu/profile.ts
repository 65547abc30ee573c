/**
 * GPU time of every dispatch, by timestamp queries. Each dispatch is then a pass of its own and each submit is waited for,
 * so that only a device which was opened for a profile pays for it.
 */

import type { Device, DeviceBuffer } from "./device.ts";

/** One dispatch of a profiled run. */
export interface ProfiledDispatch {
  /** Kind of plan: `prefill` or `decode`. */
  readonly plan: string;
  /** Number of the submit, from 0. */
  readonly submit: number;
  /** e.g. `layer.12/self_attn.qkv_proj matvec<bf16,none>`. */
  readonly label: string;
  /** Nanoseconds from the first dispatch of the profile on. */
  readonly startNs: number;
  readonly endNs: number;
  /** Bytes of weights and of cached keys and values that it reads; 0 where it reads neither. */
  readonly readBytes: number;
  /** Multiplications and additions of linears; 0 for what is none. */
  readonly flops: number;
}

/** What is known of a dispatch before it runs. */
export type DispatchFacts = Pick<ProfiledDispatch, "label" | "readBytes" | "flops">;

export interface Profiler {
  /** Dispatches that a submit may have. */
  readonly mostDispatches: number;
  readonly dispatches: readonly ProfiledDispatch[];
  /** A pass for the `index`-th dispatch of a submit. */
  beginPass(encoder: GPUCommandEncoder, index: number): GPUComputePassEncoder;
  /** Behind the last pass of a submit. */
  resolve(encoder: GPUCommandEncoder, count: number): void;
  /** Waits for the submit and keeps its times. */
  collect(plan: string, facts: readonly DispatchFacts[]): Promise<void>;
}

/** A profiler on a device that has timestamp queries. */
export function createProfiler(device: Device): Profiler {
  const mostDispatches = 2048; // a query set holds 4096 timestamps at most
  const timestamps = mostDispatches * 2;
  const querySet = device.gpu.createQuerySet({ label: "profile", type: "timestamp", count: timestamps });
  const buffer = (label: string, usage: GPUBufferUsageFlags): DeviceBuffer =>
    device.createBuffer(label, timestamps * 8, usage);
  const resolved = buffer("timestamps", GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC);
  const staging = buffer("timestamps staging", GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
  const dispatches: ProfiledDispatch[] = [];
  let origin: bigint | undefined;
  let submits = 0;
  return {
    mostDispatches,
    dispatches,
    beginPass: (encoder, index) =>
      encoder.beginComputePass({
        timestampWrites: { querySet, beginningOfPassWriteIndex: 2 * index, endOfPassWriteIndex: 2 * index + 1 },
      }),
    resolve(encoder, count) {
      encoder.resolveQuerySet(querySet, 0, 2 * count, resolved.gpu, 0);
      encoder.copyBufferToBuffer(resolved.gpu, 0, staging.gpu, 0, 16 * count);
    },
    async collect(plan, facts) {
      const times = new BigUint64Array(await device.readBack(staging, 16 * facts.length));
      const submit = submits++;
      facts.forEach((fact, index) => {
        const start = times[2 * index] ?? 0n;
        origin ??= start;
        const startNs = Number(start - origin);
        const endNs = Number((times[2 * index + 1] ?? 0n) - origin);
        dispatches.push({ plan, submit, ...fact, startNs, endNs });
      });
    },
  };
}
