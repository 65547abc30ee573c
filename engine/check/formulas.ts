/**
 * The formulas of the kernels in plain float64 loops, more exact than any kernel. Kernels are judged by them: on users'
 * adapters (selfcheck.ts, by way of problems/) and in the tests, where test/reference/ops.ts adds what only tests need.
 * They themselves are judged by numbers made by hand and by the hidden states of published models
 * (test/reference.test.ts); they share nothing with the kernels. All arrays are row-major; results are new.
 */

import type { QuantizedRows } from "../weights/packed.ts";
import { fromHalf } from "../weights/plain.ts";

/** Numbers of any width, row-major. */
export type Numbers = Float64Array | Float32Array;

/** Element `i`, where a read outside the array is a mistake of the caller and not a zero. */
export function at(x: ArrayLike<number>, i: number): number {
  const value = x[i];
  if (value === undefined) throw new RangeError(`index ${i} is outside an array of ${x.length}`);
  return value;
}

/** The sum of products of two arrays of one length. */
export function dot(a: Numbers, b: Numbers): number {
  if (a.length !== b.length) throw new RangeError(`expected arrays of one length, got ${a.length} and ${b.length}`);
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number); // the inner loop of all linears
  return sum;
}

/**
 * LayerNorm (Ba et al. 2016, arXiv 1607.06450): (x - mean) / sqrt(variance + eps) * weight + bias;
 * x [seq, cols], weight and bias [cols].
 */
export function layerNorm(
  x: Numbers,
  weight: Numbers,
  bias: Numbers,
  shape: { readonly seq: number; readonly cols: number; readonly eps: number },
): Float64Array {
  const { seq, cols, eps } = shape;
  const out = new Float64Array(seq * cols);
  for (let t = 0; t < seq; t++) {
    let mean = 0;
    for (let c = 0; c < cols; c++) mean += at(x, t * cols + c) / cols;
    let variance = 0;
    for (let c = 0; c < cols; c++) variance += (at(x, t * cols + c) - mean) ** 2 / cols;
    const scale = 1 / Math.sqrt(variance + eps);
    for (let c = 0; c < cols; c++) {
      out[t * cols + c] = (at(x, t * cols + c) - mean) * scale * at(weight, c) + at(bias, c);
    }
  }
  return out;
}

/** RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467): x / sqrt(mean(x²) + eps) * weight; x [seq, cols], weight [cols]. */
export function rmsNorm(
  x: Numbers,
  weight: Numbers,
  shape: { readonly seq: number; readonly cols: number; readonly eps: number },
): Float64Array {
  const { seq, cols, eps } = shape;
  const out = new Float64Array(seq * cols);
  for (let t = 0; t < seq; t++) {
    let square = 0;
    for (let c = 0; c < cols; c++) square += at(x, t * cols + c) ** 2 / cols;
    const scale = 1 / Math.sqrt(square + eps);
    for (let c = 0; c < cols; c++) out[t * cols + c] = at(x, t * cols + c) * scale * at(weight, c);
  }
  return out;
}

/** The heads of a fused row [q | k | v]: `heads` of q, then `kvHeads` of k, then `kvHeads` of v, `headDim` each. */
export interface HeadShape {
  readonly seq: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Elements of one fused row. */
export function qkvCols(shape: Omit<HeadShape, "seq">): number {
  return (shape.heads + 2 * shape.kvHeads) * shape.headDim;
}

/**
 * LayerNorm with bias over each q head and each k head of fused rows (Phi's qk_layernorm); v passes.
 * qkv [seq, (heads + 2*kvHeads) * headDim]; weights and biases [headDim], the same for every head.
 */
export function headNorm(
  qkv: Numbers,
  norm: { readonly qWeight: Numbers; readonly qBias: Numbers; readonly kWeight: Numbers; readonly kBias: Numbers },
  shape: HeadShape & { readonly eps: number },
): Float64Array {
  const { seq, heads, kvHeads, headDim, eps } = shape;
  const out = Float64Array.from(qkv);
  for (let t = 0; t < seq; t++) {
    for (let h = 0; h < heads + kvHeads; h++) {
      const start = t * qkvCols(shape) + h * headDim;
      const head = out.slice(start, start + headDim);
      const [weight, bias] = h < heads ? [norm.qWeight, norm.qBias] : [norm.kWeight, norm.kBias];
      out.set(layerNorm(head, weight, bias, { seq: 1, cols: headDim, eps }), start);
    }
  }
  return out;
}

/**
 * gelu_new, the tanh form of GELU (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2):
 * 0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x³))).
 */
export function geluNew(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

/** silu: x * sigmoid(x); a gated one is silu(gate) * up (Shazeer 2020, arXiv 2002.05202). */
export function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

/**
 * Phi-3-small's gated GELU: a at most `limit`, b within ±limit, infinities as they are:
 * a sigmoid(1.702 a) (b + 1).
 */
export function gegelu(a: number, b: number, limit: number): number {
  const clamp = (x: number, low: number, high: number) => (Number.isFinite(x) ? Math.min(Math.max(x, low), high) : x);
  const gate = clamp(a, Number.NEGATIVE_INFINITY, limit);
  return (gate / (1 + Math.exp(-1.702 * gate))) * (clamp(b, -limit, limit) + 1);
}

/** Numbers as int8 has them: `values` = step * q, and by element its block's step. */
export interface Int8Blocks {
  readonly values: Float64Array;
  readonly steps: Float64Array;
}

/**
 * x [seq, cols] in symmetric int8 by blocks of 32 columns: a step is 1/127 of the block's largest size, as float32 has it,
 * and at least the smallest normal float32.
 */
export function int8Blocks(x: Numbers, { seq, cols }: { readonly seq: number; readonly cols: number }): Int8Blocks {
  const [values, steps] = [new Float64Array(seq * cols), new Float64Array(seq * cols)];
  for (let t = 0; t < seq; t++) {
    for (let first = 0; first < cols; first += 32) {
      const end = Math.min(first + 32, cols);
      let largest = 0;
      for (let c = first; c < end; c++) largest = Math.max(largest, Math.abs(at(x, t * cols + c)));
      const step = Math.max(Math.fround(largest * Math.fround(1 / 127)), 2 ** -126);
      for (let c = first; c < end; c++) {
        const i = t * cols + c;
        steps[i] = step;
        values[i] = step * Math.round(at(x, i) / step);
      }
    }
  }
  return { values, steps };
}

/** The values [rows, cols] of integers with scales and zeros: scale * (q - zero). */
export function dequantize({ rows, cols, group, q, scale, zero }: QuantizedRows): Float64Array {
  const groups = Math.ceil(cols / group);
  const values = new Float64Array(rows * cols);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const g = row * groups + Math.floor(col / group);
      values[row * cols + col] = fromHalf(at(scale, g)) * (at(q, row * cols + col) - at(zero, g));
    }
  }
  return values;
}

/** Cosines and sines of rotary positions, each [seq, rotary / 2]. */
export interface RopeTable {
  readonly cos: Float64Array;
  readonly sin: Float64Array;
}

/**
 * Rotary embedding (Su et al. 2021, arXiv 2104.09864), rotate-half: dims i and i + rotary/2 of each q and k head turn together; the dims past `rotary`
 * and all of v pass. qkv [seq, (heads + 2*kvHeads) * headDim]; row t takes row t of `table`.
 */
export function rope(qkv: Numbers, table: RopeTable, shape: HeadShape & { readonly rotary: number }): Float64Array {
  const { seq, heads, kvHeads, headDim, rotary } = shape;
  const half = rotary / 2;
  const out = Float64Array.from(qkv);
  for (let t = 0; t < seq; t++) {
    for (let h = 0; h < heads + kvHeads; h++) {
      const start = t * qkvCols(shape) + h * headDim;
      for (let i = 0; i < half; i++) {
        const a = at(qkv, start + i);
        const b = at(qkv, start + half + i);
        const cos = at(table.cos, t * half + i);
        const sin = at(table.sin, t * half + i);
        out[start + i] = a * cos - b * sin;
        out[start + half + i] = b * cos + a * sin;
      }
    }
  }
  return out;
}

/** Whether the query at position i sees the key at j, of those up to its own, in a head. */
export type Sees = (i: number, j: number, head: number) => boolean;

/** Every head sees the last `window` keys, the query's own included; all of them where there is no window. */
export function seesWindow(window: number = Number.POSITIVE_INFINITY): Sees {
  return (i, j) => i - j < window;
}

/**
 * Which keys a query of phi-3-small's sparse layers sees: those of its last `local` blocks of positions, and in head h
 * those of the blocks kb with (kb + h * headStep + 1) % stride = 0.
 */
export function seesBlocks({
  size,
  local,
  stride,
  headStep,
}: {
  readonly size: number;
  readonly local: number;
  readonly stride: number;
  readonly headStep: number;
}): Sees {
  return (i, j, head) => {
    const [qb, kb] = [Math.floor(i / size), Math.floor(j / size)];
    return qb - kb < local || (kb + head * headStep + 1) % stride === 0;
  };
}

/**
 * Causal attention over a cache: q [seq, heads * headDim], k and v [keys, kvHeads * headDim] → [seq, heads * headDim].
 * The queries are the last `seq` of the `keys` positions. Query i sees keys j <= i, in head h if `sees(i, j, h)`. Query
 * head h reads key-value head floor(h / (heads / kvHeads)). `scale` is 1 / sqrt(headDim) where absent.
 */
export function attention(
  q: Numbers,
  k: Numbers,
  v: Numbers,
  shape: HeadShape & {
    readonly keys: number;
    readonly scale?: number;
    readonly sees?: Sees;
  },
): Float64Array {
  const { seq, keys, heads, kvHeads, headDim, sees = seesWindow() } = shape;
  const scale = shape.scale ?? 1 / Math.sqrt(headDim);
  const out = new Float64Array(seq * heads * headDim);
  for (let t = 0; t < seq; t++) {
    const i = keys - seq + t;
    for (let h = 0; h < heads; h++) {
      const visible: number[] = [];
      for (let j = 0; j <= i; j++) if (sees(i, j, h)) visible.push(j);
      const query = (t * heads + h) * headDim;
      const kvHead = Math.floor(h / (heads / kvHeads));
      const row = (of: Numbers, j: number) => {
        const first = (j * kvHeads + kvHead) * headDim;
        return of.subarray(first, first + headDim);
      };
      const scores = visible.map((j) => scale * dot(q.subarray(query, query + headDim), row(k, j)));
      const top = scores.reduce((most, s) => Math.max(most, s), Number.NEGATIVE_INFINITY); // keys may be too many to spread
      const weights = scores.map((s) => Math.exp(s - top));
      const total = weights.reduce((sum, w) => sum + w, 0);
      visible.forEach((j, n) => {
        const weight = at(weights, n) / total;
        const value = row(v, j);
        for (let d = 0; d < headDim; d++) out[query + d] = at(out, query + d) + weight * at(value, d);
      });
    }
  }
  return out;
}

/**
 * Attention whose keys were divided into parts: sums [splits, heads, headDim], each weighed by exp(score - top), followed
 * by [splits, heads, 4] of (top, mass), of which the first `count` parts are there → [heads * headDim]. A single part is
 * divided by its mass already.
 */
export function joinParts(
  parts: Numbers,
  shape: { readonly heads: number; readonly headDim: number; readonly splits: number; readonly count: number },
): Float64Array {
  const { heads, headDim, splits, count } = shape;
  const cols = heads * headDim;
  const out = new Float64Array(cols);
  for (let i = 0; i < cols; i++) {
    if (count === 1) {
      out[i] = at(parts, i);
      continue;
    }
    const stat = (part: number) => splits * cols + (part * heads + Math.floor(i / headDim)) * 4;
    let top = Number.NEGATIVE_INFINITY;
    for (let part = 0; part < count; part++) top = Math.max(top, at(parts, stat(part)));
    let [sum, mass] = [0, 0];
    for (let part = 0; part < count; part++) {
      const fade = Math.exp(at(parts, stat(part)) - top);
      sum += fade * at(parts, part * cols + i);
      mass += fade * at(parts, stat(part) + 1);
    }
    out[i] = sum / mass;
  }
  return out;
}

/**
 * Phi-3.5-MoE's router (sparsemixer, Liu et al. 2023, arXiv 2310.00811, at inference) on the scores [experts] of a token: twice the best of the experts that
 * are left, weighed by the softmax over those of them that are within 2 * jitter of it, relatively.
 */
export function sparsemixer(scores: Numbers, jitter: number): { readonly expert: number; readonly weight: number }[] {
  const left = Array.from(scores);
  return [0, 1].map(() => {
    const best = Math.max(...left);
    const expert = left.indexOf(best);
    const near = left.filter(
      (s) => s > Number.NEGATIVE_INFINITY && (best - s) / Math.max(Math.abs(s), best) <= 2 * jitter,
    );
    const weight = 1 / near.reduce((sum, s) => sum + Math.exp(s - best), 0);
    left[expert] = Number.NEGATIVE_INFINITY;
    return { expert, weight };
  });
}
