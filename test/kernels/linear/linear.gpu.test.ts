/** matvec and matmul: every weight layout with every epilogue, over ragged sizes, row ranges and both kinds of tile. */
import { describe, expect, test } from "vitest";
import type { Kernel } from "../../../kernels/kernel.ts";
import type { Epilogue, LinearShape } from "../../../kernels/linear/linear.ts";
import { matmul } from "../../../kernels/linear/matmul.ts";
import { matvec } from "../../../kernels/linear/matvec.ts";
import type { Packing } from "../../../kernels/weights/weights.ts";
import { type NastyMode, randomValues } from "../../reference/compare.ts";
import * as reference from "../../reference/ops.ts";
import {
  broken,
  expectWithin,
  kernelSetup,
  liveBuffers,
  type Operand,
  packedWeight,
  runKernel,
  smallest,
  u,
  weightOperands,
} from "../harness.ts";

const packings: readonly Packing[] = [
  { layout: "f32" },
  { layout: "f16" },
  { layout: "bf16" },
  { layout: "q4", group: 32 },
  { layout: "q8", group: 64 },
];
const epilogues: readonly Epilogue[] = ["none", "bias", "residual", "bias_residual", "bias_gelu", "gated_silu"];

interface LinearCase {
  readonly packing: Packing;
  readonly epilogue: Epilogue;
  readonly activations?: "int8";
  readonly rows: number;
  readonly cols: number;
  /** How a software adapter shares out the work, with the loads of x shared within subgroups or not, or how a GPU does. */
  readonly tile: "software" | "shared" | "gpu";
  readonly weights: NastyMode;
  /** The row ranges that together make the weight. */
  readonly ranges: readonly (readonly [first: number, rows: number])[];
}

/** Each layout with each epilogue; sizes, tiles and weights take turns. */
const cases: readonly LinearCase[] = packings.flatMap((packing, l) =>
  epilogues.map((epilogue, e) => {
    const i = l * epilogues.length + e;
    const rows = [65, 130, 63, 1][i % 4] ?? 1;
    const ranges = rows === 1 ? ([[0, 1]] as const) : ([[0, rows], [0, 33], [33, rows - 33]] as const); // biome-ignore format: a list
    return {
      packing,
      epilogue,
      rows,
      cols: [65, 8, 63, 96, 576][i % 5] ?? 8,
      tile: (["software", "shared", "gpu", "shared"] as const)[i % 4] ?? "gpu",
      weights: (["normal", "outliers", "tiny"] as const)[i % 3] ?? "normal",
      ranges,
    };
  }),
);

/** Epilogues of one model only, which is stored as bfloat16. */
const phi3smallCases: readonly LinearCase[] = (["bias_gegelu", "scale_mask"] as const).map((epilogue, i) => {
  const common = {
    packing: { layout: "bf16" },
    epilogue,
    rows: 65,
    cols: [96, 63][i] ?? 8,
    weights: "outliers",
  } as const;
  return { ...common, tile: i === 0 ? "software" : "gpu", ranges: [[0, 65], [33, 32]] }; // biome-ignore format: a list
});
/** gegelu's limit, which some sums are beyond, and the scale before a mask. */
const epilogueConstants: Partial<Record<Epilogue, Readonly<Record<string, number>>>> = {
  bias_gegelu: { LIMIT: 3 },
  scale_mask: { SCALE: 0.125 },
};
const partsOf = (epilogue: Epilogue) => (epilogue === "gated_silu" || epilogue === "bias_gegelu" ? 2 : 1);

/** Every mode of x, and lengths around the tiles of 4 and 8 tokens. */
const matmulCalls: readonly (readonly [seq: number, mode: NastyMode])[] = [
  [1, "normal"],
  [3, "outliers"],
  [4, "mixed"],
  [5, "tiny"],
  [63, "zeros"],
  [65, "normal"],
  [2, "denormals"],
];
const matvecCalls = matmulCalls.map(([, mode]) => [1, mode] as const);

/**
 * What a linear should give and how far float32 may be from it. A sum of n products in any order is within
 * n u sum|w x| (Higham, Accuracy and Stability, 3.1); the epilogues propagate that error by their slope and add their own:
 *   gelu_new   slope at most 1.13; WGSL allows tanh an absolute error of 1e-5, and 0.5 |v| multiplies it
 *   silu       slope at most 1.1; exp(-g) has 3 + 2|g| ULP in WGSL, division 2.5 ULP
 *   gegelu     the same of 1.702 a, and the clamps do not widen an error
 *   scale_mask a power of two, so that only the addition of the mask rounds
 */
function linearReference(
  { packing, epilogue, activations, rows, cols }: LinearCase,
  seq: number,
  given: Float32Array,
  weight: Float32Array,
  bias: Float32Array,
  residual: Float32Array,
) {
  const shape = { seq, rows: partsOf(epilogue) * rows, cols };
  const hasBias = epilogue.startsWith("bias");
  // Of one product and the bias; a quantized weight is rounded at the difference, the scale and in our own values too.
  const roundings = "group" in packing ? 5 : 2;
  const blocks = activations === "int8" ? reference.int8Blocks(given, { seq, cols }) : undefined;
  const x: reference.Numbers = blocks?.values ?? given;
  const sizes = weight.map(Math.abs);
  const sums = reference.linear(x, weight, shape, hasBias ? { bias } : {});
  const magnitudes = reference.linear(x.map(Math.abs), sizes, shape, hasBias ? { bias: bias.map(Math.abs) } : {});
  // A number next to a half may be rounded to either side: the division before it has 2.5 ULP.
  const isDoubtful = blocks && reference.nextToHalves(given, blocks);
  const doubts = isDoubtful?.includes(true)
    ? reference.linear(blocks?.steps.map((step, i) => (isDoubtful[i] ? step : 0)) ?? given, sizes, shape)
    : undefined; // biome-ignore format: one value
  const largest = (values: Iterable<number>) => [...values].reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const flushed = smallest * cols * (1 + largest(x) + largest(weight));
  const sumError = (i: number) => (cols + roundings) * u * (magnitudes[i] ?? 0) + flushed + (doubts?.[i] ?? 0);
  const sum = (i: number) => sums[i] ?? Number.NaN;

  switch (epilogue) {
    case "none":
    case "bias":
      return { expected: sums, bound: sumError };
    case "residual":
    case "bias_residual": {
      const expected = reference.add(sums, residual);
      return { expected, bound: (i: number) => sumError(i) + 2 * u * Math.abs(expected[i] ?? 0) };
    }
    case "bias_gelu":
      return {
        expected: sums.map(reference.geluNew),
        bound: (i: number) => 1.13 * sumError(i) + (0.5e-5 + 8 * u) * Math.abs(sum(i)),
      };
    case "gated_silu": {
      const expected = reference.gatedSilu(sums, { seq, ffn: rows });
      const bound = (i: number) => {
        const at = Math.floor(i / rows) * 2 * rows + (i % rows);
        const [gate, up] = [sum(at), sum(at + rows)];
        const upError = sumError(at + rows);
        const ownError = 2 * u * (8 + 2 * Math.abs(gate)) * Math.abs(expected[i] ?? 0);
        const tail = 2 ** -110 * (1 + Math.abs(up)); // exp(-g) overflows for g < -88, where silu is 88 exp(-88) at most
        const gateError = 1.1 * sumError(at);
        return gateError * (Math.abs(up) + upError) + Math.abs(reference.silu(gate)) * upError + ownError + tail;
      };
      return { expected, bound };
    }
    case "bias_gegelu": {
      const at = (i: number) => Math.floor(i / rows) * 2 * rows + (i % rows);
      const pairs = Float64Array.from({ length: sums.length }, (_, i) => sum(at(i >> 1) + (i % 2) * rows));
      const limit = epilogueConstants.bias_gegelu?.LIMIT ?? 0;
      const expected = reference.gegeluPairs(pairs, limit);
      const bound = (i: number) => {
        const a = Math.min(pairs[2 * i] ?? Number.NaN, limit);
        const b1 = Math.abs(Math.max(-limit, Math.min(limit, pairs[2 * i + 1] ?? Number.NaN)) + 1);
        const bError = sumError(at(i) + rows) + u * (b1 + 1);
        const quick = Math.abs(a / (1 + Math.exp(-1.702 * a)));
        const ownError = 2 * u * (8 + 4 * Math.abs(a)) * Math.abs(expected[i] ?? 0);
        return 1.1 * sumError(at(i)) * (b1 + bError) + quick * bError + ownError + 2 ** -110 * (1 + b1);
      };
      return { expected, bound };
    }
    case "scale_mask": {
      const scale = epilogueConstants.scale_mask?.SCALE ?? 0;
      const expected = sums.map((value, i) => scale * value + (mask[i % rows] ?? Number.NaN));
      return { expected, bound: (i: number) => sumError(i) + u * Math.abs(expected[i] ?? 0) };
    }
  }
}

/** Every fourth row is not to be chosen. */
const masked = (row: number) => row % 4 === 1;
const mask = Float32Array.from({ length: 65 }, (_, row) => (masked(row) ? -3.4028234663852886e38 : 0));

type Recipe = (rangeRows: number) => Kernel | Promise<Kernel>;

/** The sum of squared differences over that of squares, where something is expected. */
function normalizedSquaredError(actual: Float32Array, expected: Float64Array): number {
  const sums = { error: 0, size: 0 };
  expected.forEach((value, i) => {
    if (Number.isNaN(value)) return;
    sums.error += (value - (actual[i] ?? Number.NaN)) ** 2;
    sums.size += value * value;
  });
  return sums.error / sums.size;
}

async function check(one: LinearCase, calls: typeof matmulCalls, recipe: Recipe): Promise<void> {
  const { packing, epilogue, rows, cols, weights, ranges } = one;
  const parts = partsOf(epilogue);
  const tileRows = one.tile === "gpu" ? 1 : 32;
  const weight = packedWeight(rows + cols, packing, parts * rows, cols, weights);
  const bias = randomValues(rows, parts * rows, "outliers");
  for (const [seq, mode] of calls) {
    const x = randomValues(seq + cols, seq * cols, mode);
    const residual = randomValues(seq, seq * rows, "outliers");
    const { expected, bound } = linearReference(one, seq, x, weight.values, bias, residual);
    for (const [first, count] of ranges) {
      const kernel = await recipe(count);
      const operands: Record<string, Operand> = {
        x,
        ...weightOperands({ weight, packing, cols }, { first, rows: count, rowsTotal: rows, parts, tileRows }),
        ...(epilogue.startsWith("bias") ? { bias: { vector: bias } } : {}),
        ...(epilogue.endsWith("residual") ? { residual } : {}),
        ...(epilogue === "scale_mask" ? { mask: { vector: mask } } : {}),
      };
      const { y } = await runKernel(kernel, { seq, past: 7 }, { ...operands, y: { output: seq * rows } });
      // Rows outside the range are another dispatch's.
      const isHere = (i: number) => i % rows >= first && i % rows < first + count;
      const here = expected.map((value, i) => (isHere(i) ? value : Number.NaN));
      if (y === undefined) throw new Error("no y");
      const what = `${kernel.name} rows ${first}+${count} of ${rows}, ${cols} columns, x ${mode}`;
      expectWithin(y, here, bound, { shape: [seq, rows], what });
      if ("group" in packing && epilogue === "none" && mode === "normal") {
        // What quantized kernels are held to beside the bounds: the same dequantized weights in float64.
        expect(normalizedSquaredError(y, here), what).toBeLessThan(1e-9);
      }
      if (epilogue === "scale_mask" && first === 0)
        expect([...y].filter((value) => value === mask[1])).toHaveLength(16 * seq);
    }
  }
}

/** The adapter's own, or 1: then "shared" is as "software". */
const subgroup = (await kernelSetup()).device.subgroupSize;
const matvecTiles = {
  shared: { lanes: 1, groups: 16, subgroup },
  software: { lanes: 1, groups: 16, subgroup: 1 },
  gpu: { lanes: 32, groups: 2, subgroup: 1 },
};
/** Few tokens where it is about layouts and epilogues; 63 and 65 tokens are more than a tile anyway. */
const matmulTiles = {
  shared: { threads: 16, tokens: 4, subgroup },
  software: { threads: 16, tokens: 4, subgroup: 1 },
  gpu: { threads: 64, tokens: 8, subgroup: 1 },
};

const shapeOf = ({ packing, epilogue, activations, cols }: LinearCase, rangeRows: number): LinearShape => ({
  layout: packing.layout,
  activations,
  epilogue,
  cols,
  rangeRows,
  constants: epilogueConstants[epilogue],
});

const matvecRecipe =
  (one: LinearCase): Recipe =>
  (rangeRows) =>
    matvec(shapeOf(one, rangeRows), matvecTiles[one.tile]);

const matmulRecipe =
  (one: LinearCase): Recipe =>
  (rangeRows) =>
    matmul(shapeOf(one, rangeRows), matmulTiles[one.tile]);

const title = "$packing.layout, $epilogue, $rows rows, $cols columns, $tile tile, $weights weights";

/** A case small and plain enough that a mistake in it is not hidden by anything. */
const plain: LinearCase = {
  packing: { layout: "bf16" },
  epilogue: "none",
  rows: 65,
  cols: 63,
  tile: "software",
  weights: "normal",
  ranges: [[33, 32]],
};

describe("matvec", () => {
  test.each([...cases, ...phi3smallCases])(title, async (one) => {
    await check(one, matvecCalls, matvecRecipe(one));
  });

  test("gegelu's clamps leave a NaN and an infinity as they are", async () => {
    const [gegelu] = phi3smallCases;
    if (gegelu === undefined) throw new Error("no case");
    const { packing, rows, cols } = gegelu;
    const weight = packedWeight(1, packing, 2 * rows, cols);
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      // The bias of every second a is bad, the bias of every third b.
      const bias = Float32Array.from({ length: 2 * rows }, (_, i) =>
        (i < rows ? i % 2 : (i - rows) % 3) === 0 ? bad : 1,
      );
      const operands = {
        x: randomValues(2, cols),
        ...weightOperands({ weight, packing, cols }, { first: 0, rows, rowsTotal: rows, parts: 2 }),
      };
      const kernel = await matvecRecipe(gegelu)(rows);
      const { y } = await runKernel(kernel, { seq: 1 }, { ...operands, bias: { vector: bias }, y: { output: rows } });
      const finite = [...y].map(Number.isFinite);
      expect(finite).toEqual(Array.from({ length: rows }, (_, row) => row % 2 !== 0 && row % 3 !== 0));
    }
  });

  test("with loops that the compiler may unroll, as GPUs have it", async () => {
    await check(plain, matvecCalls, async (rangeRows) => {
      const kernel = await matvecRecipe({ ...plain, tile: "gpu" })(rangeRows);
      return { ...kernel, constants: { ...kernel.constants, UNROLL: 1 } };
    });
  });

  test.skipIf(subgroup === 1)("sums within the subgroup, of all its threads or fewer", async () => {
    for (const lanes of [subgroup, subgroup / 2]) {
      for (const epilogue of ["bias", "gated_silu"] as const) {
        const one: LinearCase = { ...plain, epilogue, packing: { layout: "q4", group: 32 }, cols: 576 };
        const recipe: Recipe = (rangeRows) =>
          matvec(shapeOf(one, rangeRows), { lanes, groups: 1, subgroup: 1, subgroupSum: true });
        await check(one, matvecCalls, recipe);
        const wrong: Recipe = async (rangeRows) => broken(await recipe(rangeRows), "subgroupAdd(sums[p])", "sums[p]");
        await expect(check(one, matvecCalls, wrong)).rejects.toThrow(/elements differ/);
      }
    }
  });

  test("more rows than a grid has workgroups in one dimension", async () => {
    const one = { ...plain, rows: 300_001, cols: 8, ranges: [[0, 300_001]] } as const;
    await check(one, [[1, "normal"]], (rangeRows) =>
      matvec(shapeOf(one, rangeRows), { lanes: 1, groups: 1, subgroup: 1 }),
    );
  });

  test("mistakes are found: the last block, the start of the range, the last row, a lane's share", async () => {
    const gpu: LinearCase = { ...plain, tile: "gpu", cols: 576 };
    for (const [one, from, to] of [
      [plain, "block < blocks;", "block < blocks - 1u;"],
      [plain, "matrix.first + first + r", "first + r"],
      [plain, "first + r < matrix.rows", "first + r + 1u < matrix.rows"],
      [gpu, "half = LANES / 2u", "half = LANES / 4u"],
    ] as const) {
      const recipe: Recipe = async (rangeRows) => broken(await matvecRecipe(one)(rangeRows), from, to);
      await expect(check(one, matvecCalls, recipe)).rejects.toThrow(/elements differ/);
    }
  });
});

describe("matmul", () => {
  test.each([...cases, ...phi3smallCases])(title, async (one) => {
    await check(one, matmulCalls, matmulRecipe(one));
  });

  test("a tile of 32 tokens", async () => {
    const one: LinearCase = { ...plain, packing: { layout: "f16" }, cols: 65, ranges: [[0, 65]] };
    await check(one, matmulCalls, (rangeRows) => matmul(shapeOf(one, rangeRows), { threads: 8, tokens: 32, subgroup }));
  });

  // 9 whole blocks of 8 columns, of which subgroups of 4 and more threads load several at a time.
  test.skipIf(subgroup < 4)("mistakes are found: what lies behind the last block that is loaded", async () => {
    const one: LinearCase = { ...plain, tile: "shared", cols: 72 };
    const recipe: Recipe = async (rangeRows) => broken(await matmulRecipe(one)(rangeRows), "at <= last", "at <= last + 8u"); // biome-ignore format: one line
    await expect(check(one, matmulCalls, recipe)).rejects.toThrow(/elements differ/);
  });

  test("mistakes are found: the last block, the last token, where the tokens end, the bias", async () => {
    for (const [one, from, to] of [
      [plain, "block < blocks;", "block < blocks - 1u;"],
      [plain, "firstToken + t < state.seq", "firstToken + t + 1u < state.seq"],
      [plain, "firstToken + t >= state.seq", "firstToken + t + 1u >= state.seq"],
      [{ ...plain, epilogue: "bias" as const }, "bias[row]", "bias[min(row, 63u)]"],
      [phi3smallCases[0] ?? plain, "b < -LIMIT", "b < -2.0 * LIMIT"],
      [phi3smallCases[0] ?? plain, "a > LIMIT", "a > 2.0 * LIMIT"],
    ] as const) {
      const recipe: Recipe = async (rangeRows) => broken(await matmulRecipe(one)(rangeRows), from, to);
      await expect(check(one, matmulCalls, recipe)).rejects.toThrow(/elements differ/);
    }
  });
});

/** The group is data: all sizes, and a row that ends inside a group, by the pipelines of the cases above. */
const grouped: readonly LinearCase[] = (["q4", "q8"] as const).flatMap((layout) =>
  ([32, 64, 128] as const).map((group) => {
    const packing = { layout, group };
    const tile = layout === "q4" ? "gpu" : "software";
    return { ...plain, packing, tile, cols: 576, ranges: [[0, 65], [33, 32]] }; // biome-ignore format: one line
  }),
);

describe("groups that share a scale", () => {
  test("32, 64 and 128 columns, 4 and 8 bits", async () => {
    for (const one of grouped) {
      await check(one, [[1, "normal"], [1, "outliers"]], matvecRecipe(one)); // biome-ignore format: one line
      await check(one, [[5, "normal"]], matmulRecipe(one));
    }
  });

  test("mistakes are found: the group of a block, the zero, the order of the nibbles, the last tile", async () => {
    for (const [layout, from, to] of [
      ["q4", "block >> matrix.groupShift", "block >> (matrix.groupShift + 1u)"],
      ["q4", "vec4u(15u))) - block.zero", "vec4u(15u)))"],
      ["q4", "block.bits >> vec4u(4u * v)", "block.bits >> vec4u(4u * (v ^ 1u))"],
      ["q8", "min(tileRows, bound - first)", "tileRows"],
    ] as const) {
      const one = grouped.find(
        ({ packing }) => "group" in packing && packing.layout === layout && packing.group === 64,
      );
      if (one === undefined) throw new Error("no case");
      const recipe: Recipe = async (rangeRows) => broken(await matvecRecipe(one)(rangeRows), from, to);
      await expect(check(one, matvecCalls, recipe)).rejects.toThrow(/elements differ/);
    }
  });
});

const hasIntegerDot = await (await kernelSetup()).device.hasLanguageFeature("packed_4x8_integer_dot_product");
if (!hasIntegerDot) console.warn("NOT TESTED: int8 activations (no packed_4x8_integer_dot_product)");

/** Both layouts of integers, the ways to share out the work, sizes with and without a last block that is not whole. */
const int8Cases: readonly LinearCase[] = (["q4", "q8"] as const).flatMap(
  (layout, l) =>
  (["none", "bias_residual", "gated_silu"] as const).map((epilogue, e) => ({
    packing: { layout, group: ([32, 64, 128] as const)[(l + e) % 3] ?? 32 },
    activations: "int8",
    epilogue,
    rows: 65,
    cols: [576, 63, 96][(2 * l + e) % 3] ?? 8,
    tile: (["shared", "gpu", "software"] as const)[e] ?? "gpu",
    weights: (["normal", "outliers"] as const)[e % 2] ?? "normal",
    ranges: [[0, 65], [33, 32]],
  })), // biome-ignore format: one case
);

describe.skipIf(!hasIntegerDot)("int8 activations", () => {
  test.each(int8Cases)(title, async (one) => {
    await check(one, matvecCalls, matvecRecipe(one));
    await check(one, matmulCalls, matmulRecipe(one));
  });

  const one: LinearCase = { ...plain, packing: { layout: "q4", group: 32 }, activations: "int8", tile: "shared" };

  /** Rows of the product of one token. */
  async function run(x: Float32Array<ArrayBuffer>, at: LinearCase = one): Promise<Float32Array> {
    const { packing, rows, cols } = at;
    const weight = packedWeight(1, packing, rows, cols);
    const operands = { x, ...weightOperands({ weight, packing, cols }, { first: 0, rows, rowsTotal: rows }) };
    const kernel = await matvecRecipe(at)(rows);
    return (await runKernel(kernel, { seq: 1 }, { ...operands, y: { output: rows } })).y;
  }

  test("numbers of any size: near the largest float, beside zeros, around the smallest", async () => {
    const { packing, rows, cols } = one;
    const { values } = packedWeight(1, packing, rows, cols);
    const x = randomValues(1, cols);
    for (const factor of [1e30, 1e-30, 2 ** -118, 2 ** -124, 2 ** -130]) {
      const given = x.map((value, i) => (i === 3 ? 2 : value) * factor);
      const { expected, bound } = linearReference(one, 1, given, values, new Float32Array(), new Float32Array());
      expectWithin(await run(given), expected, bound, { shape: [rows], what: `x times ${factor}` });
    }
    expect([...(await run(new Float32Array(cols)))]).toEqual(Array.from({ length: rows }, () => 0));
  });

  test("NaN and infinity become no number, in whichever thread they are loaded", async () => {
    for (const tile of ["shared", "software", "gpu"] as const) {
      for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
        for (const column of [0, 13, 31, 62]) {
          const x = randomValues(3, one.cols);
          x[column] = bad;
          const y = await run(x, { ...one, tile });
          expect([...y].filter(Number.isFinite), `${bad} at ${column}, ${tile}`).toEqual([]);
        }
      }
    }
  });

  test("the product is as near to that of the floats as half a step allows", async () => {
    for (const { packing } of int8Cases.slice(2, 4)) {
      const [rows, cols] = [65, 576];
      const x = randomValues(5, cols, "outliers");
      const weight = packedWeight(1, packing, rows, cols).values;
      const { steps } = reference.int8Blocks(x, { seq: 1, cols });
      const shape = { seq: 1, rows, cols };
      const halves = reference.linear(steps.map((step) => step / 2), weight.map(Math.abs), shape); // biome-ignore format: one line
      const y = await run(x, { ...one, packing, cols });
      expectWithin(y, reference.linear(x, weight, shape), (i) => 1.001 * (halves[i] ?? 0), { shape: [rows], what: packing.layout }); // biome-ignore format: one line
    }
  });

  test("mistakes are found: order of columns, nibbles, zeros, sign, step, rounding, another's block", async () => {
    const q8: LinearCase = { ...one, packing: { layout: "q8", group: 64 }, cols: 576 };
    const shared: readonly (readonly [LinearCase, string, string])[] = [
      [one, "max(largest, otherLane(largest, other))", "largest"],
      [one, "sum += bitcast<i32>(otherLane", "sum -= bitcast<i32>(otherLane"],
    ];
    for (const [broke, from, to] of [
      [one, "vec4u(0u, 8u, 16u, 24u)", "vec4u(0u, 16u, 8u, 24u)"],
      [one, "stored.bits >> vec4u(4u)", "stored.bits >> vec4u(8u)"],
      [one, "- zeros * sum", "- zeros"],
      [q8, "word / 4u * 16u", "word / 4u * 8u"],
      [q8, "s.y - 128.0", "s.y - 127.0"],
      [q8, "weight[at + 1u] ^ vec4u(0x80808080u)", "weight[at + 1u]"],
      [one, "1.0 / 127.0", "1.0 / 126.0"],
      [one, "* inverse + ROUND", "* inverse + (ROUND + 1.0)"],
      ...(subgroup > 1 ? shared : []),
    ] as const) {
      const recipe: Recipe = async (rangeRows) => broken(await matvecRecipe(broke)(rangeRows), from, to);
      await expect(check(broke, matvecCalls, recipe), from).rejects.toThrow(/elements differ/);
    }
  });
});

test("no buffer is left", async () => expect(await liveBuffers()).toBe(0));
