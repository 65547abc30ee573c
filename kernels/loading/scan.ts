/** The search for weights that are not finite, as they are loaded; and what it and the quantizer report (`found`). */

import type { Kernel } from "../kernel.ts";
import type { PlainLayout } from "../weights/weights.ts";

/**
 * Bytes of what was found (u32 each): elements that are not finite, the complement of the first one's index, workgroups
 * that ran; of the quantizer, groups that are too large for a float16 scale, and the complement of the first one's index.
 */
export const foundBytes = 20;

/** Of 32 bits: all bits of each element's exponent, the lowest one of each, and how many elements there are. */
export const exponents = {
  f32: { all: 0x7f800000, lowest: 0x00800000, perWord: 1 },
  f16: { all: 0x7c007c00, lowest: 0x04000400, perWord: 2 },
  bf16: { all: 0x7f807f80, lowest: 0x00800080, perWord: 2 },
} as const satisfies Readonly<Record<PlainLayout, unknown>>;

const lanes = 64;
const maxWorkgroups = 2048; // fills any GPU, each thread then strides over the rest

/** Counts the elements of `sizeBytes` packed bytes (a multiple of 16) that are NaN or infinite, and finds the first. */
export function scan(layout: PlainLayout, sizeBytes: number): Kernel {
  const { all, lowest, perWord } = exponents[layout];
  return {
    name: `scan<${layout}>`,
    files: [new URL("./scan.wgsl", import.meta.url)],
    constants: { LANES: lanes, EXPONENTS: all, ONES: lowest, PER_WORD: perWord },
    tile: {},
    grid: () => [Math.min(maxWorkgroups, Math.ceil(sizeBytes / 16 / lanes)), 1, 1],
  };
}
