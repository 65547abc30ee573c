/** Matrices of 4- and 8-bit integers in plain float64 loops. */

import { placeOf, type QuantizedRows } from "../../engine/weights/packed.ts";
import type { ZeroKind } from "../../kernels/loading/quantize.ts";
import { type GroupSize, type QuantizedLayout, rowBytes } from "../../kernels/weights/weights.ts";
import { type NastyMode, randomValues, seededRandom } from "./compare.ts";
import type { ReferenceTensor } from "./fixture.ts";
import { decodeHalf, dequantize, encodeHalf } from "./ops.ts";

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

/** The values [rows, cols] of packed rows (engine/weights/packed.ts). */
export function unpackQuantized(
  layout: QuantizedLayout,
  { weight, scales }: { readonly weight: Uint8Array; readonly scales: Uint8Array },
  { rows, cols, group }: { readonly rows: number; readonly cols: number; readonly group: GroupSize },
): Float64Array {
  const stride = rowBytes(layout, cols);
  const places = Array.from({ length: cols }, (_, c) => placeOf(layout, c));
  const mask = layout === "q4" ? 15 : 255;
  const q = Uint8Array.from({ length: rows * cols }, (_, i) => {
    const { byte = 0, shift = 0 } = places[i % cols] ?? {};
    return ((weight[Math.floor(i / cols) * stride + byte] ?? 0) >> shift) & mask;
  });
  const halves = new Uint16Array(scales.slice().buffer); // of each group its scale and its zero
  const scale = halves.filter((_, i) => i % 2 === 0);
  const zero = Float32Array.from(scale, (_, g) => decodeHalf(halves[2 * g + 1] ?? 0, "f16"));
  return dequantize({ rows, cols, group, q, scale, zero });
}

/** A group's scale and zero, and the sum of squared errors. */
export interface QuantizedGroup {
  readonly scale: number;
  readonly zero: number;
  readonly error: number;
}

/** A matrix as it is after quantizing: each row in groups of 32 columns, with any zeros. */
export function quantizedTensor({ shape, values }: ReferenceTensor, layout: QuantizedLayout): ReferenceTensor {
  const group = 32;
  const [, cols = 0] = shape;
  const levels = layout === "q4" ? 15 : 255;
  const out = values.slice();
  for (let row = 0; row < values.length; row += cols) {
    for (let first = row; first < row + cols; first += group) {
      const end = Math.min(first + group, row + cols);
      const { scale, zero } = searchGroup([...values.subarray(first, end)], layout, "any");
      for (let i = first; i < end; i++) {
        out[i] = scale * (clamp(Math.round((values[i] ?? 0) / scale + zero), 0, levels) - zero);
      }
    }
  }
  return { shape, values: out };
}

/** A number rounded to float16. */
export const half = (value: number) => decodeHalf(encodeHalf(value, "f16"), "f16");
const clamp = (value: number, low: number, high: number) => Math.min(Math.max(value, low), high);
const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);

/** The search of kernels/loading/quantize.wgsl for one group, in float64. */
export function searchGroup(w: readonly number[], layout: QuantizedLayout, zeros: ZeroKind): QuantizedGroup {
  const levels = layout === "q4" ? 15 : 255;
  const middle = (levels + 1) / 2;
  const lowest = Math.min(...w, ...(zeros === "whole" ? [0] : []));
  const highest = Math.max(...w, ...(zeros === "whole" ? [0] : []));
  const centre = zeros === "any" ? (lowest + highest) / 2 : 0;
  const extreme = Math.abs(highest) > Math.abs(lowest) ? highest : lowest;
  const isFlat = highest - lowest <= Math.abs(centre) / 1024;
  let best: QuantizedGroup = { scale: 0, zero: 0, error: Number.POSITIVE_INFINITY };
  for (const shrink of [1, 0.9]) {
    // w - centre = step (q - offset)
    let step = isFlat ? Math.abs(centre) : ((highest - lowest) * shrink) / levels;
    let offset = isFlat ? 0 : levels / 2 - ((lowest + highest) / 2 - centre) / step;
    if (zeros === "middle") [step, offset] = [(-extreme * shrink) / middle, middle];
    for (let turn = 0; turn < 4; turn++) {
      const scale = half(step) || 2 ** -24;
      const wanted = offset - centre / scale;
      const zero = zeros === "whole" ? clamp(Math.round(wanted), 0, levels) : half(wanted);
      const q = w.map((value) => clamp(Math.round(value / scale + zero), 0, levels));
      const error = sum(w.map((value, i) => (value - scale * ((q[i] ?? 0) - zero)) ** 2));
      if (error < best.error) best = { scale, zero, error };
      if (zeros === "any") {
        const [meanQ, meanW] = [sum(q) / w.length, sum(w) / w.length];
        const squares = sum(q.map((value) => (value - meanQ) ** 2));
        const slope = sum(q.map((value, i) => (value - meanQ) * ((w[i] ?? 0) - meanW))) / squares;
        step = squares > 0 && slope > 0 ? slope : scale;
        offset = meanQ - (meanW - centre) / step;
      } else {
        const squares = sum(q.map((value) => (value - zero) ** 2));
        step = squares > 0 ? sum(q.map((value, i) => (value - zero) * (w[i] ?? 0))) / squares : scale;
        offset = zero;
      }
    }
  }
  return best;
}
