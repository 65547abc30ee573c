/** The mixture of experts: which two each token takes, their lists, and the linears that read only those. */
import { describe, expect, test } from "vitest";
import {
  choicesPerToken,
  type ExpertEpilogue,
  expertMatmul,
  expertMatvec,
  expertSum,
  groupByExpert,
  groupColumns,
  sparsemixer,
} from "../../../kernels/experts/experts.ts";
import type { Kernel } from "../../../kernels/kernel.ts";
import type { Packing } from "../../../kernels/weights/weights.ts";
import { randomValues, seededRandom } from "../../reference/compare.ts";
import * as reference from "../../reference/ops.ts";
import {
  broken,
  expectWithin,
  kernelSetup,
  liveBuffers,
  packedWeight,
  runKernel,
  u,
  weightOperands,
} from "../harness.ts";

interface Choice {
  readonly expert: number;
  readonly weight: number;
}

/** Two different experts for each token; expert 1 gets none, so that an empty list occurs. */
function randomChoices(seq: number, experts: number): readonly Choice[] {
  const random = seededRandom(seq);
  const without = (taken: number): number => {
    const expert = Math.floor(random() * experts);
    return expert === 1 || expert === taken ? without(taken) : expert;
  };
  return Array.from({ length: seq }, () => {
    const first = without(-1);
    return [first, without(first)].map((expert) => ({ expert, weight: Math.fround(random()) }));
  }).flat();
}

const words = (choices: readonly Choice[]) =>
  Float32Array.from(choices.flatMap(({ expert, weight }) => [expert, weight]));

/** counts [experts] and a list [seq] of choices for each; what the kernel leaves is NaN. */
function listsOf(choices: readonly Choice[], experts: number): readonly (readonly number[])[] {
  return Array.from({ length: experts }, (_, e) => choices.flatMap(({ expert }, c) => (expert === e ? [c] : [])));
}

function groupWords(choices: readonly Choice[], experts: number): Uint32Array<ArrayBuffer> {
  const seq = choices.length / choicesPerToken;
  const out = new Uint32Array(seq * groupColumns(experts)).fill(0xfff1fdad);
  listsOf(choices, experts).forEach((list, e) => {
    out[e] = list.length;
    out.set(list, experts + e * seq);
  });
  return out;
}

async function checkRouter(kernel: Kernel, experts: number, jitter: number): Promise<void> {
  for (const seq of [1, 65]) {
    const scores = randomValues(seq + experts, seq * experts);
    if (seq > 1) scores.set(Array.from({ length: experts }, (_, e) => -1 - e / 100)); // negative ones, all of them near
    const { routing } = await runKernel(kernel, { seq }, { scores, routing: { output: seq * 4 } });
    const expected = Array.from({ length: seq }, (_, t) =>
      reference.sparsemixer(scores.subarray(t * experts, (t + 1) * experts), jitter),
    ).flat();
    // Ids are exact; the weight is 1 / a sum of exponentials, of which each is off by 3 + 2|x| ULP of WGSL.
    const bound = (i: number) => (i % 2 === 0 ? 0 : 2 * u * (experts + 16));
    const pairs = expected.flatMap(({ expert, weight }) => [expert, weight]);
    expectWithin(routing, Float64Array.from(pairs), bound, {
      shape: [seq, 2, 2],
      what: `${kernel.name} of ${experts}`,
    });
  }
}

describe("sparsemixer", () => {
  test.each([
    [4, 0.25],
    [16, 0.01],
    [2, 0],
  ])("of %i experts, jitter %f", async (experts, jitter) => {
    await checkRouter(sparsemixer(experts, jitter), experts, jitter);
  });

  test("a score that is not finite makes the weights NaN", async () => {
    for (const [at, bad] of [
      [0, Number.NaN],
      [1, Number.NaN],
      [2, Number.NaN],
      [1, Number.POSITIVE_INFINITY],
    ] as const) {
      // biome-ignore format: a list
      const scores = Float32Array.of(1, 3, 2);
      scores[at] = bad;
      const { routing } = await runKernel(sparsemixer(3, 1), { seq: 1 }, { scores, routing: { output: 4 } });
      expect(Number.isNaN(routing[1]), `score ${at}`).toBe(true);
    }
  });

  test("mistakes are found: the threshold, the expert that was taken", async () => {
    for (const [from, to] of [
      ["max(abs(score), best)", "abs(score)"],
      ["e == taken || isFar", "isFar"],
    ] as const) {
      await expect(checkRouter(await broken(sparsemixer(4, 0.25), from, to), 4, 0.25)).rejects.toThrow(/differ/);
    }
  });
});

describe("groupByExpert", () => {
  test.each([1, 65, 300])("of %i tokens", async (seq) => {
    const choices = randomChoices(seq, 5);
    const outputs = await runKernel(
      groupByExpert(5, 64),
      { seq },
      { routing: words(choices), groups: { output: seq * groupColumns(5) } },
    );
    const { buffer, byteOffset, length } = outputs.groups;
    expect(new Uint32Array(buffer, byteOffset, length)).toEqual(groupWords(choices, 5));
  });
});

interface ExpertCase {
  readonly packing: Packing;
  readonly epilogue: ExpertEpilogue;
  readonly experts: number;
  readonly expertRows: number;
  readonly cols: number;
  readonly tile: "software" | "gpu";
  /** Rows of each range: of a whole expert and parts of others. */
  readonly rangeRows: readonly number[];
}

const cases: readonly ExpertCase[] = [
  { packing: { layout: "bf16" }, epilogue: "gated_silu", experts: 4, expertRows: 37, cols: 65, tile: "gpu", rangeRows: [148, 50] },
  { packing: { layout: "q4", group: 32 }, epilogue: "weighted", experts: 3, expertRows: 18, cols: 96, tile: "software", rangeRows: [54, 7] },
]; // biome-ignore format: a table

/** Software adapters share the loads of x within their subgroups, where those have one size. */
const subgroup = (await kernelSetup()).device.subgroupSize;
const tiles = {
  software: { matvec: { lanes: 1, groups: 16, subgroup }, matmul: { threads: 16, tokens: 4, subgroup } },
  gpu: { matvec: { lanes: 32, groups: 2, subgroup: 1 }, matmul: { threads: 64, tokens: 4, subgroup: 1 } },
};

const kernelOf = (one: ExpertCase, seq: number, rangeRows: number): Kernel => {
  const shape = { ...one, layout: one.packing.layout, rangeRows };
  return seq === 1 ? expertMatvec(shape, tiles[one.tile].matvec) : expertMatmul(shape, tiles[one.tile].matmul);
};

type Recipe = (kernel: Kernel) => Kernel | Promise<Kernel>;

async function check(one: ExpertCase, seqs: readonly number[], recipe: Recipe = (kernel) => kernel): Promise<void> {
  const { packing, epilogue, experts, expertRows, cols } = one;
  const parts = epilogue === "gated_silu" ? 2 : 1;
  const rows = experts * expertRows;
  const weight = packedWeight(rows, packing, parts * rows, cols);
  for (const seq of seqs) {
    const choices = randomChoices(seq, experts);
    // The first matrix reads a token's row for both its choices, the second a row of its own for each.
    const inputRows = epilogue === "gated_silu" ? seq : choices.length;
    const x = randomValues(seq, inputRows * cols, "outliers");
    const size = [choices.length, expertRows] as const;
    const expected = new Float64Array(size[0] * size[1]);
    const bounds = new Float64Array(expected.length);
    choices.forEach(({ expert, weight: share }, c) => {
      const at = epilogue === "gated_silu" ? c >> 1 : c;
      const input = x.subarray(at * cols, (at + 1) * cols);
      const part = (p: number) => {
        const first = (p * rows + expert * expertRows) * cols;
        const matrix = weight.values.subarray(first, first + expertRows * cols);
        const shape = { seq: 1, rows: expertRows, cols };
        // n u sum|w x| (Higham, 3.1), the scale of a quantized group and its rounding included.
        const sizes = reference.linear(input.map(Math.abs), matrix.map(Math.abs), shape);
        return { sums: reference.linear(input, matrix, shape), errors: sizes.map((n) => (cols + 5) * u * n) };
      };
      const [first, second] = [part(0), part(parts - 1)];
      for (let r = 0; r < expertRows; r++) {
        const [a, aError] = [first.sums[r] ?? 0, first.errors[r] ?? 0];
        const [b, bError] = [second.sums[r] ?? 0, second.errors[r] ?? 0];
        const i = c * expertRows + r;
        if (epilogue === "weighted") {
          expected[i] = share * a;
          bounds[i] = share * aError + u * Math.abs(share * a);
        } else {
          // silu's slope is at most 1.1; exp(-a) has 3 + 2|a| ULP in WGSL, and the division 2.5.
          expected[i] = reference.silu(a) * b;
          const own = 2 * u * (8 + 2 * Math.abs(a)) * Math.abs(expected[i] ?? 0) + 2 ** -110 * (1 + Math.abs(b));
          bounds[i] = 1.1 * aError * (Math.abs(b) + bError) + Math.abs(reference.silu(a)) * bError + own;
        }
      }
    });
    for (const rangeRows of one.rangeRows) {
      for (let first = 0; first < rows; first += rangeRows) {
        const count = Math.min(rangeRows, rows - first);
        const kernel = await recipe(kernelOf(one, seq, count));
        const operands = {
          x,
          ...weightOperands({ weight, packing, cols }, { first, rows: count, rowsTotal: rows, parts }),
          routing: words(choices),
          ...(seq === 1 ? {} : { groups: groupWords(choices, experts) }),
          y: { output: expected.length },
        };
        const { y } = await runKernel(kernel, { seq }, operands);
        const here = expected.map((value, i) => {
          const row = (choices[Math.floor(i / expertRows)]?.expert ?? 0) * expertRows + (i % expertRows);
          return row >= first && row < first + count ? value : Number.NaN;
        });
        const what = `${kernel.name}, rows ${first}+${count}, ${seq} tokens`;
        expectWithin(y, here, (i) => bounds[i] ?? 0, { shape: size, what });
      }
    }
  }
}

describe("expert linears", () => {
  const title = "$packing.layout, $epilogue, $experts experts of $expertRows rows, $cols columns, $tile tile";
  test.each(cases)(title, async (one) => {
    await check(one, [1, 5, 33]);
  });

  test("mistakes are found: the last row of an expert, the token of a choice", async () => {
    const [gated] = cases;
    if (gated === undefined) throw new Error("no case");
    for (const [seq, from, to] of [
      [1, "min(firstRow + EXPERT_ROWS, matrix", "min(firstRow + EXPERT_ROWS - 1u, matrix"],
      [5, "min(firstChoice + c, count", "min(firstChoice + c / 2u, count"],
    ] as const) {
      const recipe: Recipe = (kernel) => broken(kernel, from, to);
      await expect(check({ ...gated, tile: "software", rangeRows: [148] }, [seq], recipe)).rejects.toThrow(/differ/);
    }
  });
});

test("expertSum: the residual and both choices", async () => {
  for (const [seq, cols] of [
    [1, 65],
    [5, 63],
  ] as const) {
    // biome-ignore format: a list
    const [x, residual] = [randomValues(1, seq * 2 * cols), randomValues(2, seq * cols)];
    const { y } = await runKernel(expertSum(cols), { seq }, { x, residual, y: { output: seq * cols } });
    const of = (t: number, s: number, i: number) => x[(t * 2 + s) * cols + i] ?? 0;
    const expected = residual.map((value, i) => {
      const [t, column] = [Math.floor(i / cols), i % cols];
      return Math.fround(value + Math.fround(of(t, 0, column) + of(t, 1, column)));
    });
    expectWithin(y, expected, () => 0, { shape: [seq, cols], what: "expertSum" });
  }
});

test("no buffer is left", async () => expect(await liveBuffers()).toBe(0));
