import { describe, expect, test } from "vitest";
import type { Kernel } from "../../../kernels/kernel.ts";
import { headNorm, layerNorm, rmsNorm } from "../../../kernels/norm/norm.ts";
import { type NastyMode, nastyModes, randomValues } from "../../reference/compare.ts";
import type { Numbers } from "../../reference/ops.ts";
import * as reference from "../../reference/ops.ts";
import { broken, expectWithin, liveBuffers, runKernel, smallest, u } from "../harness.ts";

/** Sizes around a vector and a workgroup, fewer columns than threads, phi-tiny's and a real width. */
const rowCases = [
  { cols: 576, eps: 1e-5, lanes: 8 },
  { cols: 63, eps: 1e-6, lanes: 8 },
  { cols: 65, eps: 1e-5, lanes: 128 },
  { cols: 8, eps: 1e-5, lanes: 128 },
];

/** Calls of several lengths; each mode once. `offset` is added to all of x: a mean far from zero. */
const calls: readonly { readonly seq: number; readonly mode: NastyMode; readonly offset?: number }[] = [
  ...nastyModes.map((mode, i) => ({ seq: [1, 3, 4, 5, 63, 65][i] ?? 1, mode })),
  { seq: 2, mode: "normal", offset: 1000 },
];

/** The values of a row, shifted. A sum with a large offset cannot be better than the rounding of its own inputs. */
function input(seed: number, count: number, { mode, offset = 0 }: (typeof calls)[number]) {
  return randomValues(seed, count, mode).map((value) => value + offset);
}

/**
 * How far float32 may be from RMSNorm, for each element of a row. A sum of n positive terms in any order is within
 * n * u of its value, relatively (Higham, Accuracy and Stability, 4.2), and its inverse root within half of that; WGSL
 * gives inverseSqrt 2 ULP = 4u; division, addition of eps and three products are one rounding each.
 */
function rmsNormBound(x: Numbers, gain: Numbers, cols: number, eps: number) {
  const expected = reference.rmsNorm(x, gain, { seq: x.length / cols, cols, eps });
  const relative = (cols / 2 + 10) * u;
  // A subnormal x may count as zero; what it would have become is at most smallest / sqrt(eps) * gain.
  return (i: number) => {
    const flushed = smallest * (1 + Math.abs(gain[i % cols] ?? 0) / Math.sqrt(eps));
    return relative * Math.abs(expected[i] ?? 0) + flushed;
  };
}

async function checkRmsNorm(kernel: Kernel, { cols, eps }: (typeof rowCases)[number]): Promise<void> {
  for (const call of calls) {
    const { seq, mode } = call;
    const x = input(cols + seq, seq * cols, call);
    const gain = randomValues(cols, cols, "outliers");
    const { y } = await runKernel(kernel, { seq, past: 3 }, { x, gain: { vector: gain }, y: { output: seq * cols } });
    const expected = reference.rmsNorm(x, gain, { seq, cols, eps });
    expectWithin(y, expected, rmsNormBound(x, gain, cols, eps), { shape: [seq, cols], what: `rmsNorm, ${mode}` });
  }
}

/**
 * How far float32 may be from LayerNorm, for each element. The mean is off by at most (n + 1) u mean|x|, and with it
 * every difference d; the variance by (n + 5) u relatively, by the square of the mean's error, and by what the rounding
 * of each d adds; the inverse root halves that.
 */
function layerNormBound(x: Numbers, gain: Numbers, bias: Numbers, cols: number, eps: number) {
  const bounds = new Float64Array(x.length);
  for (let row = 0; row < x.length; row += cols) {
    const values = [...x.subarray(row, row + cols)];
    const mean = values.reduce((sum, value) => sum + value / cols, 0);
    const meanError = (cols + 1) * u * values.reduce((sum, value) => sum + Math.abs(value) / cols, 0) + smallest;
    const variance = values.reduce((sum, value) => sum + (value - mean) ** 2 / cols, 0);
    const scale = 1 / Math.sqrt(variance + eps);
    const scaleError = ((((cols + 5) * u * variance + meanError ** 2) / (variance + eps)) * 1) / 2 + 6 * u;
    values.forEach((value, i) => {
      const d = Math.abs(value - mean);
      const [g, b] = [Math.abs(gain[i] ?? 0), Math.abs(bias[i] ?? 0)];
      const y = d * scale * g;
      bounds[row + i] = (meanError + u * d) * scale * g + y * (scaleError + 4 * u) + 2 * u * (y + b) + smallest;
    });
  }
  return (i: number) => bounds[i] ?? 0;
}

async function checkLayerNorm(kernel: Kernel, { cols, eps }: (typeof rowCases)[number]): Promise<void> {
  for (const call of calls) {
    const { seq, mode } = call;
    const x = input(cols + seq, seq * cols, call);
    const gain = randomValues(cols, cols, "outliers");
    const bias = randomValues(cols + 1, cols);
    const { y } = await runKernel(
      kernel,
      { seq, past: 3 },
      { x, gain: { vector: gain }, bias: { vector: bias }, y: { output: seq * cols } },
    );
    const expected = reference.layerNorm(x, gain, bias, { seq, cols, eps });
    const bound = layerNormBound(x, gain, bias, cols, eps);
    expectWithin(y, expected, bound, { shape: [seq, cols], what: `layerNorm, ${mode}` });
  }
}

interface HeadCase {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

async function checkHeadNorm(kernel: Kernel, shape: HeadCase, eps: number): Promise<void> {
  const { heads, kvHeads, headDim } = shape;
  const cols = reference.qkvCols(shape);
  for (const call of calls) {
    const { seq, mode } = call;
    const qkv = input(cols + seq, seq * cols, call);
    const [qGain, qBias, kGain, kBias] = [1, 2, 3, 4].map((seed) => randomValues(seed, headDim)) as [
      Float32Array<ArrayBuffer>,
      Float32Array<ArrayBuffer>,
      Float32Array<ArrayBuffer>,
      Float32Array<ArrayBuffer>,
    ];
    const vectors = {
      qGain: { vector: qGain },
      qBias: { vector: qBias },
      kGain: { vector: kGain },
      kBias: { vector: kBias },
    };
    const operands = { qkv, ...vectors, y: { output: seq * cols } };
    const { y } = await runKernel(kernel, { seq, past: 3 }, operands);
    const norm = { qWeight: qGain, qBias, kWeight: kGain, kBias };
    const expected = reference.headNorm(qkv, norm, { ...shape, seq, eps });
    const queries = layerNormBound(qkv, qGain, qBias, headDim, eps);
    const keys = layerNormBound(qkv, kGain, kBias, headDim, eps);
    const bound = (i: number) => {
      const head = Math.floor((i % cols) / headDim);
      if (head < heads) return queries(i);
      return head < heads + kvHeads ? keys(i) : Math.abs(expected[i] ?? 0) < smallest ? smallest : 0; // v is copied
    };
    expectWithin(y, expected, bound, { shape: [seq, heads + 2 * kvHeads, headDim], what: `headNorm, ${mode}` });
  }
}

describe("rmsNorm", () => {
  test.each(rowCases)("$cols columns, eps $eps, $lanes threads", async (row) => {
    await checkRmsNorm(rmsNorm(row.eps, row.lanes), row);
  });

  test("more rows than a grid has in one dimension", async () => {
    const [seq, cols, eps] = [66_001, 8, 1e-5];
    const x = randomValues(1, seq * cols);
    const gain = randomValues(2, cols);
    const { y } = await runKernel(rmsNorm(eps, 1), { seq }, { x, gain: { vector: gain }, y: { output: seq * cols } });
    const expected = reference.rmsNorm(x, gain, { seq, cols, eps });
    expectWithin(y, expected, rmsNormBound(x, gain, cols, eps), { shape: [seq, cols], what: "rmsNorm" });
  });

  test("mistakes are found: no eps, the last column", async () => {
    const row = { cols: 63, eps: 1e-6, lanes: 8 };
    for (const [from, to] of [
      [" + EPS", ""],
      ["total / f32(cols)", "total / f32(cols + 1u)"],
      ["partial[lane] = squares", "partial[lane] = squares - select(0.0, x[base] * x[base], lane == 0u)"],
    ] as const) {
      const kernel = await broken(rmsNorm(row.eps, row.lanes), from, to);
      await expect(checkRmsNorm(kernel, row)).rejects.toThrow(/elements differ/);
    }
  });
});

describe("layerNorm", () => {
  test.each(rowCases)("$cols columns, eps $eps, $lanes threads", async (row) => {
    await checkLayerNorm(layerNorm(row.eps, row.lanes), row);
  });

  test("mistakes are found: no eps, the sum of squares in place of the variance", async () => {
    const row = { cols: 63, eps: 1e-6, lanes: 8 };
    for (const [from, to] of [
      [" + EPS", ""],
      ["(x[base + i] - mean) * (x[base + i] - mean)", "x[base + i] * x[base + i]"],
    ] as const) {
      const kernel = await broken(layerNorm(row.eps, row.lanes), from, to);
      await expect(checkLayerNorm(kernel, row)).rejects.toThrow(/elements differ/);
    }
  });
});

describe("headNorm", () => {
  const shapes: readonly HeadCase[] = [
    { heads: 4, kvHeads: 2, headDim: 6 },
    { heads: 3, kvHeads: 1, headDim: 80 },
  ];
  test.each(shapes)("$heads query heads, $kvHeads key heads of $headDim", async (shape) => {
    await checkHeadNorm(headNorm(shape.heads, shape.kvHeads, shape.headDim, 1e-5), shape, 1e-5);
  });

  test("a mistake is found: the keys' gain on the last query head", async () => {
    const [shape] = shapes;
    if (shape === undefined) throw new Error("no shape");
    const kernel = await broken(headNorm(shape.heads, shape.kvHeads, shape.headDim, 1e-5), "< HEADS)", "< HEADS - 1u)");
    await expect(checkHeadNorm(kernel, shape, 1e-5)).rejects.toThrow(/elements differ/);
  });
});

test("no buffer is left", async () => expect(await liveBuffers()).toBe(0));
