/** Packed rows (kernels/weights/q4.wgsl, q8.wgsl, scales.wgsl) → the tensors of a GPTQ module, version 2 (gptq.ts). */

import { type QuantizedLayout, rowBytes } from "../../kernels/weights/weights.ts";
import type { TensorSpec } from "../files/safetensors.ts";
import { fromHalf } from "./plain.ts";

/** A matrix [rows, cols] as GPTQ stores it: `bits` of each weight, `group` columns for a scale and a zero. */
export interface GptqModule {
  readonly rows: number;
  readonly cols: number;
  readonly bits: 4 | 8;
  readonly group: number;
}

/** The tensors of a module, `qweight`, `qzeros`, `scales`, `g_idx`. */
export function gptqTensors(module: string, { rows, cols, bits, group }: GptqModule): readonly TensorSpec[] {
  const perWord = 32 / bits;
  const groups = cols / group;
  return [
    { name: `${module}.qweight`, dtype: "I32", shape: [cols / perWord, rows] },
    { name: `${module}.qzeros`, dtype: "I32", shape: [groups, rows / perWord] },
    { name: `${module}.g_idx`, dtype: "I32", shape: [cols] },
    { name: `${module}.scales`, dtype: "F16", shape: [groups, rows] },
  ];
}

/** The order of groups that is none: column k is of group floor(k / group). */
export function gptqGroupIndex({ cols, group }: GptqModule): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Int32Array.from({ length: cols }, (_, k) => Math.floor(k / group)).buffer);
}

/** Rows whose words of some columns stay in the first cache. */
const tileRows = 64;

/** Packed words [rows, cols / (32 / bits)] → words of `qweight` [cols / (32 / bits), rows]. */
export function gptqWords(packed: Uint32Array, layout: QuantizedLayout, cols: number): Uint32Array<ArrayBuffer> {
  const wordsPerRow = rowBytes(layout, cols) / 4;
  const rows = packed.length / wordsPerRow;
  const out = new Uint32Array(packed.length);
  for (let tile = 0; tile < rows; tile += tileRows) {
    const end = Math.min(rows, tile + tileRows);
    for (let quad = 0; quad < wordsPerRow; quad += 4) {
      for (let row = tile; row < end; row++) {
        const at = row * wordsPerRow + quad;
        const [a, b, c, d] = [packed[at] ?? 0, packed[at + 1] ?? 0, packed[at + 2] ?? 0, packed[at + 3] ?? 0];
        // Four packed words hold column 4 v + 0, 1, 2 and 3 in their nibble (or byte) v; a stored word consecutive ones.
        for (let word = 0; word < 4; word++) {
          const to = (quad + word) * rows + row;
          if (layout === "q8") {
            const s = 8 * word;
            out[to] =
              ((a >>> s) & 255) | (((b >>> s) & 255) << 8) | (((c >>> s) & 255) << 16) | (((d >>> s) & 255) << 24);
          } else {
            const [low, high] = [8 * word, 8 * word + 4];
            out[to] =
              ((a >>> low) & 15) |
              (((b >>> low) & 15) << 4) |
              (((c >>> low) & 15) << 8) |
              (((d >>> low) & 15) << 12) |
              (((a >>> high) & 15) << 16) |
              (((b >>> high) & 15) << 20) |
              (((c >>> high) & 15) << 24) |
              (((d >>> high) & 15) << 28);
          }
        }
      }
    }
  }
  return out;
}

/**
 * Words of scales and zeros [rows, groups] → `scales` [groups, rows] and words of `qzeros` [groups, rows / (32 / bits)].
 * The zeros must be whole and within the bits.
 */
export function gptqGroups(
  words: Uint32Array,
  bits: 4 | 8,
  groups: number,
): { readonly scales: Uint16Array<ArrayBuffer>; readonly qzeros: Uint32Array<ArrayBuffer> } {
  const rows = words.length / groups;
  const perWord = 32 / bits;
  const scales = new Uint16Array(words.length);
  const qzeros = new Uint32Array(words.length / perWord);
  for (let row = 0; row < rows; row++) {
    const shift = (row % perWord) * bits;
    for (let group = 0; group < groups; group++) {
      const word = words[row * groups + group] ?? 0;
      const zero = fromHalf(word >>> 16);
      if (!(Number.isInteger(zero) && zero >= 0 && zero < 2 ** bits)) throw new Error(`GPTQ has no zero ${zero}`);
      scales[group * rows + row] = word & 0xffff;
      const at = (group * rows + row - (row % perWord)) / perWord;
      qzeros[at] = (qzeros[at] ?? 0) | (zero << shift);
    }
  }
  return { scales, qzeros };
}
