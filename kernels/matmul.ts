import type { Kernel } from "./kernel.ts";
import { type LinearShape, linearSnippets, linearVariant } from "./linear.ts";

export interface MatmulTile {
  /** Threads in a workgroup, four rows each. */
  readonly threads: number;
  /** Groups of four tokens that a thread keeps sums for. */
  readonly quads: number;
}

/** y [seq, rows] = epilogue(x [seq, cols] · Wᵀ), W [rows, cols]: a linear for several tokens. */
export function matmul(shape: LinearShape, { threads, quads }: MatmulTile): Kernel {
  return {
    name: `matmul<${linearVariant(shape)}>`,
    files: [new URL("./matmul.wgsl", import.meta.url), ...linearSnippets(shape)],
    constants: { ...shape.constants, THREADS: threads },
    tile: { QUADS: quads },
    grid: (seq) => [Math.ceil(shape.rangeRows / (threads * 4)), Math.ceil(seq / (quads * 4)), 1],
  };
}
