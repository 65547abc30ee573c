/** Where a problem's numbers come from, and matrices of them as a kernel reads them. */

import {
  type BoundMatrix,
  type GroupSize,
  matrixWords,
  type PlainLayout,
  type WeightLayout,
  weightLayouts,
} from "../../../kernels/weights/weights.ts";
import { packQuantized } from "../../weights/packed.ts";
import { toHalf } from "../../weights/plain.ts";
import { tiled } from "../../weights/tiles.ts";
import { dequantize, type Numbers } from "../formulas.ts";
import type { Data } from "./problem.ts";

/** Numbers from -1 to 1 in steps of 1/64, which every float format has exactly. */
export function numbers(seed: number, count: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(count);
  let state = seed * 2654435761 + 12345;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out[i] = ((state >>> 16) % 129) / 64 - 1;
  }
  return out;
}

/** Numbers of which sums and products round. */
export function thirds(seed: number, count: number): Float32Array<ArrayBuffer> {
  return numbers(seed, count).map((n) => n / 3);
}

/** Different rows of a large matrix, a prime: they repeat, which saves the host's time and memory. */
export const mostRows = 251;

/** `rows` again and again, until there are `count` words. */
export function repeated<Words extends Data>(rows: Words, count: number): Words {
  if (rows.length >= count) return rows;
  const out = rows instanceof Uint32Array ? new Uint32Array(count) : new Float32Array(count);
  out.set(rows);
  for (let filled = rows.length; filled < count; filled *= 2) out.copyWithin(filled, 0, filled);
  return out as Words;
}

/** Bytes as words. */
export const words = (bytes: Uint8Array) => new Uint32Array(bytes.slice().buffer);

/** The float16 bits of numbers, an even number of them; quick where few of them differ. */
export function encodeHalves(values: Numbers): Uint32Array<ArrayBuffer> {
  const known = new Map<number, number>();
  const out = new Uint16Array(values.length);
  values.forEach((value: number, i: number) => {
    const bits = known.get(value) ?? toHalf(value);
    if (value !== 0) known.set(value, bits); // a Map takes -0 for 0
    out[i] = bits;
  });
  return new Uint32Array(out.buffer);
}

/** Rows [rows, cols] of numbers that a plain layout has exactly, as it has them: padded with zeros to whole blocks. */
export function packPlain(layout: PlainLayout, values: Float32Array, cols: number): Data {
  const rows = values.length / cols;
  const { blockCols } = weightLayouts[layout];
  const stride = Math.ceil(cols / blockCols) * blockCols;
  const padded = new Float32Array(rows * stride);
  for (let row = 0; row < rows; row++) padded.set(values.subarray(row * cols, (row + 1) * cols), row * stride);
  if (layout === "f32") return padded;
  if (layout === "f16") return encodeHalves(padded);
  return new Uint32Array(Uint16Array.from(new Uint32Array(padded.buffer), (bits) => bits >>> 16).buffer);
}

/** A weight's rows that are bound, in each of its parts. */
interface BoundRows extends Omit<BoundMatrix, "packing"> {
  readonly parts: number;
  readonly group?: GroupSize | undefined;
}

/** A weight as a kernel reads it. */
interface PackedMatrix {
  /** The values of a bound row, exact. */
  row(index: number): Numbers;
  /** The bindings `weight`, `scales` and `matrix`. */
  readonly inputs: Readonly<Record<string, Data>>;
}

/** A weight in a layout. */
export function packedMatrix(layout: WeightLayout, bound: BoundRows): PackedMatrix {
  const { rows, parts, cols, group = 64, tileRows = 4 } = bound;
  const all = rows * parts;
  const different = Math.min(all, mostRows);
  const rowOf = (values: Numbers) => (index: number) =>
    values.subarray((index % different) * cols, ((index % different) + 1) * cols);
  const lay = <Words extends Data>(one: Words, itemBytes: number) =>
    tiled(repeated(one, (one.length / different) * all), { rows: all, itemBytes, tileRows });
  const { bytesPerBlock } = weightLayouts[layout];
  if (layout !== "q4" && layout !== "q8") {
    const values = numbers(3, different * cols);
    const weight = lay(packPlain(layout, values, cols), bytesPerBlock);
    return { row: rowOf(values), inputs: { weight, matrix: matrixWords({ ...bound, tileRows }) } };
  }
  const groups = Math.ceil(cols / group);
  const levels = layout === "q4" ? 16 : 256;
  const matrix = {
    ...{ rows: different, cols, group },
    q: Uint8Array.from(numbers(3, different * cols), (n) => Math.floor(((n + 1) / 2.001) * levels)),
    scale: Uint16Array.from(numbers(4, different * groups), (n) => toHalf((n + 2) / levels)),
    zero: numbers(5, different * groups).map((n) => levels / 2 + Math.round(4 * n)),
  };
  const { weight, scales } = packQuantized(layout, matrix);
  return {
    row: rowOf(dequantize(matrix)),
    inputs: {
      weight: lay(words(weight), bytesPerBlock),
      scales: lay(words(scales), 4),
      matrix: matrixWords({ ...bound, tileRows, packing: { layout, group } }),
    },
  };
}
