/** The linear of several tokens. */

import type { Kernel } from "../kernel.ts";
import { lanes } from "../lanes/lanes.ts";
import { type LinearShape, linearParts, linearVariant } from "./linear.ts";

export interface MatmulTile {
  /** Threads in a workgroup, four rows each: a multiple of `subgroup`. */
  readonly threads: number;
  /** Tokens that a thread keeps sums for. */
  readonly tokens: number;
  /** Threads that share the loads of x: the size of every subgroup of the adapter, or 1. */
  readonly subgroup: number;
}

/** y [seq, rows] = epilogue(x [seq, cols] · Wᵀ), W [rows, cols]: a linear for several tokens. */
export function matmul(shape: LinearShape, { threads, tokens, subgroup }: MatmulTile): Kernel {
  const parts = linearParts(shape, "several");
  const shared = lanes(subgroup);
  return {
    name: `matmul<${linearVariant(shape)}>`,
    files: [new URL("./matmul.wgsl", import.meta.url), ...parts.files, ...shared.files],
    constants: { ...parts.constants, THREADS: threads },
    tile: { TOKENS: tokens, ...parts.tile, ...shared.tile },
    features: shared.features,
    grid: (seq) => [Math.ceil(shape.rangeRows / (threads * 4)), Math.ceil(seq / tokens), 1],
  };
}
