import type { Kernel } from "./kernel.ts";
import type { PlainLayout } from "./weights.ts";

/**
 * Bytes of what was found (u32 each): elements that are not finite, the complement of the first one's index, workgroups
 * that ran; of the quantizer, groups that are too large for a float16 scale, and the complement of the first one's index.
 */
export const foundBytes = 20;

/** Bits of the exponent of an element, and elements in 32 bits. */
const formats: Readonly<Record<PlainLayout, { readonly mask: number; readonly perWord: number }>> = {
  f32: { mask: 0x7f800000, perWord: 1 },
  f16: { mask: 0x7c00, perWord: 2 },
  bf16: { mask: 0x7f80, perWord: 2 },
};

const lanes = 64;
const maxWorkgroups = 2048; // fills any GPU, each thread then strides over the rest

/** Counts the elements of `sizeBytes` packed bytes (a multiple of 16) that are NaN or infinite, and finds the first. */
export function scan(layout: PlainLayout, sizeBytes: number): Kernel {
  const { mask, perWord } = formats[layout];
  return {
    name: `scan<${layout}>`,
    files: [new URL("./scan.wgsl", import.meta.url)],
    constants: { LANES: lanes, MASK: mask, PER_WORD: perWord },
    tile: {},
    grid: () => [Math.min(maxWorkgroups, Math.ceil(sizeBytes / 16 / lanes)), 1, 1],
  };
}
