/** The quantizer against the same search in float64, and on groups that have no good grid. */
import { describe, expect, test } from "vitest";
import type { Kernel } from "../../../kernels/kernel.ts";
import { pieceWords, type QuantizeShape, quantize } from "../../../kernels/loading/quantize.ts";
import { matrixWords, rowBytes, scaleRowBytes } from "../../../kernels/weights/weights.ts";
import { type NastyMode, seededRandom } from "../../reference/compare.ts";
import { half, searchGroup, unpackQuantized } from "../../reference/quantized.ts";
import { broken, liveBuffers, packedWeight, runKernel } from "../harness.ts";

/** Quantizes packed plain rows; they become rows 1 … of the outputs, of which row 0 is not written. */
async function run(shape: QuantizeShape, rows: number, weight: Uint32Array<ArrayBuffer>, kernel = quantize(shape)) {
  const { to, cols, group } = shape;
  const weightWords = rowBytes(to, cols) / 4;
  const scaleWords = scaleRowBytes({ layout: to, group }, cols) / 4;
  const out = await runKernel(
    kernel,
    { seq: rows },
    {
      piece: pieceWords({ rows, firstRow: 1, rowsTotal: rows + 1, tileRows: 1 }),
      weight,
      matrix: matrixWords({ rows, cols }),
      packed: { output: (rows + 1) * weightWords },
      scales: { output: (rows + 1) * scaleWords },
      found: { inPlace: new Uint32Array(5) },
    },
  );
  const bytes = (words: Float32Array, from: number) =>
    new Uint8Array(words.buffer, 4 * from, 4 * (words.length - from));
  const packed = { weight: bytes(out.packed, weightWords), scales: bytes(out.scales, scaleWords) };
  const values = unpackQuantized(to, packed, { rows, cols, group });
  return { values, found: new Uint32Array(out.found.buffer, 0, 5) };
}

interface Case extends QuantizeShape {
  readonly rows: number;
  readonly weights: NastyMode;
}

/** Each kind of zero, group and number of bits; columns that end inside a block and inside a group. */
const cases: readonly Case[] = [
  { from: "f32", to: "q4", group: 32, zero: "any", cols: 96, rows: 65, weights: "normal" },
  { from: "bf16", to: "q4", group: 128, zero: "any", cols: 333, rows: 33, weights: "outliers" },
  { from: "f16", to: "q8", group: 64, zero: "middle", cols: 192, rows: 33, weights: "mixed" },
  { from: "f32", to: "q4", group: 32, zero: "whole", cols: 72, rows: 63, weights: "normal" },
];

/**
 * The squared error of each group against the search in float64. Both take the same steps; where a scale or an integer
 * lies between two, rounding may send them different ways, to grids that are about as good: 5 % a group, 0.2 % in all.
 */
async function check(one: Case, kernel?: Kernel): Promise<void> {
  const { from, to, group, zero, cols, rows, weights } = one;
  const weight = packedWeight(rows, { layout: from }, rows, cols, weights);
  const { values, found } = await run(one, rows, weight.words(0, rows), kernel);
  expect([...found]).toEqual([0, 0, Math.ceil((rows * Math.ceil(cols / group)) / 64), 0, 0]);
  const totals = { actual: 0, expected: 0 };
  for (let row = 0; row < rows; row++) {
    for (let first = 0; first < cols; first += group) {
      const at = row * cols + first;
      const w = [...weight.values.subarray(at, at + Math.min(group, cols - first))];
      const actual = w.reduce((sum, value, i) => sum + (value - (values[at + i] ?? Number.NaN)) ** 2, 0);
      const expected = searchGroup(w, to, zero).error;
      const size = w.reduce((sum, value) => sum + value * value, 0);
      totals.actual += actual / size;
      totals.expected += expected / size;
      expect(actual, `row ${row}, columns ${first} …`).toBeLessThanOrEqual(1.05 * expected + 1e-9 * size);
    }
  }
  expect(totals.actual).toBeLessThanOrEqual(1.002 * totals.expected);
}

describe("quantize", () => {
  test.each(cases)("$from to $to, groups of $group, $zero zeros, $cols columns", async (one) => {
    await check(one);
  });

  test("mistakes are found: the line, the last columns", async () => {
    const [, ragged] = cases;
    if (ragged === undefined) throw new Error("no case");
    for (const [from, to] of [
      ["n * sw - s1 * sumW", "n * sw - s1"],
      ["f32(matrix.cols) - f32", "f32(matrix.cols) + 4.0 - f32"],
    ] as const) {
      await expect(check(ragged, await broken(quantize(ragged), from, to))).rejects.toThrow();
    }
  });

  /** Groups of 32 columns, a row each, in float32. */
  async function quantizeGroups(groups: readonly (readonly number[])[]) {
    const shape: QuantizeShape = { from: "f32", to: "q4", group: 32, zero: "any", cols: 32 };
    const words = new Uint32Array(Float32Array.from(groups.flat()).buffer);
    return run(shape, groups.length, words);
  }
  const fill = (value: (i: number) => number) => Array.from({ length: 32 }, (_, i) => value(i));
  const random = seededRandom(5);

  test("weights on a grid of 16 levels with a float16 scale: found exactly", async () => {
    const grids = Array.from({ length: 64 }, () => {
      const scale = half(0.5 * 2 ** (-12 * random()));
      const zero = half(16 * random());
      return { scale, w: fill((i) => Math.fround(scale * ((i < 16 ? i : Math.floor(16 * random())) - zero))) };
    });
    const { values } = await quantizeGroups(grids.map(({ w }) => w));
    grids.forEach(({ scale, w }, row) => {
      for (const [i, value] of w.entries()) {
        // The zero is found again within a rounding of float16: at 16 steps they are 1/128 apart.
        expect(Math.abs((values[row * 32 + i] ?? Number.NaN) - value), `row ${row}`).toBeLessThanOrEqual(scale / 100);
      }
    });
  });

  /** Rows without a good grid, and how far a weight may come back from what it was. */
  const awkward: readonly (readonly [what: string, w: readonly number[], bound: number])[] = [
    ["zeros", fill(() => 0), 0],
    ["negative zeros", fill(() => -0), 0],
    ["one value", fill(() => 0.3), 0.3 * 2 ** -11],
    ["one negative value", fill(() => -1234.5), 1234.5 * 2 ** -11],
    ["one small value", fill(() => 1e-5), 2 ** -25],
    ["subnormal float32", fill((i) => i * 1e-40), 2 ** -24],
    ["below float16", fill((i) => (i - 16) * 1e-9), 2 ** -24],
    ["at its smallest", fill((i) => (i - 16) * 2 ** -24), 2 ** -24],
    ["one outlier", fill((i) => (i === 9 ? 1000 : Math.sin(i) / 100)), 1000 / 15],
    ["far from zero", fill((i) => 1 + i * 1e-4), 2 ** -10],
    ["the largest scales", fill((i) => (i - 16) * 30000), 33000],
  ];

  test("groups without a good grid stay finite, and near", async () => {
    const { values, found } = await quantizeGroups(awkward.map(([, w]) => w));
    awkward.forEach(([what, w, bound], row) => {
      for (const [i, value] of w.entries()) {
        expect(Math.abs((values[row * 32 + i] ?? Number.NaN) - value), what).toBeLessThanOrEqual(bound);
      }
    });
    expect([...found]).toEqual([0, 0, 1, 0, 0]);
  });

  test("what is not finite, and what has no float16 scale, is counted and found", async () => {
    const fine = fill((i) => i);
    const rows = [
      fine,
      fill((i) => (i === 5 ? Number.NaN : i === 9 ? Number.NEGATIVE_INFINITY : i)),
      fine,
      fill((i) => (i % 2 ? -3e38 : 3.4e38)),
      fill((i) => 1e7 * i),
      fill(() => 3e38), // the sum of two is infinite, where a compiler adds them before it scales them down
    ];
    const { values, found } = await quantizeGroups(rows);
    // Indices are those of the outputs, where rows begin at 1.
    expect([...found]).toEqual([2, ~(2 * 32 + 5) >>> 0, 1, 3, ~(4 * 32) >>> 0]);
    expect(values.slice(32, 64).every(Number.isNaN)).toBe(true);
    expect(values.slice(64, 96).every(Number.isFinite)).toBe(true);
  });

  test("no buffer is left", async () => expect(await liveBuffers()).toBe(0));
});
