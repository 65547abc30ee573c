/**
 * The packed layouts q4 and q8 on the host (kernels/weights/q4.wgsl, q8.wgsl, scales.wgsl): integers, scales and zeros
 * of a matrix, packed.
 */

import {
  type GroupSize,
  groupSizes,
  type QuantizedLayout,
  rowBytes,
  weightLayouts,
} from "../../kernels/weights/weights.ts";
import { toHalf } from "./plain.ts";

/** A matrix of integers: value[r, c] = scale[r, g] * (q[r, c] - zero[r, g]) with g = floor(c / group). */
export interface QuantizedRows {
  readonly rows: number;
  readonly cols: number;
  /** Columns that share a scale and a zero. */
  readonly group: GroupSize;
  /** [rows, cols]: 0 to 15 in q4, 0 to 255 in q8. */
  readonly q: Uint8Array;
  /** float16 bits [rows, ceil(cols / group)]. */
  readonly scale: Uint16Array;
  /** [rows, ceil(cols / group)]: any numbers that float16 has, whole ones up to 2048 among them. */
  readonly zero: Float32Array;
}

const { blockCols } = weightLayouts.q4; // the same in q8

/** The largest group size of the kernels that divides a format's, whose scales are then repeated; undefined: none does. */
export function kernelGroup(formatGroup: number): GroupSize | undefined {
  return groupSizes.findLast((size) => formatGroup % size === 0);
}

/** Byte and lowest bit of column c of a packed row. */
export function placeOf(layout: QuantizedLayout, c: number): { readonly byte: number; readonly shift: number } {
  const block = Math.floor(c / blockCols) * weightLayouts[layout].bytesPerBlock;
  const vec = Math.floor((c % blockCols) / 4); // of four neighbouring columns, each in a word of its own
  if (layout === "q8") return { byte: block + 16 * (vec >> 2) + 4 * (c % 4) + (vec & 3), shift: 0 };
  return { byte: block + 4 * (c % 4) + (vec >> 1), shift: 4 * (vec & 1) };
}

/** Packed rows and their scales, for the bindings `weight` and `scales`. */
export function packQuantized(
  layout: QuantizedLayout,
  { rows, cols, group, q, scale, zero }: QuantizedRows,
): { readonly weight: Uint8Array<ArrayBuffer>; readonly scales: Uint8Array<ArrayBuffer> } {
  const stride = rowBytes(layout, cols);
  const paddedCols = Math.ceil(cols / blockCols) * blockCols;
  const groups = Math.ceil(cols / group);
  const places = Array.from({ length: paddedCols }, (_, c) => placeOf(layout, c));
  const weight = new Uint8Array(rows * stride);
  const words = new Uint32Array(rows * groups);
  for (let i = 0; i < words.length; i++) words[i] = (scale[i] ?? 0) | (toHalf(zero[i] ?? 0) << 16);
  const largest = layout === "q4" ? 15 : 255;
  for (let row = 0; row < rows; row++) {
    places.forEach(({ byte, shift }, c) => {
      // Padding contributes nothing, as the input is zero there; the zero itself keeps its values small.
      const padding = Math.max(0, Math.min(largest, Math.round(zero[row * groups + Math.floor(c / group)] ?? 0)));
      const at = row * stride + byte;
      weight[at] = (weight[at] ?? 0) | ((c < cols ? (q[row * cols + c] ?? 0) : padding) << shift);
    });
  }
  return { weight, scales: new Uint8Array(words.buffer) };
}
