/** Matrices of 4- and 8-bit integers in plain float64 loops. */

import type { QuantizedRows } from "../../engine/formats/quantized.ts";
import type { GroupSize, QuantizedLayout } from "../../kernels/weights.ts";
import { type NastyMode, randomValues, seededRandom } from "./compare.ts";
import { decodeHalf, encodeHalf } from "./ops.ts";

/** Random integers over their whole range, whole zeros (to 16 or 256) and others in turn, and scales of a mode. */
export function randomQuantized(
  seed: number,
  layout: QuantizedLayout,
  shape: { readonly rows: number; readonly cols: number; readonly group: GroupSize },
  mode: NastyMode = "normal",
  zeros: "whole" | "any" = "any",
): QuantizedRows {
  const random = seededRandom(seed);
  const levels = layout === "q4" ? 16 : 256;
  const groups = shape.rows * Math.ceil(shape.cols / shape.group);
  const below = (n: number) => Math.floor(random() * n);
  return {
    ...shape,
    q: Uint8Array.from({ length: shape.rows * shape.cols }, () => below(levels)),
    scale: Uint16Array.from(randomValues(seed, groups, mode), (value) => encodeHalf(value / 32, "f16")),
    zero: Float32Array.from(
      { length: groups },
      (_, g) => below(levels + 1) / (zeros === "whole" || g % 2 === 0 ? 1 : 64),
    ),
  };
}

/** scale * (q - zero) [rows, cols]. */
export function valuesOf({ rows, cols, group, q, scale, zero }: QuantizedRows): Float64Array {
  const groups = Math.ceil(cols / group);
  const values = new Float64Array(rows * cols);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const g = row * groups + Math.floor(col / group);
      values[row * cols + col] = decodeHalf(scale[g] ?? 0, "f16") * ((q[row * cols + col] ?? 0) - (zero[g] ?? 0));
    }
  }
  return values;
}
