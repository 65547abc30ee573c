/**
 * The kernels of a model on this very device against float64 loops, on operands so small that all of them take less than
 * a second or two: drivers compile some kernels wrongly, and a model on top of that writes fluent nonsense. Shapes are
 * data to most kernels, so what is checked are the pipelines that the model runs, constants and variants included.
 */

import { headVecs, type KvFormat } from "../kernels/attention.ts";
import type { Kernel } from "../kernels/kernel.ts";
import { markBytes, stateWords } from "../kernels/next.ts";
import { type GroupSize, groupShift, permutationBytes, type WeightLayout, weightLayouts } from "../kernels/weights.ts";
import { controlOf } from "./control.ts";
import type { Device, DeviceBuffer } from "./device.ts";
import { fromHalf, toHalf } from "./formats/plain.ts";
import { packQuantized, unpackQuantized } from "./formats/quantized.ts";
import type { Pipelines } from "./pipelines.ts";
import { createSampler, type SamplingOptions } from "./sampler.ts";

/** What came of a kernel's check. */
export interface KernelCheck {
  /** e.g. `matvec<q4,bias>` */
  readonly kernel: string;
  /** Largest difference from float64, in units of what is allowed: right up to 1. */
  readonly error: number;
  /** Compiling included, where this is the kernel's first run. */
  readonly ms: number;
}

type Data = Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** A small instance of a kernel's work. */
interface Problem {
  readonly seq: number;
  readonly past: number;
  readonly kvRows: number;
  /** By the name of the variable in the WGSL file; outputs hold what a kernel that writes nothing leaves. */
  readonly inputs: Readonly<Record<string, Data>>;
  readonly outputs: Readonly<Record<string, Output>>;
  /** Workgroups in x at least: a kernel's own grid may be for fewer rows than the problem has. */
  readonly leastWorkgroups?: number;
  /** Inputs that are bound at their exact length, from which a kernel takes the number of columns. */
  readonly vectors?: readonly string[];
}

interface Output {
  readonly words: number;
  readonly expected: ArrayLike<number>;
  /** Numbers of the words, where they are not float32 as they lie. */
  readonly read?: (words: Uint32Array) => ArrayLike<number>;
  /** Absolute difference allowed where the largest number is 1. */
  readonly tolerance: number;
}

/** Drivers' exp, tanh and division are within 1e-5; sums of some hundred products in any order are, too. */
const tolerance = 1e-4;

/** Numbers from -1 to 1 in steps of 1/64, which every format here has exactly. */
function numbers(seed: number, count: number): Float32Array<ArrayBuffer> {
  let state = seed * 2654435761 + 12345;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return ((state >>> 16) % 129) / 64 - 1;
  });
}

const at = (values: ArrayLike<number>, index: number): number => values[index] ?? Number.NaN;

function constant(kernel: Kernel, name: string): number {
  const value = kernel.constants[name];
  if (value === undefined) throw new Error(`${kernel.name}: no constant ${name}`);
  return value;
}

/** Whether one of the kernel's snippets has this name. */
const has = (kernel: Kernel, snippet: string) => kernel.files.some((url) => url.pathname.endsWith(snippet));

/** The words between the angle brackets of a kernel's name. */
const variant = (kernel: Kernel) => (/<(.*)>/.exec(kernel.name)?.[1] ?? "").split(",");

interface Packed {
  /** [rows, cols], exact. */
  readonly values: ArrayLike<number>;
  readonly inputs: Readonly<Record<string, Data>>;
}

const words = (bytes: Uint8Array) => new Uint32Array(bytes.slice().buffer);

/** A matrix in a layout, of `parts` times `rows` rows, as a binding of its rows from `first` on of `rowsTotal`. */
function packed(layout: WeightLayout, rows: number, parts: number, cols: number, first = 0, rowsTotal = rows): Packed {
  const all = rows * parts;
  const uniform = (shift: number) => Uint32Array.of(first, rows, rowsTotal, cols, shift, 0, 0, 0);
  if (layout === "q4" || layout === "q8") {
    const group: GroupSize = 64;
    const groups = Math.ceil(cols / group);
    const most = layout === "q4" ? 16 : 256;
    const q = Uint8Array.from(numbers(3, all * cols), (n) => Math.floor(((n + 1) / 2.001) * most));
    const scale = Uint16Array.from(numbers(4, all * groups), (n) => toHalf((n + 2) / most));
    const zero = numbers(5, all * groups).map((n) => most / 2 + Math.round(4 * n));
    const matrix = packQuantized(layout, { rows: all, cols, group, q, scale, zero });
    return {
      values: unpackQuantized(layout, matrix, { rows: all, cols, group }),
      inputs: {
        weight: words(matrix.weight),
        scales: words(matrix.scales),
        matrix: uniform(groupShift({ layout, group })),
      },
    };
  }
  const values = numbers(3, all * cols);
  const stride = Math.ceil(cols / weightLayouts[layout].blockCols) * weightLayouts[layout].blockCols;
  const padded = new Float32Array(all * stride);
  for (let row = 0; row < all; row++) padded.set(values.subarray(row * cols, (row + 1) * cols), row * stride);
  if (layout === "f32") return { values, inputs: { weight: padded, matrix: uniform(0) } };
  const bits = new Uint32Array(padded.buffer);
  const halves = Uint16Array.from(padded, (n, i) => (layout === "f16" ? toHalf(n) : at(bits, i) >>> 16));
  return { values, inputs: { weight: new Uint32Array(halves.buffer), matrix: uniform(0) } };
}

const silu = (n: number) => n / (1 + Math.exp(-n));
const geluNew = (n: number) => 0.5 * n * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (n + 0.044715 * n ** 3)));

function linear(kernel: Kernel): Problem {
  const [form = "", epilogue = ""] = variant(kernel);
  const [layout, order] = form.split(" ") as [WeightLayout, string?];
  const joined = order === "joined" ? dividedAt(kernel) : undefined;
  const seq = kernel.name.startsWith("matvec") ? 1 : 5;
  const parts = epilogue === "gated_silu" || epilogue === "bias_gegelu" ? 2 : 1;
  const rows = 37;
  const cols = joined
    ? constant(kernel, "HEADS") * constant(kernel, "HEAD_DIM")
    : has(kernel, "/aligned.wgsl")
      ? 256
      : 203;
  const { values, inputs } = packed(layout, rows, parts, cols);
  const given = numbers(1, joined ? joined.splits * (cols + 4 * constant(kernel, "HEADS")) : seq * cols);
  if (joined) for (let i = joined.splits * cols; i < given.length; i++) given[i] = 2 + at(given, i); // (top, mass)
  const x = joined
    ? joinParts(given, constant(kernel, "HEADS"), constant(kernel, "HEAD_DIM"), joined.splits, joined.count)
    : given;
  const bias = numbers(6, rows * parts);
  const residual = numbers(7, seq * rows);
  const mask = numbers(8, rows);
  // Stored column k belongs to input cols - 1 - k; the padding's entries lie past the input.
  const perm =
    order === "permuted"
      ? Uint32Array.from({ length: permutationBytes("q4", cols) / 4 }, (_, k) => (k < cols ? cols - 1 - k : k))
      : undefined;

  const sum = (token: number, row: number): number => {
    let total = 0;
    for (let k = 0; k < cols; k++) {
      total += at(values, row * cols + k) * at(x, token * cols + (perm === undefined ? k : cols - 1 - k));
    }
    return total;
  };
  const result = (token: number, row: number): number => {
    const first = sum(token, row);
    switch (epilogue) {
      case "none":
        return first;
      case "bias":
        return first + at(bias, row);
      case "residual":
        return at(residual, token * rows + row) + first;
      case "bias_residual":
        return at(residual, token * rows + row) + first + at(bias, row);
      case "bias_gelu":
        return geluNew(first + at(bias, row));
      case "gated_silu":
        return silu(first) * sum(token, rows + row);
      case "scale_mask":
        return constant(kernel, "SCALE") * first + at(mask, row);
      case "bias_gegelu": {
        const limit = constant(kernel, "LIMIT");
        const a = Math.min(first + at(bias, row), limit);
        const b = Math.max(-limit, Math.min(limit, sum(token, rows + row) + at(bias, rows + row)));
        return (a / (1 + Math.exp(-1.702 * a))) * (b + 1);
      }
      default:
        throw new Error(`${kernel.name}: no reference for its epilogue`);
    }
  };
  const expected = Array.from({ length: seq * rows }, (_, i) => result(Math.floor(i / rows), i % rows));
  return {
    seq,
    past: joined?.past ?? 0,
    kvRows: 1,
    inputs: { x: given, ...inputs, bias, residual, mask, ...(perm && { perm }) },
    outputs: { y: { words: seq * rows, expected, tolerance } },
    leastWorkgroups: Math.ceil(rows / 4), // four rows or more each
  };
}

function embed(kernel: Kernel): Problem {
  const [layout = "f32"] = variant(kernel) as WeightLayout[];
  const [rows, cols, seq] = [11, 72, 4];
  const { values, inputs } = packed(layout, rows, 1, cols);
  const ids = Uint32Array.of(3, 0, 10, 3);
  const expected = Array.from(
    { length: seq * cols },
    (_, i) => constant(kernel, "SCALE") * at(values, at(ids, Math.floor(i / cols)) * cols + (i % cols)),
  );
  const outputs = { x: { words: seq * cols, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { ids, ...inputs }, outputs };
}

function lastRow(kernel: Kernel): Problem {
  const cols = constant(kernel, "COLS");
  const x = numbers(1, 3 * cols);
  const outputs = { y: { words: cols, expected: x.subarray(2 * cols), tolerance: 0 } };
  return { seq: 3, past: 0, kvRows: 1, inputs: { x }, outputs };
}

/** LayerNorm, or RMSNorm without a bias, of a row. */
function normed(row: ArrayLike<number>, gain: ArrayLike<number>, bias: ArrayLike<number> | undefined, eps: number) {
  const values = Array.from(row);
  const mean = bias === undefined ? 0 : values.reduce((sum, n) => sum + n, 0) / values.length;
  const variance = values.reduce((sum, n) => sum + (n - mean) ** 2, 0) / values.length;
  return values.map((n, i) => ((n - mean) / Math.sqrt(variance + eps)) * at(gain, i) + (bias ? at(bias, i) : 0));
}

function norm(kernel: Kernel): Problem {
  const [workgroups] = kernel.grid(3);
  const [seq, cols] = [Math.min(3, workgroups), 200]; // one in all, where only the last token's row is normed
  const x = numbers(1, seq * cols);
  const gain = numbers(2, cols);
  const bias = kernel.name.startsWith("layerNorm") ? numbers(3, cols) : undefined;
  const rows = Array.from({ length: seq }, (_, t) => x.subarray(t * cols, (t + 1) * cols));
  const expected = rows.flatMap((row) => normed(row, gain, bias, constant(kernel, "EPS")));
  const inputs = { x, gain, ...(bias && { bias }) };
  const outputs = { y: { words: seq * cols, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs, outputs, vectors: Object.keys(inputs).slice(1) };
}

function heads(kernel: Kernel) {
  const [count, kvHeads, headDim] = ["HEADS", "KV_HEADS", "HEAD_DIM"].map((name) => constant(kernel, name));
  if (count === undefined || kvHeads === undefined || headDim === undefined) throw new Error(kernel.name);
  return { heads: count, kvHeads, headDim, all: count + 2 * kvHeads, vecs: headVecs(headDim) };
}

function headNorm(kernel: Kernel): Problem {
  const { heads: queries, kvHeads, headDim, all } = heads(kernel);
  const seq = 2;
  const qkv = numbers(1, seq * all * headDim);
  const [qGain, qBias, kGain, kBias] = [
    numbers(2, headDim),
    numbers(3, headDim),
    numbers(4, headDim),
    numbers(5, headDim),
  ];
  const expected = Array.from({ length: seq * all }, (_, i) => {
    const head = qkv.subarray(i * headDim, (i + 1) * headDim);
    if (i % all >= queries + kvHeads) return [...head];
    const [gain, bias] = i % all < queries ? [qGain, qBias] : [kGain, kBias];
    return normed(head, gain, bias, constant(kernel, "EPS"));
  }).flat();
  const outputs = { y: { words: qkv.length, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { qkv, qGain, qBias, kGain, kBias }, outputs };
}

/** Words of a head at a position: its packs, and the scale behind them where the format has one. */
function cacheWords(kv: KvFormat, vecs: number): number {
  return kv === "f32" ? 4 * vecs : kv === "f16" ? 2 * vecs : vecs + 1;
}

/** Heads [count, 4 vecs] of a cache → its words. Numbers are multiples of 1/64 up to 1, so all formats are exact. */
function packHeads(kv: KvFormat, values: Float32Array, vecs: number): Uint32Array<ArrayBuffer> {
  if (kv === "f32") return new Uint32Array(values.slice().buffer);
  if (kv === "f16") return new Uint32Array(Uint16Array.from(values, toHalf).buffer);
  const stride = cacheWords(kv, vecs);
  const out = new Uint32Array((values.length / (4 * vecs)) * stride);
  const floats = new Float32Array(out.buffer);
  const codes = new Int8Array(out.buffer);
  for (let head = 0; head < out.length / stride; head++) {
    for (let i = 0; i < 4 * vecs; i++) codes[head * stride * 4 + i] = 64 * at(values, head * 4 * vecs + i);
    floats[head * stride + vecs] = 1 / 64;
  }
  return out;
}

/** The words of a cache → heads [count, 4 vecs]. */
function unpackHeads(kv: KvFormat, packs: Uint32Array, vecs: number): Float32Array {
  if (kv === "f32") return new Float32Array(packs.slice().buffer);
  const bytes = new Uint8Array(packs.slice().buffer);
  if (kv === "f16") {
    const halves = new Uint16Array(bytes.buffer);
    return Float32Array.from(halves, fromHalf);
  }
  const stride = cacheWords(kv, vecs);
  const floats = new Float32Array(bytes.buffer);
  const codes = new Int8Array(bytes.buffer);
  return Float32Array.from({ length: (packs.length / stride) * 4 * vecs }, (_, i) => {
    const head = Math.floor(i / (4 * vecs));
    return at(codes, head * stride * 4 + (i % (4 * vecs))) * at(floats, head * stride + vecs);
  });
}

/** Rounding of a cache format, for numbers up to 1.5. */
const cacheTolerance: Readonly<Record<KvFormat, number>> = { f32: tolerance, f16: 2 ** -10, int8: 1 / 120 };

/** A [count, headDim] as [count, 4 vecs], padded with zeros. */
function padHeads(values: ArrayLike<number>, headDim: number, vecs: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array((values.length / headDim) * 4 * vecs);
  for (let i = 0; i < values.length; i++) {
    out[Math.floor(i / headDim) * 4 * vecs + (i % headDim)] = at(values, i);
  }
  return out;
}

/** Fused rows [seq, all heads] at positions past …, their first `turning` heads rotated by a table of (cos, sin). */
function rotated(kernel: Kernel, qkv: Float32Array, past: number, turning: number) {
  const { headDim, all } = heads(kernel);
  const half = constant(kernel, "ROTARY") / 2;
  const count = qkv.length / headDim;
  const table = numbers(2, (past + count / all) * half * 2);
  const turned = Float64Array.from(qkv);
  for (let head = 0; head < count; head++) {
    if (head % all >= turning) continue;
    const position = past + Math.floor(head / all);
    for (let i = 0; i < half; i++) {
      const [low, high] = [at(qkv, head * headDim + i), at(qkv, head * headDim + half + i)];
      const [cos, sin] = [at(table, (position * half + i) * 2), at(table, (position * half + i) * 2 + 1)];
      turned[head * headDim + i] = low * cos - high * sin;
      turned[head * headDim + half + i] = high * cos + low * sin;
    }
  }
  return { table, turned };
}

function ropeAppend(kernel: Kernel): Problem {
  const [kv = "f32"] = variant(kernel) as KvFormat[];
  const { heads: queries, kvHeads, headDim, all, vecs } = heads(kernel);
  const [seq, past, kvRows] = [2, 3, 5];
  const qkv = numbers(1, seq * all * headDim);
  const { table, turned } = rotated(kernel, qkv, past, queries + kvHeads);
  const rows = padHeads(turned, headDim, vecs); // [seq, all, 4 vecs]
  const headAt = (token: number, head: number) => rows.subarray((token * all + head) * 4 * vecs, (token * all + head + 1) * 4 * vecs); // biome-ignore format: one line
  const q = Array.from({ length: seq * queries }, (_, i) => [...headAt(Math.floor(i / queries), i % queries)]).flat();
  // Positions 3 and 4 of five; the others stay as they were, which is zero.
  const cache = (first: number) => {
    const expected = new Float32Array(kvHeads * kvRows * 4 * vecs);
    for (let head = 0; head < kvHeads; head++) {
      for (let t = 0; t < seq; t++) expected.set(headAt(t, first + head), (head * kvRows + past + t) * 4 * vecs);
    }
    return {
      words: kvHeads * kvRows * cacheWords(kv, vecs),
      expected,
      read: (found: Uint32Array) => unpackHeads(kv, found, vecs),
      tolerance: cacheTolerance[kv],
    };
  };
  const outputs = {
    q: { words: q.length, expected: q, tolerance },
    keys: cache(queries),
    values: cache(queries + kvHeads),
  };
  return { seq, past, kvRows, inputs: { qkv, table }, outputs };
}

/** Whether a query sees a key at or before it. */
function sees(kernel: Kernel, head: number, query: number, key: number): boolean {
  if (has(kernel, "/window.wgsl")) return query - key < constant(kernel, "WINDOW");
  const size = constant(kernel, "KEY_BLOCK");
  const [own, block] = [Math.floor(query / size), Math.floor(key / size)];
  const isOfStride = (block + head * constant(kernel, "HEAD_STEP") + 1) % constant(kernel, "STRIDE") === 0;
  return own - block < constant(kernel, "LOCAL_BLOCKS") || isOfStride;
}

/** Softmax attention of one query on keys and values [keyCount, headDim]. */
function attend(
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  visible: readonly number[],
  headDim: number,
  scale: number,
): number[] {
  const weights = visible.map((key) => {
    let dot = 0;
    for (let d = 0; d < headDim; d++) dot += at(q, d) * at(k, key * headDim + d);
    return Math.exp(dot * scale);
  });
  const mass = weights.reduce((sum, weight) => sum + weight, 0);
  return Array.from({ length: headDim }, (_, d) =>
    visible.reduce((sum, key, n) => sum + (at(weights, n) / mass) * at(v, key * headDim + d), 0),
  );
}

function attention(kernel: Kernel): Problem {
  const [kv = "f32"] = variant(kernel) as KvFormat[];
  const { heads: queries, kvHeads, headDim, vecs } = heads(kernel);
  const [seq, past] = [2, 69];
  const keyCount = past + seq;
  const scale = constant(kernel, "SCALE");
  const q = numbers(1, seq * queries * headDim);
  const [k, v] = [numbers(2, kvHeads * keyCount * headDim), numbers(3, kvHeads * keyCount * headDim)];
  const expected = Array.from({ length: seq * queries }, (_, i) => {
    const [query, head] = [past + Math.floor(i / queries), i % queries];
    const first = Math.floor(head / (queries / kvHeads)) * keyCount * headDim;
    const [keys, values] = [
      k.subarray(first, first + keyCount * headDim),
      v.subarray(first, first + keyCount * headDim),
    ];
    const visible = Array.from({ length: query + 1 }, (_, key) => key).filter((key) => sees(kernel, head, query, key));
    return attend(q.subarray(i * headDim, (i + 1) * headDim), keys, values, visible, headDim, scale);
  }).flat();
  const inputs = {
    q: padHeads(q, headDim, vecs),
    keys: packHeads(kv, padHeads(k, headDim, vecs), vecs),
    values: packHeads(kv, padHeads(v, headDim, vecs), vecs),
  };
  return { seq, past, kvRows: keyCount, inputs, outputs: { o: { words: expected.length, expected, tolerance } } };
}

/** Where the keys of a single token are divided, a position at which two parts have some. */
function dividedAt(kernel: Kernel): { readonly past: number; readonly splits: number; readonly count: number } {
  const [splits = 1, span] = [kernel.tile.SPLITS, constant(kernel, "SPAN")];
  const past = splits === 1 ? 69 : span + 36;
  const seen = Math.min(past + 1, constant(kernel, "SEEN"));
  return { past, splits, count: Math.ceil(seen / Math.max(span, Math.ceil(seen / splits))) };
}

/** The output of attention in parts [splits, heads, headDim], each with (top, mass), put together. */
function joinParts(parts: ArrayLike<number>, heads: number, headDim: number, splits: number, count: number): number[] {
  const all = Array.from({ length: count }, (_, part) => part);
  return Array.from({ length: heads * headDim }, (_, i) => {
    if (count === 1) return at(parts, i);
    const stat = (part: number) => splits * heads * headDim + (part * heads + Math.floor(i / headDim)) * 4;
    const top = Math.max(...all.map((part) => at(parts, stat(part))));
    const fades = all.map((part) => Math.exp(at(parts, stat(part)) - top));
    const mass = all.reduce((sum, part) => sum + at(fades, part) * at(parts, stat(part) + 1), 0);
    return all.reduce((sum, part) => sum + at(fades, part) * at(parts, part * heads * headDim + i), 0) / mass;
  });
}

function decodeAttention(kernel: Kernel): Problem {
  const [kv = "f32"] = variant(kernel) as KvFormat[];
  const { heads: queries, kvHeads, headDim, all, vecs } = heads(kernel);
  const { past, splits, count } = dividedAt(kernel);
  const keyCount = past + 1;
  const qkv = numbers(1, all * headDim);
  const { table, turned } = rotated(kernel, qkv, past, queries + kvHeads);
  // The cache holds what came before; the new key and value are compared where they are appended.
  const append = (seed: number, firstHead: number) => {
    const cache = numbers(seed, kvHeads * keyCount * headDim);
    const inputs = packHeads(kv, padHeads(cache, headDim, vecs), vecs);
    const whole = Float64Array.from(cache);
    for (let head = 0; head < kvHeads; head++) {
      const own = turned.subarray((firstHead + head) * headDim, (firstHead + head + 1) * headDim);
      whole.set(own, (head * keyCount + past) * headDim);
    }
    const output: Output = {
      words: inputs.length,
      expected: padHeads(whole, headDim, vecs),
      read: (found) => unpackHeads(kv, found, vecs),
      tolerance: cacheTolerance[kv],
    };
    return { inputs, whole, output };
  };
  const [k, v] = [append(3, queries), append(4, queries + kvHeads)];
  const expected = Array.from({ length: queries }, (_, head) => {
    const first = Math.floor(head / (queries / kvHeads)) * keyCount * headDim;
    const part = (cache: Float64Array) => cache.subarray(first, first + keyCount * headDim);
    const visible = Array.from({ length: keyCount }, (_, key) => key).filter((key) => sees(kernel, head, past, key));
    const q = turned.subarray(head * headDim, (head + 1) * headDim);
    return attend(q, part(k.whole), part(v.whole), visible, headDim, constant(kernel, "SCALE"));
  }).flat();
  const words = splits === 1 ? queries * headDim : splits * queries * (headDim + 4);
  const read = (found: Uint32Array) => joinParts(new Float32Array(found.buffer), queries, headDim, splits, count);
  // What is read back was rounded to the cache's format.
  const outputs = { o: { words, expected, read, tolerance: cacheTolerance[kv] }, keys: k.output, values: v.output };
  return { seq: 1, past, kvRows: keyCount, inputs: { qkv, table, keys: k.inputs, values: v.inputs }, outputs };
}

/** The draw of a token: `sampling` on logits whose best two are far apart. */
function chooser(sampling: SamplingOptions): Problem {
  const [vocab, prompt] = [3000, [1, 5, 2100]];
  const logits = numbers(1, vocab).map((n) => 3 * n);
  logits[2100] = 4; // the prompt's, which a repetition penalty weakens
  logits[2999] = 3.5;
  const { words: control, marks } = controlOf({ sampling, seed: 7n, stopIds: [] }, prompt, vocab);
  const id = createSampler({ ...sampling, seed: 7n }, vocab).sample(logits, { prompt, generated: [] });
  const outputs = { ids: { words: 1, expected: [id], read: (found: Uint32Array) => found, tolerance: 0 } };
  const inputs = { logits, control, marks: marks ?? new Uint32Array((vocab * markBytes) / 4) };
  return { seq: 1, past: 0, kvRows: 1, inputs, outputs };
}

/** One expert's rows, or the first of them, are bound; the choices of others are another dispatch's. */
function expertLinear(kernel: Kernel): Problem {
  const [layout = "f32", epilogue = ""] = variant(kernel) as [WeightLayout, string];
  const isMatvec = kernel.name.startsWith("expertMatvec");
  const seq = isMatvec ? 1 : 5;
  const parts = epilogue === "gated_silu" ? 2 : 1;
  const expertRows = constant(kernel, "EXPERT_ROWS");
  const perX = constant(kernel, "CHOICES_PER_X");
  const experts = isMatvec ? 2 : constant(kernel, "EXPERTS");
  const rows = Math.min(37, expertRows);
  const cols = has(kernel, "/aligned.wgsl") ? 256 : 203;
  const { values, inputs } = packed(layout, rows, parts, cols, expertRows, experts * expertRows);
  const x = numbers(1, ((2 * seq) / perX) * cols);
  // Every token takes expert 1, as its first or as its second.
  const weights = numbers(2, 2 * seq);
  const routing = Float32Array.from({ length: 4 * seq }, (_, i) => {
    const choice = i >> 1;
    return i % 2 === 0 ? ((choice >> 1) + choice + 1) % 2 : at(weights, choice);
  });
  const chosen = Array.from({ length: 2 * seq }, (_, choice) => choice).filter(
    (choice) => at(routing, 2 * choice) === 1,
  );
  const groups = new Uint32Array(experts + experts * seq);
  for (const expert of [0, 1]) {
    const own = Array.from({ length: 2 * seq }, (_, c) => c).filter((choice) => at(routing, 2 * choice) === expert);
    groups[expert] = own.length;
    groups.set(own, experts + expert * seq);
  }
  const expected = new Float64Array(2 * seq * expertRows);
  for (const choice of chosen) {
    const sum = (row: number) => {
      let total = 0;
      for (let k = 0; k < cols; k++) {
        total += at(values, row * cols + k) * at(x, Math.floor(choice / perX) * cols + k);
      }
      return total;
    };
    for (let row = 0; row < rows; row++) {
      const result = parts === 2 ? silu(sum(row)) * sum(rows + row) : at(weights, choice) * sum(row);
      expected[choice * expertRows + row] = result;
    }
  }
  const outputs = { y: { words: expected.length, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { x, ...inputs, routing, groups }, outputs };
}

function sparsemixer(kernel: Kernel): Problem {
  const [seq, experts, threshold] = [3, constant(kernel, "EXPERTS"), constant(kernel, "THRESHOLD")];
  // No two are alike, so that no rounding decides.
  const scores = Float32Array.from({ length: seq * experts }, (_, i) => 1 + ((i * 7) % experts) / 8 + i / 4096);
  const expected = Array.from({ length: seq }, (_, token) => {
    const own = Array.from(scores.subarray(token * experts, (token + 1) * experts));
    const choose = (taken: number): [number, number] => {
      const left = own.map((score, e) => (e === taken ? Number.NEGATIVE_INFINITY : score));
      const best = Math.max(...left);
      const near = left.filter((score) => best - score <= threshold * Math.max(Math.abs(score), best));
      return [left.indexOf(best), 1 / near.reduce((sum, score) => sum + Math.exp(score - best), 0)];
    };
    const first = choose(-1);
    return [...first, ...choose(first[0])];
  }).flat();
  const outputs = { routing: { words: expected.length, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { scores }, outputs };
}

function groupByExpert(kernel: Kernel): Problem {
  const [seq, experts] = [7, constant(kernel, "EXPERTS")];
  const chosen = Array.from({ length: 2 * seq }, (_, choice) => (choice * 5) % experts);
  const routing = Float32Array.from({ length: 4 * seq }, (_, i) => (i % 2 === 0 ? at(chosen, i >> 1) : 1));
  const expected = new Uint32Array(experts + experts * seq);
  for (const [choice, expert] of chosen.entries()) {
    expected[experts + expert * seq + at(expected, expert)] = choice;
    expected[expert] = at(expected, expert) + 1;
  }
  const read = (found: Uint32Array) => found;
  const outputs = { groups: { words: expected.length, expected, read, tolerance: 0 } };
  return { seq, past: 0, kvRows: 1, inputs: { routing }, outputs };
}

function expertSum(kernel: Kernel): Problem {
  const [seq, cols] = [2, constant(kernel, "COLS")];
  const x = numbers(1, 2 * seq * cols);
  const residual = numbers(2, seq * cols);
  const expected = residual.map((n, i) => {
    const first = Math.floor(i / cols) * 2 * cols + (i % cols);
    return n + at(x, first) + at(x, first + cols);
  });
  const outputs = { y: { words: seq * cols, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { x, residual }, outputs };
}

const problems: Readonly<Record<string, (kernel: Kernel) => Problem>> = {
  argmax: () => chooser({}),
  attention,
  decodeAttention,
  embed,
  expertMatmul: expertLinear,
  expertMatvec: expertLinear,
  expertSum,
  groupByExpert,
  headNorm,
  lastRow,
  layerNorm: norm,
  matmul: linear,
  matvec: linear,
  rmsNorm: norm,
  ropeAppend,
  sample: () => chooser({ temperature: 0.8, topK: 200, topP: 0.9, minP: 0.01, repetitionPenalty: 1.3 }),
  sparsemixer,
};

/** Whether there is a reference for this kernel. */
export function canCheck(kernel: Kernel): boolean {
  return (/^\w+/.exec(kernel.name)?.[0] ?? "") in problems;
}

/** The kernels that differ in name, text or constants. */
export function distinctKernels(kernels: readonly Kernel[]): readonly Kernel[] {
  const byKey = new Map(kernels.map((kernel) => [kernelKey(kernel), kernel]));
  return [...byKey.values()];
}

/** Identifies a kernel's specialisation. */
export function kernelKey({ name, files, constants, tile }: Kernel): string {
  return JSON.stringify([name, files.map(({ pathname }) => pathname.split("/").at(-1)), constants, tile]);
}

/** Runs a kernel on its small problem and compares. Throws a PhiError where the device fails, an Error for an unknown kernel. */
export async function checkKernel(device: Device, pipelines: Pipelines, kernel: Kernel): Promise<KernelCheck> {
  const began = performance.now();
  const problemOf = problems[/^\w+/.exec(kernel.name)?.[0] ?? ""];
  if (problemOf === undefined) throw new Error(`${kernel.name}: no reference`);
  const { seq, past, kvRows, inputs, outputs, vectors = [], leastWorkgroups = 1 } = problemOf(kernel);
  const pipeline = await pipelines.get(kernel);
  const buffers: DeviceBuffer[] = [];
  const make = (label: string, bytes: number, usage: GPUBufferUsageFlags) => {
    const buffer = device.createBuffer(`check ${label}`, bytes, usage);
    buffers.push(buffer);
    return buffer;
  };
  try {
    const state = new Uint32Array(stateWords.all);
    state[stateWords.past] = past;
    state[stateWords.seq] = seq;
    state[stateWords.kvRows] = kvRows;
    const bound = new Map<string, GPUBufferBinding>();
    const results: { readonly name: string; readonly output: Output; readonly buffer: DeviceBuffer }[] = [];
    for (const { name, type } of pipeline.bindings) {
      const output = outputs[name];
      const data: Data | undefined =
        name === "state" ? state : (inputs[name] ?? (output && new Uint32Array(output.words)));
      if (data === undefined) throw new Error(`${kernel.name}: the check has nothing for "${name}"`);
      const usage = type === "uniform" ? GPUBufferUsage.UNIFORM : GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
      const buffer = make(name, data.byteLength, usage | GPUBufferUsage.COPY_DST);
      device.writeBuffer(buffer, 0, data);
      bound.set(name, { buffer: buffer.gpu, ...(vectors.includes(name) && { size: data.byteLength }) });
      if (output !== undefined) results.push({ name, output, buffer });
    }
    const encoder = device.createCommandEncoder(`check ${kernel.name}`);
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline.gpu);
    pipeline.layouts.forEach((layout, group) => {
      const own = pipeline.bindings.filter((binding) => binding.group === group);
      const entries = own.flatMap(({ name, binding }) => {
        const resource = bound.get(name);
        return resource === undefined ? [] : [{ binding, resource }];
      });
      pass.setBindGroup(group, device.createBindGroup(`check ${kernel.name}`, layout, entries));
    });
    const [x, y, z] = kernel.grid(seq);
    pass.dispatchWorkgroups(Math.max(x, leastWorkgroups), y, z);
    pass.end();
    const copies = results.map(({ name, output, buffer }) => {
      const copy = make(`${name} copy`, output.words * 4, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
      encoder.copyBufferToBuffer(buffer.gpu, 0, copy.gpu, 0, output.words * 4);
      return { output, copy };
    });
    device.submit(`check ${kernel.name}`, [encoder.finish()]);
    let error = 0;
    for (const { output, copy } of copies) {
      error = Math.max(error, difference(output, new Uint32Array(await device.readBack(copy, output.words * 4))));
    }
    return { kernel: kernel.name, error, ms: performance.now() - began };
  } finally {
    for (const buffer of buffers) buffer.dispose();
  }
}

/** The largest difference in units of the tolerance; infinite for numbers that are not finite. */
function difference({ expected, read, tolerance: allowed }: Output, found: Uint32Array): number {
  const actual = read === undefined ? new Float32Array(found.buffer) : read(found);
  const largest = Array.from(expected).reduce((most, n) => Math.max(most, Math.abs(n)), 1);
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const off = Math.abs(at(actual, i) - at(expected, i)) / largest;
    if (!(off <= worst)) worst = Number.isNaN(off) ? Number.POSITIVE_INFINITY : off;
  }
  return worst === 0 ? 0 : worst / allowed;
}
