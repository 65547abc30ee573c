/**
 * The engine's ops in float64: the formulas of engine/check/formulas.ts, by which the kernels are checked on users' adapters
 * too, and what tests alone need: whole linears, tables of positions, float16 and bfloat16.
 */

import {
  at,
  dot,
  gegelu,
  geluNew,
  type HeadShape,
  type Int8Blocks,
  type Numbers,
  qkvCols,
  type RopeTable,
  silu,
} from "../../engine/check/formulas.ts";
import { fromHalf, toFloat32, toHalf } from "../../engine/weights/plain.ts";

export * from "../../engine/check/formulas.ts";

/** Rows of `table` [vocab, hidden] picked by `ids` → [seq, hidden]. */
export function embed(table: Numbers, ids: readonly number[], shape: { readonly hidden: number }): Float64Array {
  const { hidden } = shape;
  const out = new Float64Array(ids.length * hidden);
  ids.forEach((id, t) => {
    for (let c = 0; c < hidden; c++) out[t * hidden + c] = at(table, id * hidden + c);
  });
  return out;
}

/** What a linear does with its sum, in this order: add the bias, apply the activation, add the residual. */
export interface LinearOptions {
  /** [rows] */
  readonly bias?: Numbers;
  /** `gatedSilu` takes rows as [gate | up] and gives silu(gate) * up, so half as many columns. */
  readonly activation?: "none" | "gelu_new" | "gatedSilu";
  /** [seq, output columns] */
  readonly residual?: Numbers;
}

/** y = x · weightᵀ: x [seq, cols], weight [rows, cols] → [seq, rows], or [seq, rows / 2] for `gatedSilu`. */
export function linear(
  x: Numbers,
  weight: Numbers,
  shape: { readonly seq: number; readonly rows: number; readonly cols: number },
  options: LinearOptions = {},
): Float64Array {
  const { seq, rows, cols } = shape;
  const sums = new Float64Array(seq * rows);
  for (let t = 0; t < seq; t++) {
    for (let r = 0; r < rows; r++) {
      const sum = dot(x.subarray(t * cols, (t + 1) * cols), weight.subarray(r * cols, (r + 1) * cols));
      sums[t * rows + r] = options.bias ? sum + at(options.bias, r) : sum;
    }
  }
  const activation = options.activation ?? "none";
  let y: Float64Array = sums;
  if (activation === "gelu_new") y = sums.map(geluNew);
  if (activation === "gatedSilu") y = gatedSilu(sums, { seq, ffn: rows / 2 });
  const { residual } = options;
  return residual ? y.map((value, i) => value + at(residual, i)) : y;
}

/** silu(gate) * up: gateUp [seq, 2*ffn] as [gate | up] → [seq, ffn]. */
export function gatedSilu(gateUp: Numbers, shape: { readonly seq: number; readonly ffn: number }): Float64Array {
  const { seq, ffn } = shape;
  const out = new Float64Array(seq * ffn);
  for (let t = 0; t < seq; t++) {
    for (let j = 0; j < ffn; j++) {
      out[t * ffn + j] = silu(at(gateUp, t * 2 * ffn + j)) * at(gateUp, t * 2 * ffn + ffn + j);
    }
  }
  return out;
}

/** Whether a number is next to a half of its step, so that a kernel may round it to either side. */
export function nextToHalves(x: Numbers, { steps }: Int8Blocks): readonly boolean[] {
  return Array.from(x, (value, i) => {
    const exact = value / at(steps, i);
    return Math.abs(Math.abs(exact - Math.trunc(exact)) - 0.5) < 1e-4;
  });
}

/** gegelu of u [seq, 2*ffn], which holds a and b in turn → [seq, ffn]. */
export function gegeluPairs(u: Numbers, limit: number): Float64Array {
  return Float64Array.from({ length: u.length / 2 }, (_, i) => gegelu(at(u, 2 * i), at(u, 2 * i + 1), limit));
}

/**
 * The rotary table: angle = position / (factor_i * theta^(2i / rotary)); cos and sin times `attentionFactor`.
 * `factors` [rotary / 2] are longrope's short or long factors, 1 where absent.
 */
export function ropeTable(options: {
  readonly positions: readonly number[];
  readonly theta: number;
  readonly rotary: number;
  readonly factors?: readonly number[];
  readonly attentionFactor?: number;
}): RopeTable {
  const { positions, theta, rotary, factors, attentionFactor = 1 } = options;
  const half = rotary / 2;
  if (factors && factors.length !== half) throw new RangeError(`expected ${half} factors, got ${factors.length}`);
  const cos = new Float64Array(positions.length * half);
  const sin = new Float64Array(positions.length * half);
  positions.forEach((position, t) => {
    for (let i = 0; i < half; i++) {
      const angle = position / ((factors?.[i] ?? 1) * theta ** ((2 * i) / rotary));
      cos[t * half + i] = Math.cos(angle) * attentionFactor;
      sin[t * half + i] = Math.sin(angle) * attentionFactor;
    }
  });
  return { cos, sin };
}

/** longrope's factor on cos and sin (LongRoPE, arXiv:2402.13753): sqrt(1 + ln(max/original) / ln(original)), at least 1. */
export function longropeAttentionFactor(maxPositions: number, originalPositions: number): number {
  const stretch = maxPositions / originalPositions;
  return stretch <= 1 ? 1 : Math.sqrt(1 + Math.log(stretch) / Math.log(originalPositions));
}

/** A fused [q | k | v] taken apart: q [seq, heads * headDim], k and v [seq, kvHeads * headDim]. */
export function splitQkv(qkv: Numbers, shape: HeadShape): { q: Float64Array; k: Float64Array; v: Float64Array } {
  const { seq, heads, kvHeads, headDim } = shape;
  const part = (from: number, cols: number): Float64Array => {
    const out = new Float64Array(seq * cols);
    for (let t = 0; t < seq; t++) {
      for (let c = 0; c < cols; c++) out[t * cols + c] = at(qkv, t * qkvCols(shape) + from + c);
    }
    return out;
  };
  const qCols = heads * headDim;
  const kvCols = kvHeads * headDim;
  return { q: part(0, qCols), k: part(qCols, kvCols), v: part(qCols + kvCols, kvCols) };
}

/** The index of the largest of each row of x [seq, cols]; ties go to the lowest index. */
export function argmax(x: Numbers, shape: { readonly seq: number; readonly cols: number }): number[] {
  const { seq, cols } = shape;
  return Array.from({ length: seq }, (_, t) => {
    let best = 0;
    for (let c = 1; c < cols; c++) if (at(x, t * cols + c) > at(x, t * cols + best)) best = c;
    return best;
  });
}

/** The element-wise sum of arrays of one length. */
export function add(first: Numbers, ...others: readonly Numbers[]): Float64Array {
  return Float64Array.from(first, (value, i) => others.reduce((sum, x) => sum + at(x, i), value));
}

/** The two 16-bit formats of weights and caches. */
export type HalfFormat = "f16" | "bf16";

/** The 16 bits nearest to `value` (for bf16, to its float32), ties to even; overflow gives infinity, a NaN a quiet one. */
export function encodeHalf(value: number, format: HalfFormat): number {
  if (format === "f16") return toHalf(value);
  if (Number.isNaN(value)) return 0x7fc0;
  const [bits = 0] = new Uint32Array(Float32Array.of(value).buffer);
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The exact value of 16 bits. */
export function decodeHalf(bits: number, format: HalfFormat): number {
  return format === "f16" ? fromHalf(bits) : at(new Float32Array(Uint32Array.of(bits << 16).buffer), 0);
}

/** `encodeHalf` of every element. */
export function encodeHalves(values: Numbers, format: HalfFormat): Uint16Array<ArrayBuffer> {
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) bits[i] = encodeHalf(at(values, i), format);
  return bits;
}

/** `decodeHalf` of every element; both formats fit float32 exactly. */
export function decodeHalves(bits: Uint16Array, format: HalfFormat): Float32Array<ArrayBuffer> {
  const bytes = new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength);
  return toFloat32(bytes, format === "f16" ? "F16" : "BF16");
}
