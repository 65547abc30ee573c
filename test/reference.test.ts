import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, test } from "vitest";
import { headScale, packHeads, padHeads, storedHeads } from "../engine/check/problems/heads.ts";
import { expectClose, nastyModes, randomValues, seededRandom } from "./reference/compare.ts";
import { fixtureFolders, listCases, loadCase, readTensors, sharedFolders } from "./reference/fixture.ts";
import { loadForward } from "./reference/forward.ts";
import {
  add,
  argmax,
  attention,
  decodeHalf,
  decodeHalves,
  dequantize,
  embed,
  encodeHalf,
  encodeHalves,
  gatedSilu,
  gegelu,
  gegeluPairs,
  geluNew,
  headNorm,
  int8Blocks,
  joinParts,
  layerNorm,
  linear,
  longropeAttentionFactor,
  nextToHalves,
  rmsNorm,
  rope,
  ropeTable,
  seesBlocks,
  seesWindow,
  silu,
  sparsemixer,
  splitQkv,
} from "./reference/ops.ts";

const exact = { atol: 1e-14, why: "float64 rounding" };
const f64 = (...values: number[]): Float64Array => Float64Array.from(values);

describe("reference ops", () => {
  test("int8Blocks: 32 columns a step, the last ones with their own", () => {
    const x = f64(...Array.from({ length: 34 }, (_, i) => (i < 32 ? 127 - 8 * i : i - 33)));
    const { values, steps } = int8Blocks(x, { seq: 1, cols: 34 });
    expectClose(values.subarray(0, 32), x.subarray(0, 32), {
      ...exact,
      atol: 1e-5,
      shape: [32],
      why: "the step in float32",
    });
    expect(steps[31]).toBe(Math.fround(127 * Math.fround(1 / 127)));
    expect(steps[33]).toBe(Math.fround(1 / 127));
    expect(values[32]).toBe(-127 * Math.fround(1 / 127));
    expect(int8Blocks(f64(254, 3, 2.9, -3.1), { seq: 1, cols: 4 }).values.map(Math.round)).toEqual(f64(254, 4, 2, -4));
    const doubtful = f64(254, 3.00001);
    expect(nextToHalves(doubtful, int8Blocks(doubtful, { seq: 1, cols: 2 }))).toEqual([false, true]);
    expect([...int8Blocks(f64(0, 0, 2 ** -127), { seq: 1, cols: 3 }).values]).toEqual([0, 0, 2 ** -126]);
  });

  test("embed picks rows", () => {
    expect([...embed(f64(0, 1, 10, 11, 20, 21), [2, 0, 2], { hidden: 2 })]).toEqual([20, 21, 0, 1, 20, 21]);
    expect(() => embed(f64(0, 1), [1], { hidden: 2 })).toThrow(RangeError);
  });

  test("layerNorm: 1, 3 has mean 2 and variance 1", () => {
    const y = layerNorm(f64(1, 3, -5, 5), f64(2, 3), f64(10, 20), { seq: 2, cols: 2, eps: 0 });
    expectClose(y, f64(8, 23, 8, 23), { ...exact, shape: [2, 2] });
    const shifted = layerNorm(f64(0, 0), f64(1, 1), f64(4, 5), { seq: 1, cols: 2, eps: 1e-5 });
    expect([...shifted]).toEqual([4, 5]);
    // eps stands inside the root: variance 1, eps 3 → divided by 2.
    expect([...layerNorm(f64(1, 3), f64(1, 1), f64(0, 0), { seq: 1, cols: 2, eps: 3 })]).toEqual([-0.5, 0.5]);
  });

  test("rmsNorm: 3, 4 has mean square 12.5", () => {
    const y = rmsNorm(f64(3, 4), f64(1, 2), { seq: 1, cols: 2, eps: 0 });
    expectClose(y, f64(3 / Math.sqrt(12.5), 8 / Math.sqrt(12.5)), { ...exact, shape: [1, 2] });
    expect([...rmsNorm(f64(1, -1), f64(1, 1), { seq: 1, cols: 2, eps: 3 })]).toEqual([0.5, -0.5]);
  });

  test("headNorm takes q and k heads apart and lets v pass", () => {
    const norms = { qWeight: f64(1, 1), qBias: f64(0, 0), kWeight: f64(2, 2), kBias: f64(7, 7) };
    const y = headNorm(f64(1, 3, 10, 50, 9, 5, -3, 8), norms, { seq: 1, heads: 2, kvHeads: 1, headDim: 2, eps: 0 });
    expectClose(y, f64(-1, 1, -1, 1, 9, 5, -3, 8), { ...exact, shape: [1, 4, 2] });
  });

  test("linear: sum, bias, activation, residual in that order", () => {
    const shape = { seq: 2, rows: 2, cols: 3 };
    const x = f64(1, 2, 3, 4, 5, 6);
    const weight = f64(1, 0, -1, 0.5, 0.5, 0.5);
    expect([...linear(x, weight, shape)]).toEqual([-2, 3, -2, 7.5]);
    expect([...linear(x, weight, shape, { bias: f64(10, 20), residual: f64(1, 2, 3, 4) })]).toEqual([9, 25, 11, 31.5]);
    const gelu = linear(x, weight, shape, { bias: f64(1, -1), activation: "gelu_new", residual: f64(1, 2, 3, 4) });
    expectClose(gelu, f64(geluNew(-1) + 1, geluNew(2) + 2, geluNew(-1) + 3, geluNew(6.5) + 4), {
      ...exact,
      shape: [2, 2],
    });
    const gated = linear(x, weight, shape, { activation: "gatedSilu" });
    expectClose(gated, f64(silu(-2) * 3, silu(-2) * 7.5), { ...exact, shape: [2, 1] });
  });

  test("gelu_new at known points: the tanh form, not erf", () => {
    expect(geluNew(0)).toBe(0);
    // 0.5 (1 + tanh(sqrt(2/π) 1.044715)); the erf form gives 0.841345.
    expect(geluNew(1)).toBeCloseTo(0.8411919906, 9);
    expect(geluNew(-1)).toBeCloseTo(-0.1588080094, 9);
    expect(geluNew(1) - geluNew(-1)).toBeCloseTo(1, 14);
    expect(geluNew(20)).toBe(20);
    expect(geluNew(-20)).toBeCloseTo(0, 14);
  });

  test("gated silu reads [gate | up]", () => {
    expect(silu(Math.log(3))).toBeCloseTo(0.75 * Math.log(3), 14);
    expectClose(
      gatedSilu(f64(0, Math.log(3), 100, 4, 1, -1, 2, 6), { seq: 2, ffn: 2 }),
      f64(0, 3 * Math.log(3), 2 * silu(1), 6 * silu(-1)),
      {
        ...exact,
        shape: [2, 2],
      },
    );
  });

  test("ropeTable: theta^(2i/rotary), factors divide the frequency", () => {
    const { cos, sin } = ropeTable({ positions: [0, 3], theta: 100, rotary: 4, factors: [1, 2], attentionFactor: 1.5 });
    const angles = [0, 0, 3, 3 / (2 * 10)];
    expectClose(
      cos,
      Float64Array.from(angles, (a) => 1.5 * Math.cos(a)),
      { ...exact, shape: [2, 2] },
    );
    expectClose(
      sin,
      Float64Array.from(angles, (a) => 1.5 * Math.sin(a)),
      { ...exact, shape: [2, 2] },
    );
    expect(longropeAttentionFactor(131072, 4096)).toBeCloseTo(1.1902380714, 9);
    expect(longropeAttentionFactor(4096, 4096)).toBe(1);
  });

  test("rope is a multiplication by e^(i angle) on the rotated dims only", () => {
    const shape = { seq: 3, heads: 2, kvHeads: 1, headDim: 6, rotary: 4 };
    const cols = 4 * 6;
    const qkv = Float64Array.from(randomValues(1, 3 * cols));
    const positions = [0, 5, 77];
    const y = rope(qkv, ropeTable({ positions, theta: 10000, rotary: 4 }), shape);
    const expected = qkv.slice();
    positions.forEach((position, t) => {
      for (let head = 0; head < 3; head++) {
        for (let i = 0; i < 2; i++) {
          // The pair as a complex number in polar form: its angle grows, its length stays.
          const re = t * cols + head * 6 + i;
          const length = Math.hypot(qkv[re] ?? 0, qkv[re + 2] ?? 0);
          const angle = Math.atan2(qkv[re + 2] ?? 0, qkv[re] ?? 0) + position / 10000 ** (i / 2);
          expected[re] = length * Math.cos(angle);
          expected[re + 2] = length * Math.sin(angle);
        }
      }
    });
    expectClose(y, expected, { atol: 1e-13, why: "angles up to 77 in float64", shape: [3, 4, 6] });
    expect([...y.slice(cols * 2 + 18)]).toEqual([...qkv.slice(cols * 2 + 18)]);
  });

  test("gegelu: the halves take turns; clamps, but not of infinities", () => {
    const gelu = (a: number) => a / (1 + Math.exp(-1.702 * a));
    expect(gegelu(5, 9, 3)).toBeCloseTo(4 * gelu(3), 14);
    const y = gegeluPairs(f64(1, 0, 5, 9, -8, -9, Number.POSITIVE_INFINITY, 1), 3);
    expectClose(y, f64(gelu(1), 4 * gelu(3), -2 * gelu(-8), Number.POSITIVE_INFINITY), { ...exact, shape: [4] });
  });

  test("blocks: the last ones, and every n-th, another one in each head", () => {
    const sees = seesBlocks({ size: 2, local: 2, stride: 4, headStep: 1 });
    const visible = (i: number, head: number) =>
      Array.from({ length: i + 1 }, (_, j) => j).filter((j) => sees(i, j, head));
    // Query 15 is in block 7: blocks 6 and 7 are local; head 0 sees block 3 as well, head 1 block 2, head 3 blocks 0 and 4.
    expect(visible(15, 0)).toEqual([6, 7, 12, 13, 14, 15]);
    expect(visible(15, 1)).toEqual([4, 5, 12, 13, 14, 15]);
    expect(visible(15, 3)).toEqual([0, 1, 8, 9, 12, 13, 14, 15]);
    expect(visible(3, 0)).toEqual([0, 1, 2, 3]);
  });

  test("sparsemixer: the best two, each weighed among those that are near and left", () => {
    const share = (...scores: number[]) => 1 / scores.reduce((sum, s) => sum + Math.exp(s), 0);
    // Within 0.18 of 10, relatively: 10 and 9; then of 9: 9 and 8.
    expect(sparsemixer(f64(8, 10, 1, 9), 0.09)).toEqual([
      { expert: 1, weight: share(0, -1) },
      { expert: 3, weight: share(0, -1) },
    ]);
    expect(sparsemixer(f64(8, 10, 1, 9), 0.01)).toEqual([
      { expert: 1, weight: 1 },
      { expert: 3, weight: 1 },
    ]);
    // Below zero it is the size of the other score that counts: (-1 + 2) / 2 = 0.5.
    expect(sparsemixer(f64(-2, -1, -9), 0.25)[0]).toEqual({ expert: 1, weight: share(0, -1) });
  });

  test("attention: one key gives its value; equal keys give the mean; the window and the groups", () => {
    const one = attention(f64(1, 2, 3, 4), f64(5, 6), f64(7, 8), { seq: 1, keys: 1, heads: 2, kvHeads: 1, headDim: 2 });
    expect([...one]).toEqual([7, 8, 7, 8]);

    const shape = { seq: 4, keys: 4, heads: 1, kvHeads: 1, headDim: 1 };
    const zeros = new Float64Array(4);
    const v = f64(1, 2, 4, 8);
    expectClose(attention(zeros, zeros, v, shape), f64(1, 1.5, 7 / 3, 15 / 4), { ...exact, shape: [4] });
    // W keys including itself.
    expectClose(attention(zeros, zeros, v, { ...shape, sees: seesWindow(2) }), f64(1, 1.5, 3, 6), {
      ...exact,
      shape: [4],
    });
    // The last query alone, on a cache, equals the last row.
    const last = attention(f64(0), zeros, v, { ...shape, seq: 1, sees: seesWindow(3) });
    expectClose(last, f64(14 / 3), { ...exact, shape: [1] });

    // Two keys whose scores differ by ln 3 share 1:3; head 0 and 1 read key-value head 0, heads 2 and 3 head 1.
    const q = f64(1, 1, 1, 1);
    const k = f64(0, Math.log(3), Math.log(3), 0);
    const y = attention(q, k, f64(4, 4, 8, 8), { seq: 1, keys: 2, heads: 4, kvHeads: 2, headDim: 1, scale: 1 });
    expectClose(y, f64(7, 7, 5, 5), { ...exact, shape: [4] });
    const halved = attention(f64(2), f64(0, Math.log(3)), f64(4, 8), { ...shape, seq: 1, keys: 2, scale: 0.5 });
    expectClose(halved, f64(7), { ...exact, shape: [1] });
    const scaled = attention(f64(2, 0, 0, 0), f64(0, 0, 0, 0, Math.log(3), 0, 0, 0), f64(4, 0, 0, 0, 8, 0, 0, 0), {
      seq: 1,
      keys: 2,
      heads: 1,
      kvHeads: 1,
      headDim: 4,
    });
    expectClose(scaled, f64(7, 0, 0, 0), { ...exact, shape: [4] });
  });

  test("attention does not overflow on large scores", () => {
    const y = attention(f64(1000), f64(1, 2), f64(3, 4), { seq: 1, keys: 2, heads: 1, kvHeads: 1, headDim: 1 });
    expect([...y]).toEqual([4]);
  });

  test("parts of attention: faded to the highest top, added, divided by the mass; one part is whole", () => {
    const shape = { heads: 2, headDim: 2, splits: 3, count: 2 };
    // Sums [3, 2, 2], the third part's not there; then (top, mass, -, -) of each part and head.
    const sums = [2, 4, 1, 1, 6, 2, 3, 5, 99, 99, 99, 99];
    const stats = [[0, 1], [7, 2], [Math.log(2), 1], [7, 2], [99, 99], [99, 99]].flatMap((pair) => [...pair, 0, 0]); // biome-ignore format: a list
    // Head 0: the first part counts half, (1 + 6) / (0.5 + 1); head 1: both are alike.
    const joined = joinParts(f64(...sums, ...stats), shape);
    expectClose(joined, f64(7 / 1.5, 4 / 1.5, 1, 1.5), { ...exact, shape: [4] });
    expect([...joinParts(f64(...sums, ...stats), { ...shape, count: 1 })]).toEqual([2, 4, 1, 1]);
  });

  test("dequantize: a scale and a zero for each group of a row", () => {
    const shape = { rows: 2, cols: 33, group: 32 } as const; // two groups a row
    const q = Uint8Array.from({ length: 66 }, (_, i) => i % 33);
    const scale = Uint16Array.of(0x3c00, 0x4000, 0x3800, 0xbc00); // 1, 2, 0.5, -1
    const values = dequantize({ ...shape, q, scale, zero: Float32Array.of(0, 30, 8, 31.5) });
    expect([0, 5, 31, 32].map((c) => values[c])).toEqual([0, 5, 31, 4]);
    expect([0, 5, 31, 32].map((c) => values[33 + c])).toEqual([-4, -1.5, 11.5, -0.5]);
  });

  test("heads of a cache: padded; int8 has the scale behind the codes", () => {
    const two = padHeads(f64(127, -1, 63.6, 0, 0, -254), 3); // of 3 dimensions
    expect([...two]).toEqual([127, -1, Math.fround(63.6), 0, 0, 0, -254, 0]);
    const words = packHeads(two, { kv: "int8", headDim: 3 });
    expect([...new Int8Array(words.buffer, 0, 4), ...new Int8Array(words.buffer, 8, 4)]).toEqual([
      ...[127, -1, 64, 0],
      ...[0, 0, -127, 0],
    ]);
    expect([...new Float32Array(words.buffer)].filter((_, i) => i % 2 === 1)).toEqual([1, 2]);
    const given = Float32Array.of(127, -1, 63.6, 0, 0, -254);
    expect([...storedHeads(given, { kv: "int8", headDim: 3 })]).toEqual([127, -1, 64, 0, 0, -254]);
    expect([...storedHeads(Float32Array.of(1 + 2 ** -11), { kv: "f16", headDim: 1 })]).toEqual([1]);
    expect([...packHeads(f64(1, 0, -2, 0.5), { kv: "f16", headDim: 4 })]).toEqual([0x00003c00, 0x3800c000]);
    expect(headScale(f64(0, 2 ** -125))).toBe(0);
  });

  test("argmax: ties go to the lowest index", () => {
    expect(argmax(f64(1, 5, 5, -7, -3, -3), { seq: 2, cols: 3 })).toEqual([1, 1]);
  });

  test("splitQkv and add", () => {
    const parts = splitQkv(f64(1, 2, 3, 4, 5, 6, 7, 8), { seq: 2, heads: 2, kvHeads: 1, headDim: 1 });
    expect([[...parts.q], [...parts.k], [...parts.v]]).toEqual([
      [1, 2, 5, 6],
      [3, 7],
      [4, 8],
    ]);
    expect([...add(f64(1, 2), f64(10, 20), f64(100, 200))]).toEqual([111, 222]);
  });
});

describe("halves", () => {
  test("known f16 bits, and round to nearest even", () => {
    const cases: [number, number][] = [
      [0, 0x0000],
      [-0, 0x8000],
      [1, 0x3c00],
      [-2, 0xc000],
      [65504, 0x7bff],
      [65519.99, 0x7bff],
      [65520, 0x7c00],
      [-1e300, 0xfc00],
      [Number.POSITIVE_INFINITY, 0x7c00],
      [2 ** -14, 0x0400],
      [2 ** -24, 0x0001],
      [2 ** -25, 0x0000],
      [1.5 * 2 ** -25, 0x0001],
      [1023.5 * 2 ** -24, 0x0400],
      [1 + 2 ** -11, 0x3c00],
      [1 + 3 * 2 ** -11, 0x3c02],
      [1 + 2 ** -11 + 2 ** -40, 0x3c01],
    ];
    for (const [value, bits] of cases) expect(encodeHalf(value, "f16"), `${value}`).toBe(bits);
    expect(decodeHalf(encodeHalf(Number.NaN, "f16"), "f16")).toBeNaN();
  });

  test("bf16 is the upper half of float32, rounded to even", () => {
    expect(encodeHalf(1, "bf16")).toBe(0x3f80);
    expect(encodeHalf(1 + 2 ** -8, "bf16")).toBe(0x3f80);
    expect(encodeHalf(1 + 3 * 2 ** -8, "bf16")).toBe(0x3f82);
    expect(encodeHalf(3.4e38, "bf16")).toBe(0x7f80);
    expect(encodeHalf(-2, "bf16")).toBe(0xc000);
    expect(decodeHalf(encodeHalf(Number.NaN, "bf16"), "bf16")).toBeNaN();
    const words = new Uint32Array(1);
    const floats = new Float32Array(words.buffer);
    const wrong = Array.from({ length: 0x10000 }, (_, bits) => bits).filter((bits) => {
      words[0] = bits * 0x10000;
      return !Object.is(decodeHalf(bits, "bf16"), floats[0]);
    });
    expect(wrong).toEqual([]);
  });

  test.each(["f16", "bf16"] as const)("every %s survives decode and encode", (format) => {
    const infinity = format === "f16" ? 0x7c00 : 0x7f80;
    const bits = Uint16Array.from({ length: 0x10000 }, (_, i) => i).filter((b) => (b & 0x7fff) <= infinity);
    expect(Buffer.from(encodeHalves(decodeHalves(bits, format), format).buffer).equals(Buffer.from(bits.buffer))).toBe(
      true,
    );
  });
});

describe("expectClose", () => {
  const tolerance = { atol: 0.1, shape: [2, 3], why: "a test" };
  const expected = f64(1, 2, 3, 4, 5, 6);

  test("returns the largest difference", () => {
    const { maxAbs, index } = expectClose(f64(1, 2, 3, 4, 5.0625, 6), expected, tolerance);
    expect([maxAbs, index]).toEqual([0.0625, 4]);
    expectClose(f64(1, 2, 3, 4, 5.5, 6), expected, { ...tolerance, rtol: 0.1 });
  });

  test("gives the count, the worst case and its coordinates", () => {
    expect(() => expectClose(f64(1, 2, 3.2, 4, 5, 9), expected, tolerance)).toThrow(
      /2 of 6 elements .*\(a test\); worst at \[1, 2\]: expected 6, got 9; largest difference 3 at \[1, 2\]/,
    );
  });

  test("non-finite values match only themselves", () => {
    const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
    const one = { ...tolerance, shape: [1] };
    for (const same of [nan, inf, -inf]) expectClose(f64(same), f64(same), one);
    for (const [a, e] of [
      [nan, 1],
      [1, nan],
      [inf, 1],
      [1, inf],
      [inf, -inf],
      [nan, inf],
    ] as const) {
      expect(() => expectClose(f64(a), f64(e), { ...one, atol: 1e30, rtol: 1 }), `${a} ${e}`).toThrow("worst at [0]");
    }
  });

  test("lengths must be those of the shape", () => {
    expect(() => expectClose(f64(1), expected, tolerance)).toThrow("expected 6 elements");
  });
});

describe("random values", () => {
  test("the same seed gives the same numbers, another seed others", () => {
    expect(randomValues(7, 100)).toEqual(randomValues(7, 100));
    expect(randomValues(7, 100)).not.toEqual(randomValues(8, 100));
  });

  test("uniform and normal have their moments", () => {
    const uniform = seededRandom(3);
    const sample = Array.from({ length: 20000 }, uniform);
    expect(sample.reduce((a, b) => a + b) / 20000).toBeCloseTo(0.5, 1.7);
    const normal = randomValues(5, 20000);
    const mean = normal.reduce((a, b) => a + b) / 20000;
    expect(Math.abs(mean)).toBeLessThan(0.03);
    expect(normal.reduce((a, b) => a + b * b, 0) / 20000).toBeCloseTo(1, 1);
  });

  test.each(nastyModes)("mode %s does what it says, without NaN or infinity", (mode) => {
    const values = randomValues(11, 5000, mode);
    const sizes = [...values].map(Math.abs);
    expect(values.every(Number.isFinite)).toBe(true);
    const top = Math.max(...sizes);
    if (mode === "outliers") expect(top).toBeGreaterThan(100);
    if (mode === "tiny") expect(top).toBeLessThan(2 ** -14);
    if (mode === "mixed") expect([sizes.some((s) => s > 50), sizes.some((s) => s < 2e-4)]).toEqual([true, true]);
    if (mode === "zeros") expect([values.includes(0), [...values].some((v) => Object.is(v, -0))]).toEqual([true, true]);
    if (mode === "denormals") expect([top > 0, top < 2 ** -126]).toEqual([true, true]);
  });
});

// The ops put together must be the published models: the strongest check on them, and on the fixtures.
describe("reference models", () => {
  const cases = listCases(
    ({ modelType, quantized }) => ["phi", "phi3", "phi3small", "phimoe"].includes(modelType) && !quantized,
  );

  test("every architecture of the fixtures is there", () => {
    const names = cases.map(({ name }) => name);
    const onlyShared = sharedFolders().length > 0 ? ["phi-3-small-8k", "phi-3.5-moe"] : [];
    expect(names.filter((name) => onlyShared.includes(name))).toEqual(onlyShared);
    expect(names.filter((name) => !onlyShared.includes(name))).toEqual([
      "phi-1",
      "phi-1_5",
      "phi-2",
      "phi-2-qk-layernorm",
      "phi-3-medium-4k",
      "phi-3-mini-128k",
      "phi-3-mini-128k-su",
      "phi-3-mini-4k",
      "phi-3-small-128k",
      "phi-3.5-moe-wide-jitter",
      "phi-4",
      "phi-4-mini",
    ]);
  });

  // NOTES.md measured 4.3e-5 between float64 and the float32 reference at most.
  const tolerance = { atol: 1e-4, why: "the reference was computed in float32" };
  // Its final norm carries the scale that the µP division takes away: 1.02e-4 by NOTES.md, at a deviation of 13.8.
  const large = { ...tolerance, atol: 2e-4 };
  test.each(cases)("$name: hidden states, logits, greedy ids", { timeout: 60_000 }, (entry) => {
    const { prompts, hidden, hiddenSize, vocab, name } = loadCase(entry.folder);
    const forward = loadForward(entry);

    const traced = prompts[hidden.prompt];
    const states = forward(traced?.ids ?? []).hidden;
    for (const state of hidden.names) {
      const expected = hidden.tensors.get(state)?.values ?? new Float32Array();
      expectClose(states.get(state) ?? f64(), expected, {
        ...(name === "phi-3-small-128k" && state === "hidden.final_norm" ? large : tolerance),
        shape: [traced?.length ?? 0, hiddenSize],
        what: `${name} ${state}`,
      });
    }
    for (const { ids, logits, length, greedy } of prompts) {
      if (length > 40) continue;
      const actual = forward(ids).logits;
      // A trimmed fixture has only the greedy ids of its longer prompts.
      const what = `${name} length ${length}`;
      if (logits !== undefined) expectClose(actual, logits, { ...tolerance, shape: [length, vocab], what });
      expect(argmax(actual, { seq: length, cols: vocab }).at(-1)).toBe(greedy[0]);
    }
    for (const { ids, greedy, crossesBoundaryAt } of prompts) {
      if (crossesBoundaryAt === undefined) continue;
      for (const step of [crossesBoundaryAt - 1, crossesBoundaryAt]) {
        const all = [...ids, ...greedy.slice(0, step)];
        expect(argmax(forward(all).logits, { seq: all.length, cols: vocab }).at(-1)).toBe(greedy[step]);
      }
    }
  });

  const shared = new Map(sharedFolders().map((folder) => [basename(folder), folder]));
  test.skipIf(shared.size === 0)("trimmed fixtures are parts of the shared cases", () => {
    const folders = fixtureFolders();
    expect(folders).toHaveLength(13);
    for (const folder of folders) {
      const whole = shared.get(basename(folder)) ?? "";
      const all = readTensors(join(whole, "reference.safetensors"));
      for (const [name, { values, shape }] of readTensors(join(folder, "reference.safetensors"))) {
        expectClose(values, all.get(name)?.values ?? f64(), {
          atol: 0,
          why: "a copy",
          shape,
          what: `${folder} ${name}`,
        });
      }
      for (const file of ["model.safetensors", "model.safetensors.index.json", "config.json"]) {
        const path = join(whole, file);
        if (existsSync(path)) expect(readFileSync(join(folder, file)).equals(readFileSync(path)), path).toBe(true);
      }
    }
  });
});
