/**
 * Instances of the kernels' work, with what float64 loops make of them: small ones, by which kernels are checked on a
 * user's adapter (selfcheck.ts), and of a model's sizes, where they are timed. Shapes are data to most kernels, so it is
 * the model's own pipelines that run either way.
 */

import { headVecs, type KvFormat } from "../../kernels/attention/attention.ts";
import { markBytes } from "../../kernels/choose/next.ts";
import type { Kernel } from "../../kernels/kernel.ts";
import { pieceWords } from "../../kernels/loading/quantize.ts";
import {
  type BoundMatrix,
  type GroupSize,
  matrixWords,
  type PlainLayout,
  permutationBytes,
  type QuantizedLayout,
  type WeightLayout,
  weightLayouts,
} from "../../kernels/weights/weights.ts";
import { controlOf } from "../generation/control.ts";
import { createSampler, type SamplingOptions } from "../generation/sampler.ts";
import type { Plan, PlanOptions, Step } from "../graph/plan.ts";
import { rowRanges } from "../graph/weights.ts";
import { packQuantized, unpackQuantized } from "../weights/packed.ts";
import { fromHalf, toHalf } from "../weights/plain.ts";
import { tiled } from "../weights/tiles.ts";

type Data = Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** Sizes that the kernel does not fix; what is absent is small. */
export interface ProblemSize {
  /** Tokens of the call, where the kernel takes several. */
  readonly seq?: number;
  /** Tokens in the cache before them. */
  readonly past?: number;
  /** Rows of a weight, in each of its parts; of experts, those of the first ones. */
  readonly rows?: number;
  readonly cols?: number;
  /** Rows of a weight that lie block by block. */
  readonly tileRows?: number;
  /** Weights that share a scale. */
  readonly group?: GroupSize;
  /** Experts that the tokens are routed to in turn. */
  readonly experts?: number;
  readonly vocab?: number;
}

/** An instance of a kernel's work. */
export interface Problem {
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

export interface Output {
  readonly words: number;
  /** Numbers that are compared. */
  readonly count: number;
  /** What each should be; neighbours are computed together. */
  readonly expected: (index: number) => number;
  /** Finds the numbers in the words, where they are not float32 as they lie. */
  readonly read?: (words: Uint32Array<ArrayBuffer>) => (index: number) => number;
  /** Absolute difference allowed where the largest number is 1. */
  readonly tolerance: number;
}

/** Drivers' exp, tanh and division are within 1e-5; sums of some hundred products in any order are, too. */
const tolerance = 1e-4;

/** Numbers from -1 to 1 in steps of 1/64, which every format here has exactly. */
function numbers(seed: number, count: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(count);
  let state = seed * 2654435761 + 12345;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out[i] = ((state >>> 16) % 129) / 64 - 1;
  }
  return out;
}

/** Numbers of which sums and products round. */
function thirds(seed: number, count: number): Float32Array<ArrayBuffer> {
  return numbers(seed, count).map((n) => n / 3);
}

/** The float16 bits of numbers of which few differ. */
function encodeHalves(values: Float32Array): Uint32Array<ArrayBuffer> {
  const bits = new Map<number, number>();
  const out = new Uint16Array(values.length);
  values.forEach((value, i) => {
    const known = bits.get(value) ?? toHalf(value);
    bits.set(value, known);
    out[i] = known;
  });
  return new Uint32Array(out.buffer);
}

/** Elements of rows [width], each computed when an element of it is asked for; the last one is kept. */
function byRow(width: number, compute: (row: number) => ArrayLike<number>): (index: number) => number {
  let kept = -1;
  let values: ArrayLike<number> = [];
  return (index) => {
    const row = Math.floor(index / width);
    if (row !== kept) values = compute(row);
    kept = row;
    return at(values, index % width);
  };
}

/** An output that is known as a whole. */
function whole(expected: ArrayLike<number>): Pick<Output, "words" | "count" | "expected"> {
  return { words: expected.length, count: expected.length, expected: (index) => at(expected, index) };
}

/** Words that are integers as they lie. */
const integers = (words: Uint32Array) => (index: number) => at(words, index);

const at = (values: ArrayLike<number>, index: number): number => values[index] ?? Number.NaN;

function constant(kernel: Kernel, name: string): number {
  const value = kernel.constants[name];
  if (value === undefined) throw new Error(`${kernel.name}: no constant ${name}`);
  return value;
}

/** Whether one of the kernel's snippets has this name. */
const has = (kernel: Kernel, snippet: string) => kernel.files.some((url) => url.pathname.endsWith(snippet));

/** The words between the angle brackets of a kernel's name. */
export const variant = (kernel: Kernel) => (/<(.*)>/.exec(kernel.name)?.[1] ?? "").split(",");

interface Packed {
  /** The values of a row, exact. */
  row(index: number): ArrayLike<number>;
  readonly inputs: Readonly<Record<string, Data>>;
}

const words = (bytes: Uint8Array) => new Uint32Array(bytes.slice().buffer);

/** Different rows of a large matrix, a prime: they repeat, which saves the host's time and memory. */
const mostRows = 251;

/** `rows` again and again, until there are `count` words. */
function repeated<Words extends Data>(rows: Words, count: number): Words {
  if (rows.length >= count) return rows;
  const out = rows instanceof Uint32Array ? new Uint32Array(count) : new Float32Array(count);
  out.set(rows);
  for (let filled = rows.length; filled < count; filled *= 2) out.copyWithin(filled, 0, filled);
  return out as Words;
}

interface BoundRows extends Omit<BoundMatrix, "packing"> {
  readonly parts: number;
  readonly group?: GroupSize | undefined;
}

function packed(layout: WeightLayout, bound: BoundRows): Packed {
  const { rows, parts, cols, group = 64, tileRows = 4 } = bound;
  const all = rows * parts;
  const different = Math.min(all, mostRows);
  const rowOf =
    <Values extends Float32Array | Float64Array>(values: Values) =>
    (index: number) =>
      values.subarray((index % different) * cols, ((index % different) + 1) * cols);
  const lay = <Words extends Data>(one: Words, itemBytes: number) =>
    tiled(repeated(one, (one.length / different) * all), { rows: all, itemBytes, tileRows });
  const { bytesPerBlock } = weightLayouts[layout];
  if (layout === "q4" || layout === "q8") {
    const groups = Math.ceil(cols / group);
    const most = layout === "q4" ? 16 : 256;
    const q = Uint8Array.from(numbers(3, different * cols), (n) => Math.floor(((n + 1) / 2.001) * most));
    const scale = Uint16Array.from(numbers(4, different * groups), (n) => toHalf((n + 2) / most));
    const zero = numbers(5, different * groups).map((n) => most / 2 + Math.round(4 * n));
    const matrix = packQuantized(layout, { rows: different, cols, group, q, scale, zero });
    return {
      row: rowOf(unpackQuantized(layout, matrix, { rows: different, cols, group })),
      inputs: {
        weight: lay(words(matrix.weight), bytesPerBlock),
        scales: lay(words(matrix.scales), 4),
        matrix: matrixWords({ ...bound, tileRows, packing: { layout, group } }),
      },
    };
  }
  const values = numbers(3, different * cols);
  return {
    row: rowOf(values),
    inputs: {
      weight: lay(packPlain(layout, values, cols), bytesPerBlock),
      matrix: matrixWords({ ...bound, tileRows }),
    },
  };
}

/** Rows of float32 as a plain layout has them, padded. */
function packPlain(layout: PlainLayout, values: Float32Array, cols: number): Data {
  const rows = values.length / cols;
  const { blockCols } = weightLayouts[layout];
  const stride = Math.ceil(cols / blockCols) * blockCols;
  const padded = new Float32Array(rows * stride);
  for (let row = 0; row < rows; row++) padded.set(values.subarray(row * cols, (row + 1) * cols), row * stride);
  if (layout === "f32") return padded;
  if (layout === "f16") return encodeHalves(padded);
  return new Uint32Array(Uint16Array.from(new Uint32Array(padded.buffer), (bits) => bits >>> 16).buffer);
}

const silu = (n: number) => n / (1 + Math.exp(-n));
const geluNew = (n: number) => 0.5 * n * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (n + 0.044715 * n ** 3)));

/** A linear's operands as its name has them (`linearVariant`). */
function linearForm(kernel: Kernel) {
  const [form = "", epilogue = ""] = variant(kernel);
  const [layout, ...words] = form.split(" ") as [WeightLayout, ...string[]];
  const [isInt8, isPermuted, isJoined] = ["int8", "permuted", "joined"].map((word) => words.includes(word));
  return { layout, epilogue, isInt8, isPermuted, isJoined };
}

/** Which column of a linear's input a stored column of its weight belongs to. */
type InputColumn = (column: number) => number;

/** A linear's input [rows, cols] as it is multiplied where it becomes int8: kernels/linear/activations/int8.wgsl. */
function int8Values(x: ArrayLike<number>, cols: number, inputOf: InputColumn = (k) => k): Float64Array {
  const { blockCols } = weightLayouts.q8;
  const out = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += cols) {
    for (let first = 0; first < cols; first += blockCols) {
      const length = Math.min(blockCols, cols - first);
      const block = Array.from({ length }, (_, k) => row + inputOf(first + k));
      const step = Math.max(...block.map((i) => Math.abs(at(x, i)))) / 127;
      for (const i of block) out[i] = step === 0 ? 0 : step * Math.round(at(x, i) / step);
    }
  }
  return out;
}

/** Numbers that int8 has nearly exactly, where every block of columns begins with the largest: no rounding is in doubt. */
function int8Numbers(seed: number, count: number, cols: number, inputOf: InputColumn = (k) => k) {
  const out = numbers(seed, count).map((n) => Math.round(127 * n) / 127);
  const { blockCols } = weightLayouts.q8;
  for (let row = 0; row < count; row += cols) {
    for (let first = 0; first < cols; first += blockCols) out[row + inputOf(first)] = 1;
  }
  return out;
}

function linear(kernel: Kernel, size: ProblemSize): Problem {
  const { layout, epilogue, isInt8, isPermuted, isJoined } = linearForm(kernel);
  const joined = isJoined ? dividedAt(kernel, size) : undefined;
  const seq = kernel.name.startsWith("matvec") ? 1 : (size.seq ?? 5);
  const parts = epilogue === "gated_silu" || epilogue === "bias_gegelu" ? 2 : 1;
  const rows = size.rows ?? 37;
  const cols = joined
    ? constant(kernel, "HEADS") * constant(kernel, "HEAD_DIM")
    : (size.cols ?? (has(kernel, "/aligned.wgsl") ? 256 : 203));
  const { row: weight, inputs } = packed(layout, { ...size, rows, parts, cols });
  // Stored column k belongs to input cols - 1 - k; the padding's entries lie past the input.
  const inputOf: InputColumn = (column) => (isPermuted && column < cols ? cols - 1 - column : column);
  const given = joined
    ? thirds(1, joined.splits * (cols + 4 * constant(kernel, "HEADS")))
    : isInt8
      ? int8Numbers(1, seq * cols, cols, inputOf)
      : thirds(1, seq * cols);
  if (joined) for (let i = joined.splits * cols; i < given.length; i++) given[i] = 2 + at(given, i); // (top, mass)
  const join =
    joined && joinParts(constant(kernel, "HEADS"), constant(kernel, "HEAD_DIM"), joined.splits, joined.count);
  const floats = join ? Float64Array.from({ length: cols }, (_, i) => join(given, i)) : given;
  const x = isInt8 ? int8Values(floats, cols, inputOf) : floats;
  const bias = numbers(6, rows * parts);
  const residual = numbers(7, seq * rows);
  const mask = numbers(8, rows);
  const perm = isPermuted
    ? Uint32Array.from({ length: permutationBytes("q4", cols) / 4 }, (_, k) => inputOf(k))
    : undefined;

  const sum = (token: number, row: number): number => {
    const own = weight(row);
    let total = 0;
    for (let k = 0; k < cols; k++) total += at(own, k) * at(x, token * cols + inputOf(k));
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
  const expected = (index: number) => result(Math.floor(index / rows), index % rows);
  return {
    seq,
    past: joined?.past ?? 0,
    kvRows: 1,
    inputs: { x: given, ...inputs, bias, residual, mask, ...(perm && { perm }) },
    outputs: { y: { words: seq * rows, count: seq * rows, expected, tolerance } },
    ...(size.rows === undefined && { leastWorkgroups: Math.ceil(rows / 4) }), // four rows or more each
  };
}

function embed(kernel: Kernel, size: ProblemSize): Problem {
  const [layout = "f32"] = variant(kernel) as WeightLayout[];
  const { seq = 4, rows = 11, cols = 72 } = size;
  const { row, inputs } = packed(layout, { ...size, rows, parts: 1, cols });
  const ids = Uint32Array.from({ length: seq }, (_, token) => (token * 7919 + 3) % rows);
  ids[seq - 1] = rows - 1;
  const scale = constant(kernel, "SCALE");
  const expected = byRow(cols, (token) => Float64Array.from(row(at(ids, token)), (n) => scale * n));
  const outputs = { x: { words: seq * cols, count: seq * cols, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { ids, ...inputs }, outputs };
}

function lastRow(kernel: Kernel, { seq = 3 }: ProblemSize): Problem {
  const cols = constant(kernel, "COLS");
  const x = numbers(1, seq * cols);
  const outputs = { y: { ...whole(x.subarray((seq - 1) * cols)), tolerance: 0 } };
  return { seq, past: 0, kvRows: 1, inputs: { x }, outputs };
}

/** LayerNorm, or RMSNorm without a bias, of a row. */
function normed(row: ArrayLike<number>, gain: ArrayLike<number>, bias: ArrayLike<number> | undefined, eps: number) {
  const values = Array.from(row);
  const mean = bias === undefined ? 0 : values.reduce((sum, n) => sum + n, 0) / values.length;
  const variance = values.reduce((sum, n) => sum + (n - mean) ** 2, 0) / values.length;
  return values.map((n, i) => ((n - mean) / Math.sqrt(variance + eps)) * at(gain, i) + (bias ? at(bias, i) : 0));
}

function norm(kernel: Kernel, size: ProblemSize): Problem {
  const [workgroups] = kernel.grid(size.seq ?? 3);
  const [seq, cols] = [Math.min(size.seq ?? 3, workgroups), size.cols ?? 200]; // one, where only the last row is normed
  const x = numbers(1, seq * cols);
  const gain = numbers(2, cols);
  const bias = kernel.name.startsWith("layerNorm") ? numbers(3, cols) : undefined;
  const eps = constant(kernel, "EPS");
  const expected = byRow(cols, (t) => normed(x.subarray(t * cols, (t + 1) * cols), gain, bias, eps));
  const inputs = { x, gain, ...(bias && { bias }) };
  const outputs = { y: { words: seq * cols, count: seq * cols, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs, outputs, vectors: Object.keys(inputs).slice(1) };
}

function heads(kernel: Kernel) {
  const [count, kvHeads, headDim] = ["HEADS", "KV_HEADS", "HEAD_DIM"].map((name) => constant(kernel, name));
  if (count === undefined || kvHeads === undefined || headDim === undefined) throw new Error(kernel.name);
  return { heads: count, kvHeads, headDim, all: count + 2 * kvHeads, vecs: headVecs(headDim) };
}

function headNorm(kernel: Kernel, { seq = 2 }: ProblemSize): Problem {
  const { heads: queries, kvHeads, headDim, all } = heads(kernel);
  const qkv = numbers(1, seq * all * headDim);
  const [qGain, qBias, kGain, kBias] = [
    numbers(2, headDim),
    numbers(3, headDim),
    numbers(4, headDim),
    numbers(5, headDim),
  ];
  const expected = byRow(headDim, (i) => {
    const head = qkv.subarray(i * headDim, (i + 1) * headDim);
    if (i % all >= queries + kvHeads) return head;
    const [gain, bias] = i % all < queries ? [qGain, qBias] : [kGain, kBias];
    return normed(head, gain, bias, constant(kernel, "EPS"));
  });
  const outputs = { y: { words: qkv.length, count: qkv.length, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { qkv, qGain, qBias, kGain, kBias }, outputs };
}

/** Words of a head at a position: its packs, and the scale behind them where the format has one. */
function cacheWords(kv: KvFormat, vecs: number): number {
  return kv === "f32" ? 4 * vecs : kv === "f16" ? 2 * vecs : vecs + 1;
}

/** Heads [count, 4 vecs] of a cache → its words. Numbers are multiples of 1/64 up to 1, so all formats are exact. */
function packHeads(kv: KvFormat, values: Float32Array, vecs: number): Uint32Array<ArrayBuffer> {
  if (kv === "f32") return new Uint32Array(values.slice().buffer);
  if (kv === "f16") return encodeHalves(values);
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
function unpackHeads(kv: KvFormat, vecs: number): NonNullable<Output["read"]> {
  const stride = cacheWords(kv, vecs);
  return (packs) => {
    const [floats, halves, codes] = [
      new Float32Array(packs.buffer),
      new Uint16Array(packs.buffer),
      new Int8Array(packs.buffer),
    ];
    if (kv === "f32") return (i) => at(floats, i);
    if (kv === "f16") return (i) => fromHalf(at(halves, i));
    return (i) => {
      const head = Math.floor(i / (4 * vecs));
      return at(codes, head * stride * 4 + (i % (4 * vecs))) * at(floats, head * stride + vecs);
    };
  };
}

/** Rounding of a cache format, for numbers up to 1.5. */
const cacheTolerance: Readonly<Record<KvFormat, number>> = { f32: tolerance, f16: 2 ** -10, int8: 1 / 120 };

/** A [count, headDim] as [count, 4 vecs], padded with zeros. */
function padHeads(
  values: Float32Array<ArrayBuffer> | Float64Array,
  headDim: number,
  vecs: number,
): Float32Array<ArrayBuffer> {
  if (headDim === 4 * vecs) return values instanceof Float32Array ? values : Float32Array.from(values);
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

function ropeAppend(kernel: Kernel, { seq = 2, past = 3 }: ProblemSize): Problem {
  const [kv = "f32"] = variant(kernel) as KvFormat[];
  const { heads: queries, kvHeads, headDim, all, vecs } = heads(kernel);
  const kvRows = past + seq;
  const qkv = numbers(1, seq * all * headDim);
  const { table, turned } = rotated(kernel, qkv, past, queries + kvHeads);
  const rows = padHeads(turned, headDim, vecs); // [seq, all, 4 vecs]
  const headAt = (token: number, head: number) => rows.subarray((token * all + head) * 4 * vecs, (token * all + head + 1) * 4 * vecs); // biome-ignore format: one line
  const q = byRow(4 * vecs, (i) => headAt(Math.floor(i / queries), i % queries));
  // Of the cache's positions the last are written; the others stay as they were, which is zero.
  const unwritten = new Float32Array(4 * vecs);
  const cache = (first: number) => ({
    words: kvHeads * kvRows * cacheWords(kv, vecs),
    count: kvHeads * kvRows * 4 * vecs,
    expected: byRow(4 * vecs, (row) => {
      const [head, position] = [Math.floor(row / kvRows), row % kvRows];
      return position < past ? unwritten : headAt(position - past, first + head);
    }),
    read: unpackHeads(kv, vecs),
    tolerance: cacheTolerance[kv],
  });
  const outputs = {
    q: { words: seq * queries * 4 * vecs, count: seq * queries * 4 * vecs, expected: q, tolerance },
    keys: cache(queries),
    values: cache(queries + kvHeads),
  };
  return { seq, past, kvRows, inputs: { qkv, table }, outputs };
}

/** Whether a query of a head sees a key at or before it. */
function visibility(kernel: Kernel): (head: number, query: number, key: number) => boolean {
  if (has(kernel, "/window.wgsl")) {
    const window = constant(kernel, "WINDOW");
    return (_, query, key) => query - key < window;
  }
  const [size, local, stride, headStep] = (["KEY_BLOCK", "LOCAL_BLOCKS", "STRIDE", "HEAD_STEP"] as const).map((name) =>
    constant(kernel, name),
  ) as [number, number, number, number];
  return (head, query, key) => {
    const [own, block] = [Math.floor(query / size), Math.floor(key / size)];
    return own - block < local || (block + head * headStep + 1) % stride === 0;
  };
}

function visibleKeys(kernel: Kernel, head: number, query: number): readonly number[] {
  const sees = visibility(kernel);
  return Array.from({ length: query + 1 }, (_, key) => key).filter((key) => sees(head, query, key));
}

/** Of an attention kernel: scores of a query's head and a key, and keys of a key/value head that some query sees. */
export function seenKeys(
  kernel: Kernel,
  { seq, past, kvRows }: Pick<Problem, "seq" | "past" | "kvRows">,
): { readonly scores: number; readonly keys: number } {
  const { heads: queries, kvHeads } = heads(kernel);
  const sees = visibility(kernel);
  const seen = new Uint8Array(kvHeads * kvRows);
  let scores = 0;
  for (let head = 0; head < queries; head++) {
    const first = Math.floor(head / (queries / kvHeads)) * kvRows;
    for (let query = past; query < past + seq; query++) {
      for (let key = 0; key <= query; key++) {
        if (!sees(head, query, key)) continue;
        scores++;
        seen[first + key] = 1;
      }
    }
  }
  return { scores, keys: seen.reduce((sum, n) => sum + n, 0) };
}

/** Softmax attention of one query on keys and values [keyCount, headDim]. */
function attend(
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  visible: readonly number[],
  headDim: number,
  scale: number,
): Float64Array {
  const weights = visible.map((key) => {
    let dot = 0;
    for (let d = 0; d < headDim; d++) dot += at(q, d) * at(k, key * headDim + d);
    return Math.exp(dot * scale);
  });
  const mass = weights.reduce((sum, weight) => sum + weight, 0);
  const out = new Float64Array(headDim);
  visible.forEach((key, n) => {
    for (let d = 0; d < headDim; d++) out[d] = at(out, d) + (at(weights, n) / mass) * at(v, key * headDim + d);
  });
  return out;
}

function attention(kernel: Kernel, { seq = 2, past = 69 }: ProblemSize): Problem {
  const [kv = "f32"] = variant(kernel) as KvFormat[];
  const { heads: queries, kvHeads, headDim, vecs } = heads(kernel);
  const keyCount = past + seq;
  const scale = constant(kernel, "SCALE");
  const q = numbers(1, seq * queries * headDim);
  const [k, v] = [numbers(2, kvHeads * keyCount * headDim), numbers(3, kvHeads * keyCount * headDim)];
  const expected = byRow(headDim, (i) => {
    const [query, head] = [past + Math.floor(i / queries), i % queries];
    const first = Math.floor(head / (queries / kvHeads)) * keyCount * headDim;
    const part = (cache: Float32Array) => cache.subarray(first, first + keyCount * headDim);
    const visible = visibleKeys(kernel, head, query);
    return attend(q.subarray(i * headDim, (i + 1) * headDim), part(k), part(v), visible, headDim, scale);
  });
  const inputs = {
    q: padHeads(q, headDim, vecs),
    keys: packHeads(kv, padHeads(k, headDim, vecs), vecs),
    values: packHeads(kv, padHeads(v, headDim, vecs), vecs),
  };
  const count = seq * queries * headDim;
  return { seq, past, kvRows: keyCount, inputs, outputs: { o: { words: count, count, expected, tolerance } } };
}

/** Where the keys of a single token are divided: a position at which two parts have some, where none is given. */
function dividedAt(
  kernel: Kernel,
  { past: given }: ProblemSize,
): { readonly past: number; readonly splits: number; readonly count: number } {
  const [splits = 1, span] = [kernel.tile.SPLITS, constant(kernel, "SPAN")];
  const past = given ?? (splits === 1 ? 69 : span + 36);
  const seen = Math.min(past + 1, constant(kernel, "SEEN"));
  return { past, splits, count: Math.ceil(seen / Math.max(span, Math.ceil(seen / splits))) };
}

/** An element of the output of attention in parts [splits, heads, headDim], each with (top, mass), put together. */
function joinParts(heads: number, headDim: number, splits: number, count: number) {
  const all = Array.from({ length: count }, (_, part) => part);
  return (parts: ArrayLike<number>, i: number): number => {
    if (count === 1) return at(parts, i);
    const stat = (part: number) => splits * heads * headDim + (part * heads + Math.floor(i / headDim)) * 4;
    const top = Math.max(...all.map((part) => at(parts, stat(part))));
    const fades = all.map((part) => Math.exp(at(parts, stat(part)) - top));
    const mass = all.reduce((sum, part) => sum + at(fades, part) * at(parts, stat(part) + 1), 0);
    return all.reduce((sum, part) => sum + at(fades, part) * at(parts, part * heads * headDim + i), 0) / mass;
  };
}

function decodeAttention(kernel: Kernel, size: ProblemSize): Problem {
  const [kv = "f32"] = variant(kernel) as KvFormat[];
  const { heads: queries, kvHeads, headDim, all, vecs } = heads(kernel);
  const { past, splits, count } = dividedAt(kernel, size);
  const keyCount = past + 1;
  const qkv = numbers(1, all * headDim);
  const { table, turned } = rotated(kernel, qkv, past, queries + kvHeads);
  // The cache holds what came before; the new key and value are compared where they are appended.
  const append = (seed: number, firstHead: number) => {
    const cache = numbers(seed, kvHeads * keyCount * headDim);
    const inputs = packHeads(kv, padHeads(cache, headDim, vecs), vecs);
    for (let head = 0; head < kvHeads; head++) {
      const own = turned.subarray((firstHead + head) * headDim, (firstHead + head + 1) * headDim);
      cache.set(own, (head * keyCount + past) * headDim);
    }
    const appended = whole(padHeads(cache, headDim, vecs));
    const read = unpackHeads(kv, vecs);
    const output: Output = { ...appended, words: inputs.length, read, tolerance: cacheTolerance[kv] };
    return { inputs, cache, output };
  };
  const [k, v] = [append(3, queries), append(4, queries + kvHeads)];
  const expected = byRow(headDim, (head) => {
    const first = Math.floor(head / (queries / kvHeads)) * keyCount * headDim;
    const part = (cache: Float32Array) => cache.subarray(first, first + keyCount * headDim);
    const q = turned.subarray(head * headDim, (head + 1) * headDim);
    const visible = visibleKeys(kernel, head, past);
    return attend(q, part(k.cache), part(v.cache), visible, headDim, constant(kernel, "SCALE"));
  });
  const words = splits === 1 ? queries * headDim : splits * queries * (headDim + 4);
  const join = joinParts(queries, headDim, splits, count);
  const read: NonNullable<Output["read"]> = (found) => {
    const parts = new Float32Array(found.buffer);
    return (index) => join(parts, index);
  };
  // The new key and value are rounded to the cache's format, and are one of many.
  const rounding = tolerance + Math.min(1, 16 / keyCount) * cacheTolerance[kv];
  const o = { words, count: queries * headDim, expected, read, tolerance: rounding };
  const outputs = { o, keys: k.output, values: v.output };
  return { seq: 1, past, kvRows: keyCount, inputs: { qkv, table, keys: k.inputs, values: v.inputs }, outputs };
}

/** The draw of a token: `sampling` on logits whose best two are far apart. */
function chooser(sampling: SamplingOptions, { vocab = 3000 }: ProblemSize): Problem {
  const prompt = [1, 5, 2100];
  const logits = numbers(1, vocab).map((n) => 3 * n);
  logits[2100] = 4; // the prompt's, which a repetition penalty weakens
  logits[vocab - 1] = 3.5;
  const { words: control, marks } = controlOf({ sampling, seed: 7n, stopIds: [] }, prompt, vocab);
  const id = createSampler({ ...sampling, seed: 7n }, vocab).sample(logits, { prompt, generated: [] });
  const outputs = { ids: { ...whole([id]), read: integers, tolerance: 0 } };
  const inputs = { logits, control, marks: marks ?? new Uint32Array((vocab * markBytes) / 4) };
  return { seq: 1, past: 0, kvRows: 1, inputs, outputs };
}

/** The first rows of all experts' are bound; where the size is small, those of expert 1. */
function expertLinear(kernel: Kernel, size: ProblemSize): Problem {
  const { layout, epilogue, isInt8 } = linearForm(kernel);
  const isMatvec = kernel.name.startsWith("expertMatvec");
  const seq = isMatvec ? 1 : (size.seq ?? 5);
  const parts = epilogue === "gated_silu" ? 2 : 1;
  const expertRows = constant(kernel, "EXPERT_ROWS");
  const perX = constant(kernel, "CHOICES_PER_X");
  const routed = size.experts ?? 2;
  const experts = isMatvec ? routed : constant(kernel, "EXPERTS");
  const [first, rows] = size.rows === undefined ? [expertRows, Math.min(37, expertRows)] : [0, size.rows];
  const cols = size.cols ?? (has(kernel, "/aligned.wgsl") ? 256 : 203);
  const bound = { ...size, rows, parts, cols, first, rowsTotal: experts * expertRows };
  const { row: weight, inputs } = packed(layout, bound);
  const count = ((2 * seq) / perX) * cols;
  const given = isInt8 ? int8Numbers(1, count, cols) : thirds(1, count);
  const x = isInt8 ? int8Values(given, cols) : given;
  const weights = numbers(2, 2 * seq);
  const expertOf = (choice: number) => ((choice >> 1) + choice + 1) % routed;
  const routing = Float32Array.from({ length: 4 * seq }, (_, i) =>
    i % 2 === 0 ? expertOf(i >> 1) : at(weights, i >> 1),
  );
  const groups = new Uint32Array(experts + experts * seq);
  for (let choice = 0; choice < 2 * seq; choice++) {
    const expert = expertOf(choice);
    groups[experts + expert * seq + at(groups, expert)] = choice;
    groups[expert] = at(groups, expert) + 1;
  }
  const expected = (index: number): number => {
    const choice = Math.floor(index / expertRows);
    const row = expertOf(choice) * expertRows + (index % expertRows) - first;
    if (row < 0 || row >= rows) return 0;
    const sum = (boundRow: number) => {
      const own = weight(boundRow);
      let total = 0;
      for (let k = 0; k < cols; k++) total += at(own, k) * at(x, Math.floor(choice / perX) * cols + k);
      return total;
    };
    return parts === 2 ? silu(sum(row)) * sum(rows + row) : at(weights, choice) * sum(row);
  };
  const results = 2 * seq * expertRows;
  const outputs = { y: { words: results, count: results, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { x: given, ...inputs, routing, groups }, outputs };
}

function sparsemixer(kernel: Kernel, { seq = 3 }: ProblemSize): Problem {
  const [experts, threshold] = [constant(kernel, "EXPERTS"), constant(kernel, "THRESHOLD")];
  // No two are alike, so that no rounding decides.
  const scores = Float32Array.from({ length: seq * experts }, (_, i) => 1 + ((i * 7) % experts) / 8 + i / 4096);
  const expected = byRow(4, (token) => {
    const own = Array.from(scores.subarray(token * experts, (token + 1) * experts));
    const choose = (taken: number): [number, number] => {
      const left = own.map((score, e) => (e === taken ? Number.NEGATIVE_INFINITY : score));
      const best = Math.max(...left);
      const near = left.filter((score) => best - score <= threshold * Math.max(Math.abs(score), best));
      return [left.indexOf(best), 1 / near.reduce((sum, score) => sum + Math.exp(score - best), 0)];
    };
    const first = choose(-1);
    return [...first, ...choose(first[0])];
  });
  const outputs = { routing: { words: 4 * seq, count: 4 * seq, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { scores }, outputs };
}

function groupByExpert(kernel: Kernel, { seq = 7 }: ProblemSize): Problem {
  const experts = constant(kernel, "EXPERTS");
  const chosen = Array.from({ length: 2 * seq }, (_, choice) => (choice * 5) % experts);
  const routing = Float32Array.from({ length: 4 * seq }, (_, i) => (i % 2 === 0 ? at(chosen, i >> 1) : 1));
  const expected = new Uint32Array(experts + experts * seq);
  for (const [choice, expert] of chosen.entries()) {
    expected[experts + expert * seq + at(expected, expert)] = choice;
    expected[expert] = at(expected, expert) + 1;
  }
  const outputs = { groups: { ...whole(expected), read: integers, tolerance: 0 } };
  return { seq, past: 0, kvRows: 1, inputs: { routing }, outputs };
}

function expertSum(kernel: Kernel, { seq = 2 }: ProblemSize): Problem {
  const cols = constant(kernel, "COLS");
  const x = numbers(1, 2 * seq * cols);
  const residual = numbers(2, seq * cols);
  const expected = residual.map((n, i) => {
    const first = Math.floor(i / cols) * 2 * cols + (i % cols);
    return n + at(x, first) + at(x, first + cols);
  });
  const outputs = { y: { ...whole(expected), tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { x, residual }, outputs };
}

/** Weights that lie on a grid of integers of power-of-two scales, which the search must find as it is. */
function quantize(kernel: Kernel, size: ProblemSize): Problem {
  const [from, to, groupText] = variant(kernel) as [PlainLayout, QuantizedLayout, string];
  const group = Number(groupText) as GroupSize;
  const { rows = 5, cols = 4 * group, tileRows = 4 } = size;
  const different = Math.min(rows, mostRows);
  const groups = Math.ceil(cols / group);
  const most = to === "q4" ? 16 : 256;
  const q = Uint8Array.from(numbers(1, different * cols), (n) => Math.floor(((n + 1) / 2.001) * most));
  for (let i = 0; i < q.length; i += cols) {
    for (let first = 0; first < cols; first += group) q.set([0, most - 1], i + first);
  }
  const zero = new Float32Array(different * groups).fill(most / 2);
  const scale = Uint16Array.from(numbers(2, different * groups), (n) => toHalf(2 ** (Math.round(4 * n) - 8)));
  const own = { rows: different, cols, group };
  const matrix = packQuantized(to, { ...own, q, scale, zero });
  const weight = packPlain(from, Float32Array.from(unpackQuantized(to, matrix, own)), cols);
  const repeat = <Words extends Data>(one: Words) => repeated(one, (one.length / different) * rows);
  const lay = (one: Data, itemBytes: number) => tiled(repeat(one), { rows, itemBytes, tileRows });
  const [x, y] = kernel.grid(rows);
  const exact = { read: integers, tolerance: 0 };
  return {
    ...{ seq: rows, past: 0, kvRows: 1 },
    inputs: {
      piece: pieceWords({ rows, firstRow: 0, rowsTotal: rows, tileRows }),
      weight: repeat(weight),
      matrix: matrixWords({ rows, cols }),
    },
    outputs: {
      packed: { ...whole(lay(words(matrix.weight), weightLayouts[to].bytesPerBlock)), ...exact },
      scales: { ...whole(lay(words(matrix.scales), 4)), ...exact },
      found: { ...whole([0, 0, x * y, 0, 0]), ...exact },
    },
  };
}

/** Numbers of which one, in the middle, is a NaN. */
function scan(kernel: Kernel, { rows = 37, cols = 200 }: ProblemSize): Problem {
  const [layout = "f32"] = variant(kernel) as PlainLayout[];
  const different = Math.min(rows, mostRows);
  const data = packPlain(layout, numbers(1, different * cols), cols);
  const all = repeated(data, (data.length / different) * rows);
  const bytes = new Uint8Array(all.buffer);
  const element = Math.floor((rows * cols) / 2);
  const elementBytes = bytes.length / (rows * cols);
  bytes.fill(0xff, element * elementBytes, (element + 1) * elementBytes);
  const [workgroups] = kernel.grid(1);
  const found = { ...whole([1, ~element >>> 0, workgroups, 0, 0]), read: integers, tolerance: 0 };
  return { seq: 1, past: 0, kvRows: 1, inputs: { words: all }, outputs: { found } };
}

const problems: Readonly<Record<string, (kernel: Kernel, size: ProblemSize) => Problem>> = {
  argmax: (_, size) => chooser({}, size),
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
  quantize,
  rmsNorm: norm,
  ropeAppend,
  sample: (_, size) => chooser({ temperature: 0.8, topK: 200, topP: 0.9, minP: 0.01, repetitionPenalty: 1.3 }, size),
  scan,
  sparsemixer,
};

/** A problem for a kernel; undefined where there is no reference. */
export function problemOf(kernel: Kernel, size: ProblemSize = {}): Problem | undefined {
  return problems[/^\w+/.exec(kernel.name)?.[0] ?? ""]?.(kernel, size);
}

/** The size of a step of a plan, for a call of `seq` tokens after `past`. */
export function sizeOf(
  { kernel, bindings }: Step,
  { vocab }: Pick<Plan, "vocab">,
  {
    packing,
    maxBindingBytes,
    tileRows,
  }: Pick<PlanOptions, "packing" | "maxBindingBytes"> & Pick<ProblemSize, "tileRows">,
  { seq, past }: { readonly seq: number; readonly past: number },
): ProblemSize {
  const { weight, gain } = bindings;
  const experts = kernel.constants.EXPERT_ROWS;
  if (gain !== undefined && "vector" in gain) return { seq, cols: gain.vector.length };
  if (weight === undefined || !("matrix" in weight)) return { seq, past, vocab };
  const { matrix: ref, range } = weight;
  const of = packing(ref);
  return {
    seq,
    past,
    rows: rowRanges(ref, of, maxBindingBytes)[range]?.rows ?? 0,
    cols: ref.cols,
    ...(tileRows !== undefined && { tileRows }),
    ...("group" in of && { group: of.group }),
    ...(experts !== undefined && { experts: ref.rows / experts }),
  };
}

/** Whether there is a reference for this kernel. */
export function hasProblem(kernel: Kernel): boolean {
  return (/^\w+/.exec(kernel.name)?.[0] ?? "") in problems;
}
