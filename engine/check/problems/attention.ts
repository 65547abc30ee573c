/** kernels/attention: rotation, the cache, and attention over it. */

import { headVecs, type KvFormat } from "../../../kernels/attention/kv/kv.ts";
import type { Kernel } from "../../../kernels/kernel.ts";
import * as formulas from "../formulas.ts";
import { type HeadFormat, packHeads, padHeads, readHeads, storedHeads } from "./heads.ts";
import { numbers } from "./numbers.ts";
import {
  byRow,
  constant,
  has,
  type MakeProblem,
  type Output,
  type Problem,
  type ProblemSize,
  tolerance,
  variant,
  whole,
} from "./problem.ts";

/** What an attention's kernel fixes: its heads, the elements of a padded one, and the cache's format. */
function headsOf(kernel: Kernel) {
  const [kv = "f32"] = variant(kernel) as KvFormat[];
  const [heads, kvHeads, headDim] = [
    constant(kernel, "HEADS"),
    constant(kernel, "KV_HEADS"),
    constant(kernel, "HEAD_DIM"),
  ];
  return { kv, heads, kvHeads, headDim, padded: 4 * headVecs(headDim), all: heads + 2 * kvHeads };
}

/** Rounding of a cache format, for numbers up to 1.5. */
const cacheTolerance: Readonly<Record<KvFormat, number>> = { f32: tolerance, f16: 2 ** -10, int8: 1 / 120 };

/** How the words of a cache are read and compared. */
function cacheOutput(format: HeadFormat): Pick<Output, "read" | "tolerance"> {
  return { read: (words) => readHeads(words, format), tolerance: cacheTolerance[format.kv] };
}

/** Fused rows [seq, all heads], rotated at positions past …, by a table [positions, rotary / 2] of (cos, sin). */
function rotated(kernel: Kernel, qkv: Float32Array, past: number) {
  const { heads, kvHeads, headDim, all } = headsOf(kernel);
  const seq = qkv.length / (all * headDim);
  const rotary = constant(kernel, "ROTARY");
  const table = numbers(2, (past + seq) * rotary);
  const own = table.subarray(past * rotary);
  const [cos, sin] = [0, 1].map((k) => Float64Array.from({ length: own.length / 2 }, (_, i) => own[2 * i + k] ?? 0));
  if (cos === undefined || sin === undefined) throw new Error(kernel.name);
  return { table, turned: formulas.rope(qkv, { cos, sin }, { seq, heads, kvHeads, headDim, rotary }) };
}

export const ropeAppend: MakeProblem = (kernel, { seq = 2, past = 3 }) => {
  const { kv, heads, kvHeads, headDim, padded, all } = headsOf(kernel);
  const kvRows = past + seq;
  const qkv = numbers(1, seq * all * headDim);
  const { table, turned } = rotated(kernel, qkv, past);
  const rows = padHeads(turned, headDim); // [seq, all, padded]
  const headAt = (token: number, head: number) =>
    rows.subarray((token * all + head) * padded, (token * all + head + 1) * padded);
  const q = byRow(padded, (i) => headAt(Math.floor(i / heads), i % heads));
  // Of the cache's positions the last are written; the others stay as they were, which is zero.
  const unwritten = new Float32Array(padded);
  const { length: words } = packHeads(new Float32Array(kvHeads * kvRows * padded), { kv, headDim });
  const cache = (first: number) => ({
    words,
    count: kvHeads * kvRows * padded,
    expected: byRow(padded, (row) => {
      const [head, position] = [Math.floor(row / kvRows), row % kvRows];
      return position < past ? unwritten : headAt(position - past, first + head);
    }),
    ...cacheOutput({ kv, headDim }),
  });
  const outputs = {
    q: { words: seq * heads * padded, count: seq * heads * padded, expected: q, tolerance },
    keys: cache(heads),
    values: cache(heads + kvHeads),
  };
  return { seq, past, kvRows, inputs: { qkv, table }, outputs };
};

/** Whether a query of a head sees a key at or before it. */
function visibility(kernel: Kernel): formulas.Sees {
  if (has(kernel, "/window.wgsl")) return formulas.seesWindow(constant(kernel, "WINDOW"));
  return formulas.seesBlocks({
    size: constant(kernel, "KEY_BLOCK"),
    local: constant(kernel, "LOCAL_BLOCKS"),
    stride: constant(kernel, "STRIDE"),
    headStep: constant(kernel, "HEAD_STEP"),
  });
}

/** Of an attention kernel: scores of a query's head and a key, and keys of a key/value head that some query sees. */
export function seenKeys(
  kernel: Kernel,
  { seq, past, kvRows }: Pick<Problem, "seq" | "past" | "kvRows">,
): { readonly scores: number; readonly keys: number } {
  const { heads, kvHeads } = headsOf(kernel);
  const sees = visibility(kernel);
  const seen = new Uint8Array(kvHeads * kvRows);
  let scores = 0;
  for (let head = 0; head < heads; head++) {
    const first = Math.floor(head / (heads / kvHeads)) * kvRows;
    for (let query = past; query < past + seq; query++) {
      for (let key = 0; key <= query; key++) {
        if (!sees(query, key, head)) continue;
        scores++;
        seen[first + key] = 1;
      }
    }
  }
  return { scores, keys: seen.reduce((sum, n) => sum + n, 0) };
}

/** What a head of a query at a position gives, on caches [kvHeads, keyCount, headDim]. */
function attended(kernel: Kernel, caches: { readonly k: formulas.Numbers; readonly v: formulas.Numbers }) {
  const { heads, kvHeads, headDim } = headsOf(kernel);
  const [sees, scale] = [visibility(kernel), constant(kernel, "SCALE")];
  const one = { seq: 1, heads: 1, kvHeads: 1, headDim, scale };
  return (q: formulas.Numbers, head: number, position: number): Float64Array => {
    const kvHead = Math.floor(head / (heads / kvHeads));
    const part = (cache: formulas.Numbers) => {
      const first = (kvHead * cache.length) / kvHeads;
      return cache.subarray(first, first + (position + 1) * headDim);
    };
    const ofHead: formulas.Sees = (i, j) => sees(i, j, head);
    return formulas.attention(q, part(caches.k), part(caches.v), { ...one, keys: position + 1, sees: ofHead });
  };
}

export const attention: MakeProblem = (kernel, { seq = 2, past = 69 }) => {
  const { kv, heads, kvHeads, headDim } = headsOf(kernel);
  const kvRows = past + seq;
  const q = numbers(1, seq * heads * headDim);
  const [k, v] = [2, 3].map((seed) => storedHeads(numbers(seed, kvHeads * kvRows * headDim), { kv, headDim }));
  if (k === undefined || v === undefined) throw new Error(kernel.name);
  const result = attended(kernel, { k, v });
  const expected = byRow(headDim, (i) =>
    result(q.subarray(i * headDim, (i + 1) * headDim), i % heads, past + Math.floor(i / heads)),
  );
  const pack = (cache: formulas.Numbers) => packHeads(padHeads(cache, headDim), { kv, headDim });
  const inputs = { q: padHeads(q, headDim), keys: pack(k), values: pack(v) };
  const count = seq * heads * headDim;
  return { seq, past, kvRows, inputs, outputs: { o: { words: count, count, expected, tolerance } } };
};

/** Where the keys of a single token are divided: a position at which two parts have some, where none is given. */
export function dividedAt(
  kernel: Kernel,
  { past: given }: ProblemSize,
): { readonly past: number; readonly splits: number; readonly count: number } {
  const [splits = 1, span] = [kernel.tile.SPLITS, constant(kernel, "SPAN")];
  const past = given ?? (splits === 1 ? 69 : span + 36);
  const seen = Math.min(past + 1, constant(kernel, "SEEN"));
  return { past, splits, count: Math.ceil(seen / Math.max(span, Math.ceil(seen / splits))) };
}

export const decodeAttention: MakeProblem = (kernel, size) => {
  const { kv, heads, kvHeads, headDim, all } = headsOf(kernel);
  const { past, splits, count } = dividedAt(kernel, size);
  const kvRows = past + 1;
  const qkv = numbers(1, all * headDim);
  const { table, turned } = rotated(kernel, qkv, past);
  // The cache holds what came before; the new key and value are compared where they are appended.
  const append = (seed: number, firstHead: number) => {
    const before = storedHeads(numbers(seed, kvHeads * kvRows * headDim), { kv, headDim });
    const inputs = packHeads(padHeads(before, headDim), { kv, headDim });
    const cache = Float32Array.from(before);
    for (let head = 0; head < kvHeads; head++) {
      const own = turned.subarray((firstHead + head) * headDim, (firstHead + head + 1) * headDim);
      cache.set(own, (head * kvRows + past) * headDim);
    }
    const appended = { ...whole(padHeads(cache, headDim)), words: inputs.length, ...cacheOutput({ kv, headDim }) };
    return { inputs, cache, appended };
  };
  const [k, v] = [append(3, heads), append(4, heads + kvHeads)];
  const result = attended(kernel, { k: k.cache, v: v.cache });
  const expected = byRow(headDim, (head) => result(turned.subarray(head * headDim, (head + 1) * headDim), head, past));
  const words = splits === 1 ? heads * headDim : splits * heads * (headDim + 4);
  const read: NonNullable<Output["read"]> = (found) => {
    const joined = formulas.joinParts(new Float32Array(found.buffer), { heads, headDim, splits, count });
    return (index) => formulas.at(joined, index);
  };
  // The new key and value are rounded to the cache's format, and are one of many.
  const rounding = tolerance + Math.min(1, 16 / kvRows) * cacheTolerance[kv];
  const o = { words, count: heads * headDim, expected, read, tolerance: rounding };
  const outputs = { o, keys: k.appended, values: v.appended };
  return { seq: 1, past, kvRows, inputs: { qkv, table, keys: k.inputs, values: v.inputs }, outputs };
};
