/** Sizes of workgroups and register tiles. Software adapters and GPUs want opposite ones: see DESIGN.md, "Kernels". */

import type { Tuning } from "./plan.ts";

/** An invocation of a software adapter is a SIMD lane: a thread that owns whole rows needs no reduction. */
const software: Tuning = {
  matvec: { lanes: 1, groups: 16 },
  matmul: { threads: 16, quads: 1 },
  decodeAttention: { threads: 16 },
  prefillAttention: { threads: 16 },
  normLanes: 8,
  argmaxLanes: 256,
  unroll: false,
};

/** Untuned defaults that are sound on any GPU. */
const gpu: Tuning = {
  matvec: { lanes: 32, groups: 2 },
  matmul: { threads: 64, quads: 2 },
  decodeAttention: { threads: 32 },
  prefillAttention: { threads: 32 },
  normLanes: 128,
  argmaxLanes: 256,
  unroll: true,
};

/** The sizes for a device, or an adapter. */
export function tuningFor(device: { readonly isSoftware: boolean }): Tuning {
  return device.isSoftware ? software : gpu;
}
