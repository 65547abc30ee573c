/** Sizes of workgroups and register tiles. Software adapters and GPUs want opposite ones: see DESIGN.md, "Kernels". */

import type { Tuning } from "./plan.ts";

/**
 * An invocation of a software adapter is a SIMD lane: a thread that owns whole rows needs no reduction. Each lane's load
 * takes several instructions, and passing a value within the subgroup takes one.
 */
function software(subgroup: number): Tuning {
  const shared = subgroup > 1 && subgroup <= 8;
  return {
    matvec: { lanes: 1, groups: 8, subgroup: shared ? subgroup : 1 },
    matmul: shared ? { threads: 8, tokens: 16, subgroup } : { threads: 16, tokens: 4, subgroup: 1 },
    decodeAttention: { threads: 8, quads: 1, keys: 64, subgroup: shared ? subgroup : 1, splits: 1, span: 1 },
    prefillAttention: { threads: 8, quads: 1, keys: 64, subgroup: shared ? subgroup : 1 },
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
  decodeAttention: { threads: 32, quads: 1, keys: 64, subgroup: 1, splits: 8, span: 256 },
  prefillAttention: { threads: 32, quads: 1, keys: 64, subgroup: 1 },
  normLanes: 128,
  argmaxLanes: 256,
  sampleThreads: 256,
  unroll: true,
};

/** The sizes for a device, or an adapter. */
export function tuningFor(device: { readonly isSoftware: boolean; readonly subgroupSize: number }): Tuning {
  return device.isSoftware ? software(device.subgroupSize) : gpu;
}

/** The plainest sizes, in place of those whose kernels compute wrong numbers on an adapter (selfcheck.ts). */
export const safeTuning: Tuning = software(1);
