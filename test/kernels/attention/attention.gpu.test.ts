/** ropeAppend and attention: the two kernels that know how heads lie in the cache. */
import { describe, expect, test } from "vitest";
import { headScale, packHeads, padHeads, storedHeads } from "../../../engine/check/problems/heads.ts";
import {
  attention,
  decodeAttention,
  decodeOutput,
  joinedInput,
  ropeAppend,
} from "../../../kernels/attention/attention.ts";
import { headVecs } from "../../../kernels/attention/kv/kv.ts";
import type { Visible } from "../../../kernels/attention/visible/visible.ts";
import type { Kernel } from "../../../kernels/kernel.ts";
import { matvec } from "../../../kernels/linear/matvec.ts";
import { matrixWords } from "../../../kernels/weights/weights.ts";
import { type NastyMode, randomValues } from "../../reference/compare.ts";
import type { Numbers } from "../../reference/ops.ts";
import * as reference from "../../reference/ops.ts";
import { broken, expectWithin, kernelSetup, liveBuffers, runKernel, smallest, u } from "../harness.ts";
import { type CacheShape, cacheElements, cacheWords, unpackCache } from "./cache.ts";

/** Tokens of a call, positions before it, and what the inputs are like. */
type Call = readonly [seq: number, past: number, mode: NastyMode];

interface RopeCase extends CacheShape {
  readonly rotary: number;
  readonly calls: readonly Call[];
}

const ropeCases: readonly RopeCase[] = [
  // Heads that are no whole number of vec4f, with pairs that straddle them.
  { heads: 4, kvHeads: 2, headDim: 6, rotary: 4, kv: "f32", kvRows: 64, calls: [[1, 0, "normal"], [5, 37, "mixed"]] },
  { heads: 1, kvHeads: 1, headDim: 10, rotary: 2, kv: "f16", kvRows: 7, calls: [[5, 37, "normal"], [7, 3, "zeros"]] },
  // phi-2's geometry, in a ring.
  { heads: 3, kvHeads: 1, headDim: 80, rotary: 32, kv: "f16", kvRows: 16, calls: [[1, 37, "mixed"], [16, 10, "tiny"]] },
  { heads: 8, kvHeads: 2, headDim: 16, rotary: 12, kv: "f32", kvRows: 40, calls: [[33, 19, "outliers"]] },
  { heads: 2, kvHeads: 2, headDim: 96, rotary: 96, kv: "f32", kvRows: 70, calls: [[65, 0, "normal"], [3, 67, "denormals"]] },
  { heads: 3, kvHeads: 1, headDim: 80, rotary: 32, kv: "int8", kvRows: 16, calls: [[1, 37, "mixed"], [16, 10, "outliers"]] },
  { heads: 2, kvHeads: 2, headDim: 6, rotary: 4, kv: "int8", kvRows: 9, calls: [[5, 6, "normal"], [3, 0, "denormals"], [2, 1, "zeros"]] },
]; // biome-ignore format: a table

/** The table of all positions before `positions`, rounded to float32 as the kernel reads it. */
function rotaryTable(rotary: number, positions: number) {
  const exact = reference.ropeTable({
    positions: Array.from({ length: positions }, (_, position) => position),
    theta: 10000,
    rotary,
    factors: Array.from({ length: rotary / 2 }, (_, i) => 1 + i / 8),
    attentionFactor: 1.19,
  });
  const [cos, sin] = [Float32Array.from(exact.cos), Float32Array.from(exact.sin)];
  const words = Float32Array.from({ length: 2 * cos.length }, (_, i) => (i % 2 === 0 ? cos : sin)[i >> 1] ?? 0);
  return { cos, sin, words };
}

async function checkRopeAppend(kernel: Kernel, shape: RopeCase): Promise<void> {
  const { heads, kvHeads, headDim, rotary, kv, calls } = shape;
  for (const [seq, past, mode] of calls) {
    const cols = reference.qkvCols(shape);
    const qkv = randomValues(seq + past, seq * cols, mode);
    const table = rotaryTable(rotary, past + seq);
    const outputs = await runKernel(
      kernel,
      { seq, past, kvRows: shape.kvRows },
      {
        qkv,
        table: table.words,
        q: { output: padHeads(new Float32Array(seq * heads * headDim), headDim).length },
        keys: { output: cacheWords(shape) },
        values: { output: cacheWords(shape) },
      },
    );
    const rows = {
      cos: Float64Array.from(table.cos.subarray((past * rotary) / 2)),
      sin: Float64Array.from(table.sin.subarray((past * rotary) / 2)),
    };
    const split = (values: Numbers, of: typeof rows) =>
      reference.splitQkv(reference.rope(values, of, { ...shape, seq }), { ...shape, seq });
    const expected = split(qkv, rows);
    // The sizes of the two products of each element: rotation by |cos| and -|sin| adds |a cos| and |b sin|.
    const abs = { cos: rows.cos.map(Math.abs), sin: rows.sin.map((value) => -Math.abs(value)) };
    const first = split(qkv.map(Math.abs), abs);
    const second = split(qkv.map(Math.abs), { cos: abs.cos, sin: abs.sin.map((value) => -value) });
    const size = (part: "q" | "k") =>
      first[part].map((value, i) => Math.max(Math.abs(value), Math.abs(second[part][i] ?? 0)));
    // Two products and their sum, each rounded once; f16 rounds once more, to 11 bits or to a step of 2^-24, int8 to the
    // nearest of its head's steps: a quotient of at most 127, off by 2.5 ULP, and a step that is off as its largest is.
    const roundings = (elements: Float64Array) => {
      if (kv === "f32") return () => 0;
      if (kv === "f16") return (i: number) => (2 ** -11 + u) * Math.abs(elements[i] ?? 0) + 2 ** -25;
      return (i: number) => {
        const head = i - (i % stride);
        const scale = headScale(elements.subarray(head, head + stride));
        return scale === 0 ? Math.abs(elements[i] ?? 0) : scale * (0.5 + 127 * 8 * u);
      };
    };
    const what = (part: string) => `${kernel.name}, ${part}, ${seq} at ${past}, ${mode}`;

    const sizes = padHeads(size("q"), headDim);
    const q = padHeads(expected.q, headDim);
    const stride = q.length / seq / heads;
    const headShape = [heads, stride];
    expectWithin(outputs.q, q, (i) => 3 * u * (sizes[i] ?? 0) + 2 * smallest, {
      shape: [seq, ...headShape],
      what: what("q"),
    });

    const cacheShape = [kvHeads, shape.kvRows, stride];
    const keys = cacheElements(expected.k, past, shape);
    const keySizes = cacheElements(size("k"), past, shape);
    const keyRounding = roundings(keys);
    const keyBound = (i: number) => 3 * u * (keySizes[i] ?? 0) + keyRounding(i) + 2 * smallest;
    expectWithin(unpackCache(outputs.keys, shape), keys, keyBound, { shape: cacheShape, what: what("keys") });

    const values = cacheElements(expected.v, past, shape);
    const valueRounding = roundings(values);
    const valueBound = (i: number) => valueRounding(i) + (Math.abs(values[i] ?? 0) < smallest ? smallest : 0);
    expectWithin(unpackCache(outputs.values, shape), values, valueBound, { shape: cacheShape, what: what("values") });
  }
}

describe("ropeAppend", () => {
  const title = "$heads heads, $kvHeads of keys, of $headDim, $rotary rotated, $kv cache of $kvRows";
  test.each(ropeCases)(title, async (shape) => {
    await checkRopeAppend(ropeAppend(shape, shape.rotary), shape);
  });

  test("what f16 cannot hold is not clamped: it becomes infinite or NaN", async () => {
    const shape = { heads: 1, kvHeads: 1, headDim: 10, kv: "f16", kvRows: 7 } as const;
    const qkv = new Float32Array(30).fill(1);
    qkv.set([1e6, 2, -65504, -1e30], 20);
    qkv.set([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN], 24);
    const operands = {
      qkv,
      table: Float32Array.of(1, 0),
      q: { output: 12 },
      keys: { output: cacheWords(shape) },
      values: { output: cacheWords(shape) },
    };
    const { values } = await runKernel(ropeAppend(shape, 2), { seq: 1, kvRows: shape.kvRows }, operands);
    // lavapipe makes infinities of what overflows, SwiftShader NaN; the check of the logits reports either.
    const found = [...unpackCache(values, shape).subarray(0, 10)].map((value) =>
      Number.isFinite(value) ? value : "bad",
    );
    expect(found).toEqual(["bad", 2, -65504, "bad", "bad", "bad", "bad", "bad", 1, 1]);
  });

  test("int8: a head with what is not finite is not finite, and the others are as ever", async () => {
    const shape = { heads: 1, kvHeads: 3, headDim: 6, kv: "int8", kvRows: 2 } as const;
    const qkv = new Float32Array(reference.qkvCols(shape)).fill(1);
    qkv[24 + 2] = Number.NaN; // values begin at 24
    qkv[30 + 5] = Number.POSITIVE_INFINITY;
    const operands = {
      qkv,
      table: Float32Array.of(1, 0),
      q: { output: 8 },
      keys: { output: cacheWords(shape) },
      values: { output: cacheWords(shape) },
    };
    const { values } = await runKernel(ropeAppend(shape, 2), { seq: 1, kvRows: shape.kvRows }, operands);
    const heads = unpackCache(values, shape);
    const finite = [0, 16, 32].map((at) => [...heads.subarray(at, at + 6)].map(Number.isFinite));
    expect(finite).toEqual([new Array(6).fill(false), new Array(6).fill(false), new Array(6).fill(true)]);
  });

  test("mistakes are found: the direction of the turn, the ring, the first unrotated dimension", async () => {
    const [, shape] = ropeCases;
    if (shape === undefined) throw new Error("no case");
    for (const [from, to] of [
      ["select(other, -other, isFirst)", "select(-other, other, isFirst)"],
      ["position % state.kvRows", "min(position, state.kvRows - 1u)"],
      ["d < ROTARY", "d <= ROTARY"],
    ] as const) {
      const kernel = await broken(ropeAppend(shape, shape.rotary), from, to);
      await expect(checkRopeAppend(kernel, shape)).rejects.toThrow(/elements differ/);
    }
    const int8 = ropeCases.find(({ kv }) => kv === "int8");
    if (int8 === undefined) throw new Error("no case");
    for (const [from, to] of [
      ["round(v / scale)", "floor(v / scale)"],
      ["max(sizes.z, sizes.w)", "sizes.z"],
    ] as const) {
      const kernel = await broken(ropeAppend(int8, int8.rotary), from, to);
      await expect(checkRopeAppend(kernel, int8), to).rejects.toThrow(/elements differ/);
    }
  });
});

type Blocks = Extract<Visible, { blocks: unknown }>["blocks"];

interface AttentionCase extends CacheShape {
  readonly window?: number;
  readonly blocks?: Blocks;
  /** Of a workgroup, and keys of a tile. */
  readonly threads: number;
  /** Groups of four queries of a workgroup; default 1. */
  readonly quads?: number;
  readonly calls: readonly Call[];
}

/** The adapter's own, or 1. */
const subgroup = (await kernelSetup()).device.subgroupSize;
/** Threads of a workgroup that is one subgroup, where there are any. */
const together = subgroup === 1 ? 8 : subgroup;

/** Rings hold the window of the call's first query and the call itself, exactly. */
const attentionCases: readonly AttentionCase[] = [
  // Every length at no past and at some; a single tile, its edge, several.
  {
    ...{ heads: 4, kvHeads: 4, headDim: 6, kv: "f32", kvRows: 104, threads: 16 },
    calls: [[1, 0, "normal"], [5, 0, "normal"], [33, 0, "outliers"], [1, 15, "normal"], [1, 16, "tiny"], [33, 70, "zeros"]],
  },
  { heads: 4, kvHeads: 1, headDim: 16, kv: "f16", kvRows: 100, threads: 16, calls: [[1, 70, "normal"], [5, 37, "outliers"]] },
  // A window smaller than a tile, in a ring; GQA of 3; eight queries a workgroup.
  {
    ...{ heads: 6, kvHeads: 2, headDim: 16, kv: "f32", window: 5, kvRows: 37, threads: 32, quads: 2 },
    calls: [[1, 3, "normal"], [33, 0, "normal"], [33, 70, "outliers"], [5, 200, "normal"]],
  },
  // A window of several tiles, in a ring.
  {
    ...{ heads: 2, kvHeads: 2, headDim: 96, kv: "f16", window: 40, kvRows: 44, threads: 16 },
    calls: [[5, 39, "normal"], [5, 90, "outliers"], [1, 39, "normal"], [1, 40, "zeros"]],
  },
  // Heads that are more than one vec4f a thread: 20 vec4f on 16 threads, 64 on 16; and fewer: 24 on 64.
  { heads: 3, kvHeads: 1, headDim: 80, kv: "f32", kvRows: 64, threads: 16, calls: [[5, 33, "normal"], [33, 0, "mixed"]] },
  { heads: 2, kvHeads: 1, headDim: 256, kv: "f16", kvRows: 64, threads: 16, calls: [[1, 40, "normal"], [3, 20, "denormals"]] },
  // int8: a head that is no whole number of packs, a window in a ring.
  { heads: 4, kvHeads: 2, headDim: 6, kv: "int8", window: 20, kvRows: 23, threads: 16, calls: [[1, 5, "normal"], [3, 40, "outliers"]] },
  { heads: 3, kvHeads: 1, headDim: 80, kv: "int8", kvRows: 64, threads: 16, calls: [[5, 33, "normal"], [1, 20, "zeros"]] },
  { heads: 8, kvHeads: 2, headDim: 96, kv: "f32", kvRows: 150, threads: 64, calls: [[1, 140, "normal"], [5, 60, "tiny"]] },
  // Block-sparse: heads that see different blocks, tiles within a block and across its end, chunks that begin and end in
  // the middle of one; four queries of one head, of two, and of a single token.
  {
    ...{ heads: 4, kvHeads: 1, headDim: 16, kv: "f32", kvRows: 200, threads: 16 },
    blocks: { size: 16, local: 2, stride: 4, headStep: 1 },
    calls: [[1, 150, "normal"], [33, 100, "outliers"], [65, 0, "normal"], [1, 15, "normal"], [1, 160, "mixed"], [5, 62, "zeros"]],
  },
  {
    ...{ heads: 6, kvHeads: 2, headDim: 6, kv: "f16", kvRows: 140, threads: 32 },
    blocks: { size: 7, local: 1, stride: 12, headStep: 2 },
    calls: [[1, 138, "normal"], [31, 90, "normal"], [3, 5, "tiny"]],
  },
  // A workgroup that is one subgroup, sixteen queries: lengths around a tile, GQA of 3 in a ring, blocks that are no
  // whole number of tiles.
  {
    ...{ heads: 4, kvHeads: 4, headDim: 6, kv: "f32", kvRows: 104, threads: together, quads: 4 },
    calls: [[1, 0, "normal"], [5, 0, "normal"], [33, 0, "outliers"], [1, 7, "normal"], [1, 8, "tiny"], [33, 70, "zeros"]],
  },
  {
    ...{ heads: 6, kvHeads: 2, headDim: 80, kv: "int8", window: 5, kvRows: 37, threads: together, quads: 4 },
    calls: [[1, 3, "normal"], [33, 0, "normal"], [33, 70, "outliers"], [5, 200, "normal"]],
  },
  {
    ...{ heads: 6, kvHeads: 2, headDim: 6, kv: "f16", kvRows: 140, threads: together, quads: 4 },
    blocks: { size: 7, local: 1, stride: 12, headStep: 2 },
    calls: [[1, 138, "normal"], [31, 90, "normal"], [3, 5, "tiny"]],
  },
]; // biome-ignore format: a table

/**
 * How far float32 may be from attention, for each element. Each weight is off relatively by what its score is off
 * (headDim products: n u sum|q k|, the scaling, and int8's scale), by the rounding of the differences that are exponentiated, and by exp
 * itself: 3 + 2|x| ULP in WGSL, once for the weight and once for each later maximum, whose differences add up to
 * top - score. A weighted mean moves by the sum of weight |v| (own error + mean error); both sums have one addition a key.
 */
function attentionBound(
  q: Numbers,
  k: Numbers,
  v: Numbers,
  { heads, kvHeads, headDim, window, blocks, threads }: AttentionCase,
  past: number,
  scale: number,
) {
  const seq = q.length / (heads * headDim);
  const bounds = new Float64Array(q.length);
  for (let t = 0; t < seq; t++) {
    const position = past + t;
    const first = window === undefined ? 0 : Math.max(0, position - window + 1);
    const keys = position - first + 1;
    const tiles = Math.ceil(keys / threads) + 1;
    for (let h = 0; h < heads; h++) {
      const query = (t * heads + h) * headDim;
      const kvHead = Math.floor(h / (heads / kvHeads));
      const at = (j: number) => ((first + j) * kvHeads + kvHead) * headDim;
      const scores = new Float64Array(keys);
      const sizes = new Float64Array(keys);
      for (let j = 0; j < keys; j++) {
        for (let d = 0; d < headDim; d++) {
          const product = scale * (q[query + d] ?? 0) * (k[at(j) + d] ?? 0);
          scores[j] = (scores[j] ?? 0) + product;
          sizes[j] = (sizes[j] ?? 0) + Math.abs(product);
        }
        if (blocks && !reference.seesBlocks(blocks)(position, first + j, h)) scores[j] = Number.NEGATIVE_INFINITY;
      }
      const top = Math.max(...scores);
      const mass = scores.reduce((sum, score) => sum + Math.exp(score - top), 0);
      const weights = scores.map((score) => Math.exp(score - top) / mass);
      const errors = scores.map((score, j) => {
        if (score === Number.NEGATIVE_INFINITY) return 0;
        const below = top - score;
        return (headDim + 5) * u * (sizes[j] ?? 0) + 2 * u * (3 * tiles + 3 * below + Math.abs(top));
      });
      const mean = errors.reduce((sum, error, j) => sum + (weights[j] ?? 0) * error, 0);
      for (let d = 0; d < headDim; d++) {
        let bound = 2 * smallest;
        for (let j = 0; j < keys; j++) {
          const size = Math.abs(v[at(j) + d] ?? 0);
          bound +=
            (weights[j] ?? 0) * size * (Math.expm1((errors[j] ?? 0) + mean) + (2 * keys + 5) * u) + smallest * size;
        }
        bounds[query + d] = bound;
      }
    }
  }
  return (i: number) => bounds[i] ?? 0;
}

async function checkAttention(kernel: Kernel, shape: AttentionCase, calls = shape.calls): Promise<void> {
  const { heads, kvHeads, headDim, window, blocks } = shape;
  const scale = headDim ** -0.5;
  const sees = blocks ? reference.seesBlocks(blocks) : reference.seesWindow(window);
  for (const [seq, past, mode] of calls) {
    const keys = past + seq;
    const q = randomValues(seq, seq * heads * headDim, mode);
    const k = storedHeads(randomValues(past + 1, keys * kvHeads * headDim, mode === "mixed" ? "normal" : mode), shape);
    const v = storedHeads(randomValues(past + 2, keys * kvHeads * headDim, mode), shape);
    const operands = {
      q: padHeads(q, headDim),
      keys: packHeads(cacheElements(k, 0, shape), shape),
      values: packHeads(cacheElements(v, 0, shape), shape),
      o: { output: seq * heads * headDim },
    };
    const { o } = await runKernel(kernel, { seq, past, kvRows: shape.kvRows }, operands);
    const expected = reference.attention(q, k, v, { ...shape, seq, keys, sees, scale });
    const bound = attentionBound(q, k, v, shape, past, scale);
    const what = `${kernel.name} of ${headDim}, ${seq} at ${past}, ${mode}`;
    expectWithin(o, expected, bound, { shape: [seq, heads, headDim], what });
  }
}

function attentionKernel(shape: AttentionCase): Kernel {
  const { blocks, window, threads, quads = 1 } = shape;
  const tile = { threads, quads, subgroup: threads % subgroup === 0 ? subgroup : 1 };
  return attention(shape, shape.headDim ** -0.5, blocks ? { blocks } : { window }, tile);
}

describe("attention", () => {
  const title =
    "$heads heads, $kvHeads of keys, of $headDim, $kv cache of $kvRows, window $window, blocks $blocks.size, $threads threads";
  test.each(attentionCases)(title, async (shape) => {
    await checkAttention(attentionKernel(shape), shape);
  });

  test("a key that is not finite reaches every query that sees it", async () => {
    const [shape] = attentionCases;
    if (shape === undefined) throw new Error("no case");
    const { heads, kvHeads, headDim } = shape;
    const [seq, past, bad] = [5, 37, 39];
    const k = randomValues(1, (past + seq) * kvHeads * headDim);
    k[(bad * kvHeads + 1) * headDim + 2] = Number.NaN;
    const operands = {
      q: padHeads(randomValues(2, seq * heads * headDim), headDim),
      keys: packHeads(cacheElements(k, 0, shape), shape),
      values: packHeads(cacheElements(randomValues(3, k.length), 0, shape), shape),
      o: { output: seq * heads * headDim },
    };
    const { o } = await runKernel(attentionKernel(shape), { seq, past, kvRows: shape.kvRows }, operands);
    const finite = Array.from({ length: seq }, (_, t) =>
      [...o.subarray((t * heads + 1) * headDim, (t * heads + 2) * headDim)].map(Number.isFinite),
    );
    const none = new Array(headDim).fill(false);
    expect(finite.slice(bad - past)).toEqual([none, none, none]);
  });

  test("blocks that no query sees are not read: NaN in them does not matter", async () => {
    const shape = { heads: 1, kvHeads: 1, headDim: 16, kv: "f32", kvRows: 300, threads: 16 } as const;
    const blocks = { size: 16, local: 2, stride: 4, headStep: 1 };
    const kernel = attentionKernel({ ...shape, blocks, calls: [] });
    for (const [seq, past] of [
      [1, 260],
      [8, 248],
    ] as const) {
      // biome-ignore format: a list
      const isRead = (key: number) => reference.seesBlocks(blocks)(past, key, 0) || reference.seesBlocks(blocks)(past + seq - 1, key, 0);
      const rows = (seed: number) =>
        randomValues(seed, (past + seq) * 16).map((value, i) => (isRead(i >> 4) ? value : Number.NaN));
      const operands = {
        q: randomValues(1, seq * 16),
        keys: packHeads(cacheElements(rows(2), 0, shape), shape),
        values: packHeads(cacheElements(rows(3), 0, shape), shape),
        o: { output: seq * 16 },
      };
      const { o } = await runKernel(kernel, { seq, past, kvRows: shape.kvRows }, operands);
      expect(o.every(Number.isFinite)).toBe(true);
    }
  });

  const [plain, , windowed] = attentionCases;
  const sparse = attentionCases.find(({ blocks }) => blocks !== undefined);
  const one = attentionCases.find(({ threads }) => threads === together);
  if (plain === undefined || windowed === undefined || sparse === undefined || one === undefined)
    throw new Error("no case");
  test.each([
    ["the end of the window", windowed, "< WINDOW;", "<= WINDOW;"],
    ["the first key", windowed, "position + 1u - WINDOW", "position + 2u - WINDOW"],
    // Both comparisons keep the future out, for a difference below 0 wraps around: a mistake has to be in both.
    ["the causal mask", plain, "key <= position && position - key", "key <= position + 1u && position + 1u - key"],
    ["blocks of the next head", sparse, "block + head * HEAD_STEP + 1u", "block + head * HEAD_STEP + HEAD_STEP + 1u"],
    ["a block of the stride that is skipped", sparse, "(STRIDE - 1u - ", "(STRIDE - "],
    ["the fading of earlier tiles", plain, "mass[q] * fade[q]", "mass[q]"],
    ["whose scores make the maximum", plain, "partial[j][q]);", "scores[q]);"],
    ...(subgroup === 1
      ? []
      : ([["whose scores make the maximum of a subgroup", one, "fromLane(scores[q], lane)", "scores[q]"]] as const)),
    ["the scale, by a thousandth", plain, "* SCALE,", "* SCALE * 1.001,"],
  ] as const)("a mistake is found: %s", async (_what, shape, from, to) => {
    const kernel = await broken(attentionKernel(shape), from, to);
    await expect(checkAttention(kernel, shape)).rejects.toThrow(/elements differ/);
  });
});

interface DecodeCase extends Omit<AttentionCase, "calls"> {
  readonly rotary: number;
  readonly splits: number;
  readonly span: number;
  readonly pasts: readonly number[];
}

const decodeCases: readonly DecodeCase[] = [
  // One part; heads that are no whole number of vec4f.
  { heads: 4, kvHeads: 4, headDim: 6, rotary: 4, kv: "f32", kvRows: 64, threads: 8, splits: 1, span: 1, pasts: [0, 37] },
  // GQA of 3; fewer keys than a part has, parts that are full, more keys than parts have room for at first.
  { heads: 6, kvHeads: 2, headDim: 16, rotary: 12, kv: "f16", kvRows: 200, threads: 16, splits: 4, span: 20, pasts: [0, 19, 20, 199] },
  // A window in a ring; GQA of 5.
  { heads: 5, kvHeads: 1, headDim: 32, rotary: 32, kv: "f32", window: 40, kvRows: 44, threads: 8, splits: 3, span: 8, pasts: [3, 39, 200] },
  { heads: 4, kvHeads: 2, headDim: 80, rotary: 32, kv: "int8", kvRows: 70, threads: 8, splits: 2, span: 16, pasts: [5, 66] },
  {
    ...{ heads: 4, kvHeads: 1, headDim: 16, rotary: 16, kv: "f32", kvRows: 170, threads: 16, splits: 3, span: 30 },
    ...{ blocks: { size: 16, local: 2, stride: 4, headStep: 1 }, pasts: [15, 165] },
  },
  { heads: 6, kvHeads: 2, headDim: 16, rotary: 12, kv: "f16", kvRows: 200, threads: together, splits: 1, span: 1, pasts: [0, 199] },
]; // biome-ignore format: a table

/** As ropeAppend, which has tests of its own, and the reference: the row in the cache, and the output with its parts joined. */
async function checkDecode(shape: DecodeCase, change: (kernel: Kernel) => Promise<Kernel> | Kernel): Promise<void> {
  const { heads, kvHeads, headDim, rotary, window, blocks, threads, kvRows } = shape;
  const scale = headDim ** -0.5;
  const visible: Visible = blocks ? { blocks } : { window };
  const tile = { threads, quads: 1, subgroup: threads % subgroup === 0 ? subgroup : 1 };
  const kernel = await change(decodeAttention(shape, rotary, scale, visible, tile, shape));
  for (const past of shape.pasts) {
    const call = { seq: 1, past, kvRows };
    const qkv = randomValues(past, reference.qkvCols(shape));
    const table = rotaryTable(rotary, past + 1).words;
    const appended = await runKernel(ropeAppend(shape, rotary), call, {
      qkv,
      table,
      q: { output: heads * headVecs(headDim) * 4 },
      keys: { output: cacheWords(shape) },
      values: { output: cacheWords(shape) },
    });
    // The cache before, and all rows that the token sees: the stored ones and the one that ropeAppend appended.
    const stride = headVecs(headDim) * 4;
    const all = (seed: number, row: Float32Array) => {
      const before = storedHeads(randomValues(seed, past * kvHeads * headDim), shape);
      const elements = unpackCache(row, shape);
      const own = Array.from({ length: kvHeads }, (_, head) => (head * kvRows + (past % kvRows)) * stride);
      const values = Float64Array.of(...before, ...own.flatMap((at) => [...elements.subarray(at, at + headDim)]));
      return { values, words: packHeads(cacheElements(before, 0, shape), shape) };
    };
    const [k, v] = [all(past + 1, appended.keys), all(past + 2, appended.values)];
    const { keys, values, o } = await runKernel(kernel, call, {
      qkv,
      table,
      keys: { inPlace: k.words },
      values: { inPlace: v.words },
      o: { output: decodeOutput(shape, shape) },
    });
    const what = `${kernel.name} of ${headDim} at ${past}`;
    for (const [now, { words }, one] of [
      [keys, k, appended.keys],
      [values, v, appended.values],
    ] as const) {
      const rowWords = cacheWords(shape) / kvHeads / kvRows;
      const expected = words.map((word, i) => {
        const isNew = Math.floor(i / rowWords) % kvRows === past % kvRows;
        return isNew ? (new Uint32Array(one.buffer, one.byteOffset + i * 4, 1)[0] ?? 0) : word;
      });
      expect(new Uint32Array(now.buffer, now.byteOffset, now.length), what).toEqual(expected);
    }

    // The linear behind it joins the parts: here it is the identity.
    const cols = heads * headDim;
    const identity = new Float32Array(cols * cols);
    for (let i = 0; i < cols; i++) identity[i * cols + i] = 1;
    const joined = joinedInput(shape, visible, shape);
    const reader = matvec(
      { layout: "f32", epilogue: "none", cols, rangeRows: cols, joined },
      { lanes: 1, groups: 8, subgroup },
    );
    const weights = { x: Float32Array.from(o), weight: identity, matrix: matrixWords({ rows: cols, cols }) };
    const y = shape.splits === 1 ? o : (await runKernel(reader, call, { ...weights, y: { output: cols } as const })).y;

    const q = Float64Array.from({ length: cols }, (_, i) => appended.q[Math.floor(i / headDim) * stride + (i % headDim)] ?? 0); // biome-ignore format: one line
    const sees = blocks ? reference.seesBlocks(blocks) : reference.seesWindow(window);
    const expected = reference.attention(q, k.values, v.values, {
      ...shape,
      seq: 1,
      keys: past + 1,
      sees,
      scale,
    });
    // Each part is faded once more and added to the others: as if there were a tile more for each.
    const bound = attentionBound(q, k.values, v.values, { ...shape, threads: threads / 2, calls: [] }, past, scale);
    expectWithin(y, expected, bound, { shape: [heads, headDim], what });
  }
}

describe("decodeAttention", () => {
  const title =
    "$heads heads, $kvHeads of keys, of $headDim, $kv cache of $kvRows, window $window, blocks $blocks.size, $splits parts of $span";
  test.each(decodeCases)(title, async (shape) => {
    await checkDecode(shape, (kernel) => kernel);
  });

  const [, parts] = decodeCases;
  if (parts === undefined) throw new Error("no case");
  test.each([
    ["the end of a part", "splitStart(part + 1u)", "splitStart(part + 1u) - 1u"],
    ["the mass of a part", "o[at + 1u] = whole", "o[at + 1u] = 1.0"],
    ["who appends", "id.y + 1u == splitCount()", "id.y == splitCount()"],
  ] as const)("a mistake is found: %s", async (_what, from, to) => {
    await expect(checkDecode(parts, (kernel) => broken(kernel, from, to))).rejects.toThrow();
  });
});

test("no buffer is left", async () => expect(await liveBuffers()).toBe(0));
