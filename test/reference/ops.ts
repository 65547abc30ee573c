/**
 * Every op of the engine as plain float64 loops: plainer and more exact than any kernel, to judge the kernels by.
 * All arrays are row-major; results are new Float64Arrays. Nothing here is shared with the kernels.
 */

/** Numbers of any width, row-major. */
export type Numbers = Float64Array | Float32Array;

/** Element `i`, where a read outside the array is a mistake in the test and not a zero. */
function at(x: Numbers, i: number): number {
  const value = x[i];
  if (value === undefined) throw new RangeError(`index ${i} is outside an array of ${x.length}`);
  return value;
}

/** Rows of `table` [vocab, hidden] picked by `ids` → [seq, hidden]. */
export function embed(table: Numbers, ids: readonly number[], shape: { readonly hidden: number }): Float64Array {
  const { hidden } = shape;
  const out = new Float64Array(ids.length * hidden);
  ids.forEach((id, t) => {
    for (let c = 0; c < hidden; c++) out[t * hidden + c] = at(table, id * hidden + c);
  });
  return out;
}

/** LayerNorm: (x - mean) / sqrt(variance + eps) * weight + bias; x [seq, cols], weight and bias [cols]. */
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

/** RMSNorm: x / sqrt(mean(x²) + eps) * weight; x [seq, cols], weight [cols]. */
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

/** gelu_new, the tanh form: 0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x³))). */
export function geluNew(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

/** silu: x * sigmoid(x). */
export function silu(x: number): number {
  return x / (1 + Math.exp(-x));
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

/** Numbers as int8 has them: `values` = step * q, and by element its block's step, and whether 127 x / largest is next to a half. */
export interface Int8Blocks {
  readonly values: Float64Array;
  readonly steps: Float64Array;
  readonly isDoubtful: readonly boolean[];
}

/**
 * x [seq, cols] in symmetric int8 by blocks of 32 columns: a step is 1/127 of the block's largest size, as float32 has it,
 * and at least the smallest normal float32.
 */
export function int8Blocks(x: Numbers, { seq, cols }: { readonly seq: number; readonly cols: number }): Int8Blocks {
  const [values, steps] = [new Float64Array(seq * cols), new Float64Array(seq * cols)];
  const isDoubtful: boolean[] = [];
  for (let t = 0; t < seq; t++) {
    for (let first = 0; first < cols; first += 32) {
      const end = Math.min(first + 32, cols);
      let largest = 0;
      for (let c = first; c < end; c++) largest = Math.max(largest, Math.abs(at(x, t * cols + c)));
      const step = Math.max(Math.fround(largest * Math.fround(1 / 127)), 2 ** -126);
      for (let c = first; c < end; c++) {
        const i = t * cols + c;
        const exact = at(x, i) / step;
        steps[i] = step;
        values[i] = step * Math.round(exact);
        isDoubtful[i] = Math.abs(Math.abs(exact - Math.trunc(exact)) - 0.5) < 1e-4;
      }
    }
  }
  return { values, steps, isDoubtful };
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
      let sum = 0;
      for (let c = 0; c < cols; c++) sum += at(x, t * cols + c) * at(weight, r * cols + c);
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

/**
 * Phi-3-small's gated GELU: u [seq, 2*ffn] holds a and b in turn; a at most `limit`, b within ±limit, infinities as they
 * are: a sigmoid(1.702 a) (b + 1) → [seq, ffn].
 */
export function gegelu(u: Numbers, limit: number): Float64Array {
  const clamp = (x: number, low: number, high: number) => (Number.isFinite(x) ? Math.min(Math.max(x, low), high) : x);
  return Float64Array.from({ length: u.length / 2 }, (_, i) => {
    const a = clamp(at(u, 2 * i), Number.NEGATIVE_INFINITY, limit);
    const b = clamp(at(u, 2 * i + 1), -limit, limit);
    return (a / (1 + Math.exp(-1.702 * a))) * (b + 1);
  });
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
}): (i: number, j: number, head: number) => boolean {
  return (i, j, head) => {
    const [qb, kb] = [Math.floor(i / size), Math.floor(j / size)];
    return qb - kb < local || (kb + head * headStep + 1) % stride === 0;
  };
}

/**
 * Phi-3.5-MoE's router (sparsemixer at inference) on the scores [experts] of a token: twice the best of the experts that
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

/** Cosines and sines of rotary positions, each [seq, rotary / 2]. */
export interface RopeTable {
  readonly cos: Float64Array;
  readonly sin: Float64Array;
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

/**
 * Rotary embedding, rotate-half: dims i and i + rotary/2 of each q and k head turn together; the dims past `rotary`
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

/**
 * Causal attention over a cache: q [seq, heads * headDim], k and v [keys, kvHeads * headDim] → [seq, heads * headDim].
 * The queries are the last `seq` of the `keys` positions. Query i sees keys j with 0 <= i - j (< window where there
 * is one), in head h if `sees(i, j, h)` where that is given. Query head h reads key-value head floor(h / (heads / kvHeads)). `scale` is 1 / sqrt(headDim) where absent.
 */
export function attention(
  q: Numbers,
  k: Numbers,
  v: Numbers,
  shape: HeadShape & {
    readonly keys: number;
    readonly window?: number | undefined;
    readonly scale?: number;
    readonly sees?: ((i: number, j: number, head: number) => boolean) | undefined;
  },
): Float64Array {
  const { seq, keys, heads, kvHeads, headDim, window = Number.POSITIVE_INFINITY, sees = () => true } = shape;
  const scale = shape.scale ?? 1 / Math.sqrt(headDim);
  const out = new Float64Array(seq * heads * headDim);
  for (let t = 0; t < seq; t++) {
    const i = keys - seq + t;
    for (let h = 0; h < heads; h++) {
      const visible: number[] = [];
      for (let j = 0; j <= i; j++) if (i - j < window && sees(i, j, h)) visible.push(j);
      const query = (t * heads + h) * headDim;
      const kvHead = Math.floor(h / (heads / kvHeads));
      const scores = visible.map((j) => {
        let dot = 0;
        for (let d = 0; d < headDim; d++) dot += at(q, query + d) * at(k, (j * kvHeads + kvHead) * headDim + d);
        return dot * scale;
      });
      const top = Math.max(...scores);
      const weights = scores.map((s) => Math.exp(s - top));
      const total = weights.reduce((sum, w) => sum + w, 0);
      for (let d = 0; d < headDim; d++) {
        let sum = 0;
        visible.forEach((j, n) => {
          sum += ((weights[n] ?? 0) / total) * at(v, (j * kvHeads + kvHead) * headDim + d);
        });
        out[query + d] = sum;
      }
    }
  }
  return out;
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

/** Fraction bits, exponent of the smallest normal, and the bits of infinity. */
const halfFormats = {
  f16: { fractionBits: 10, minExponent: -14, infinity: 0x7c00 },
  bf16: { fractionBits: 7, minExponent: -126, infinity: 0x7f80 },
} as const;

/** The 16 bits nearest to `value`, ties to even; overflow gives infinity, a NaN stays a (quiet) NaN. */
export function encodeHalf(value: number, format: HalfFormat): number {
  const { fractionBits, minExponent, infinity } = halfFormats[format];
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  if (Number.isNaN(value)) return infinity | (1 << (fractionBits - 1));
  const size = Math.abs(value);
  if (size === Number.POSITIVE_INFINITY) return sign | infinity;
  let exponent = Math.max(minExponent, Math.floor(Math.log2(size)));
  // log2 may round across a power of two; the true exponent is the one with 2^e <= size < 2^(e+1).
  if (exponent > minExponent && 2 ** exponent > size) exponent--;
  if (2 ** (exponent + 1) <= size) exponent++;
  const steps = size / 2 ** (exponent - fractionBits); // exact: a division by a power of two
  const down = Math.floor(steps);
  const up = steps - down > 0.5 || (steps - down === 0.5 && down % 2 === 1);
  // A subnormal has fewer than 2^fractionBits steps, which cancels the 1 here; a carry grows the exponent by itself.
  const bits = (exponent - minExponent + 1) * 2 ** fractionBits + (down + (up ? 1 : 0) - 2 ** fractionBits);
  return sign | Math.min(bits, infinity);
}

/** The exact value of 16 bits. */
export function decodeHalf(bits: number, format: HalfFormat): number {
  const { fractionBits, minExponent, infinity } = halfFormats[format];
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits & infinity) >> fractionBits;
  const fraction = bits & (2 ** fractionBits - 1);
  if ((bits & infinity) === infinity) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  if (exponent === 0) return sign * fraction * 2 ** (minExponent - fractionBits);
  return sign * (fraction + 2 ** fractionBits) * 2 ** (exponent - 1 + minExponent - fractionBits);
}

/** `encodeHalf` of every element. */
export function encodeHalves(values: Numbers, format: HalfFormat): Uint16Array<ArrayBuffer> {
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) bits[i] = encodeHalf(at(values, i), format);
  return bits;
}

/** `decodeHalf` of every element; both formats fit float32 exactly. */
export function decodeHalves(bits: Uint16Array, format: HalfFormat): Float32Array<ArrayBuffer> {
  return Float32Array.from(bits, (b) => decodeHalf(b, format));
}
