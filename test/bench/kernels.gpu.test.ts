/** kernels: every kernel of a model once, with its rate and share; what is wrong or impossible gives no figure. */
import { expect, test } from "vitest";
import { benchKernels, type KernelBenchOptions } from "../../bench/kernels.ts";
import { refuseImpossible } from "../../bench/report.ts";
import { workOf } from "../../bench/work.ts";
import { problemOf } from "../../engine/check/problems.ts";
import { attention, decodeAttention, ropeAppend } from "../../kernels/attention/attention.ts";
import { expertMatvec } from "../../kernels/experts/experts.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { testAdapter } from "../gpu.ts";
import { failure } from "../tempFolder.ts";

const options: KernelBenchOptions = {
  models: ["phi-2"],
  config: { hidden_size: 64, intermediate_size: 96, num_attention_heads: 4, num_key_value_heads: 4, vocab_size: 3100 },
  layouts: ["q4"],
  kv: ["f16"],
  activations: ["f32"],
  tokens: [1, 16],
  contexts: [64],
  repetitions: 1,
};

test("each kernel has a rate, a share of what bounds it, and a point of the roofline", async () => {
  const { figures, roofline } = await benchKernels(await testAdapter(), options);
  refuseImpossible(figures.filter(({ unit }) => unit !== "%")); // shares depend on what else the machine does
  const names = figures.filter(({ unit }) => /^(GB|GFLOP)\/s$/.test(unit)).map(({ name }) => name);
  const kernels = ["copy", "multiply-add", "embed<q8>", "layerNorm", "matvec<q4,bias>", "decodeAttention<f16> at 64",
    "matvec<q4,bias_residual>", "matvec<q4,bias_gelu>", "matvec<q8,bias>", "argmax", "sample", "headNorm",
    "matmul<q4,bias> 16 tokens", "ropeAppend<f16> 16 tokens", "attention<f16> 16 tokens at 64", "lastRow 16 tokens",
    "quantize<f16,q4,32,any>", "scan<f16>"]; // biome-ignore format: a list
  for (const kernel of kernels) expect(names.filter((name) => name.endsWith(kernel)).length, kernel).toBeGreaterThan(0);
  const shares = figures.filter(({ unit }) => unit === "%");
  expect(shares).toHaveLength(names.length - 2);
  expect(roofline.points).toHaveLength(shares.length - 1); // lastRow computes nothing
  expect(roofline.cacheGBps).toBeGreaterThanOrEqual(roofline.copyGBps);
});

test.each([
  ["wrong numbers", "sums[p] +=", "sums[p] ="],
  ["nothing but zeros", "sums[p] += block", "sums[p] += 0.0 * block"],
])("a kernel that computes %s is refused", async (_, from, to) => {
  const shader = (label: string, code: string) => {
    if (!label.startsWith("matvec<q4,bias>")) return code;
    expect(code).toContain(from);
    return code.replace(from, to);
  };
  const broken = { ...options, tokens: [1], only: "qkv", device: { shader } };
  const error = await failure(benchKernels(await testAdapter(), broken), "gpu");
  expect(error.message).toMatch(
    /^phi-2 self_attn\.qkv_proj matvec<q4,bias>: expected what float64 loops give, got numbers off by /,
  );
});

const tile = { threads: 8, quads: 1, subgroup: 1 };
const heads = { heads: 4, kvHeads: 2, headDim: 8, kv: "f16" } as const;
const lanes = { lanes: 1, groups: 8, subgroup: 1 };

test("work is what the formulas take, counted by hand", () => {
  const work = (kernel: Parameters<typeof problemOf>[0], size: Parameters<typeof problemOf>[1], bound = 0) => {
    const problem = problemOf(kernel, size);
    if (problem === undefined) throw new Error(kernel.name);
    return workOf(kernel, problem, bound);
  };
  const linear = matmul(
    { layout: "q4", epilogue: "gated_silu", cols: 32, rangeRows: 6 },
    { threads: 8, tokens: 4, subgroup: 1 },
  );
  expect(work(linear, { seq: 5, rows: 6, cols: 32 }, 77)).toEqual({ bytes: 77, flops: 2 * 5 * 2 * 6 * 32 });
  // Queries at 10 and 11 see the last 4 keys: 2 * 4 scores of 4 heads, and keys 7 to 11 of 2 heads.
  const windowed = attention(heads, 1, { window: 4 }, tile);
  expect(work(windowed, { seq: 2, past: 10 })).toEqual({
    bytes: 2 * 5 * (2 * 16) + 2 * (2 * 4 * 8 * 4),
    flops: 4 * 8 * (2 * 4 * 4),
  });
  const decode = decodeAttention(heads, 4, 1, { window: undefined }, tile, { splits: 1, span: 1 });
  expect(work(decode, { past: 99 })).toEqual({
    bytes: 2 * 100 * 32 + 8 * 8 * 4 + 4 * 8 * 4 + 4 * 4 + 2 * 32, // cache, qkv, o, a row of the table, what is appended
    flops: 4 * 8 * 4 * 100 + 3 * 4 * 6,
  });
  expect(work(ropeAppend(heads, 4), { seq: 3, past: 7 }).bytes).toBe(3 * (8 * 8 * 4 + 4 * 8 * 4 + 4 * 4 + 2 * 32));
  // A token takes experts 1 and 2 of 4; the range ends in the middle of expert 2.
  const shape = { layout: "f16", epilogue: "weighted", experts: 4, expertRows: 8, cols: 16, rangeRows: 20 } as const;
  expect(work(expertMatvec(shape, lanes), { rows: 20, cols: 16, experts: 4 })).toEqual({
    bytes: 12 * 16 * 2 + 2 * 16 * 4 + 2 * 2 * 4 + 12 * 4, // rows, x of each choice, routing, results
    flops: 2 * 12 * 16,
  });
});
