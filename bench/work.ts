/** What a kernel or a prompt moves and computes: the least that its formula takes, whatever the kernels do in fact. */

import { seenKeys } from "../engine/check/problems/attention.ts";
import { type Problem, variant } from "../engine/check/problems/problem.ts";
import { buildPlan } from "../engine/graph/build.ts";
import { Graph } from "../engine/graph/graph.ts";
import { safeTuning } from "../engine/graph/sizes.ts";
import { Weights } from "../engine/graph/weights.ts";
import type { Architecture } from "../engine/models/architecture.ts";
import { type KvFormat, kvHeadBytes } from "../kernels/attention/kv/kv.ts";
import type { Kernel } from "../kernels/kernel.ts";

/** Bytes read and written, each once; multiplications, additions, comparisons. */
export interface Work {
  readonly bytes: number;
  readonly flops: number;
}

const bytesOf = (problem: Problem, ...names: readonly string[]): number =>
  names.reduce((sum, name) => sum + (problem.inputs[name]?.byteLength ?? (problem.outputs[name]?.words ?? 0) * 4), 0);

/** Rows of the weight's range, in each part, and columns. */
function matrixOf({ inputs }: Problem): { readonly rows: number; readonly cols: number } {
  const [, rows = 0, , cols = 0] = inputs.matrix ?? [];
  return { rows, cols };
}

function linear(kernel: Kernel, problem: Problem, boundBytes: number): Work {
  const { rows, cols } = matrixOf(problem);
  const parts = /gated_silu|gegelu/.test(kernel.name) ? 2 : 1;
  return { bytes: boundBytes, flops: 2 * rows * parts * cols * problem.seq };
}

/** Those of a weight's rows that the choices of the bound experts take. */
function expertLinear(kernel: Kernel, problem: Problem): Work {
  const { rows, cols } = matrixOf(problem);
  const parts = /gated_silu/.test(kernel.name) ? 2 : 1;
  const expertRows = kernel.constants.EXPERT_ROWS ?? 0;
  const routing = problem.inputs.routing ?? [];
  const experts = Array.from({ length: routing.length / 2 }, (_, choice) => routing[2 * choice] ?? 0);
  const rowsOf = (expert: number) => Math.max(0, Math.min(expertRows, rows - expert * expertRows));
  const sum = (list: Iterable<number>) => [...list].reduce((total, expert) => total + rowsOf(expert), 0);
  const share = sum(new Set(experts)) / rows;
  return {
    bytes: share * bytesOf(problem, "weight", "scales") + bytesOf(problem, "x", "routing") + 4 * sum(experts),
    flops: 2 * parts * cols * sum(experts),
  };
}

function attention(kernel: Kernel, problem: Problem): Work {
  const { KV_HEADS = 0, HEADS = 0, HEAD_DIM = 0, ROTARY = 0 } = kernel.constants;
  const [kv = "f16"] = variant(kernel) as KvFormat[];
  const { scores, keys } = seenKeys(kernel, problem);
  const row = 2 * kvHeadBytes(kv, HEAD_DIM);
  const isDecode = kernel.name.startsWith("decode");
  const rotation = isDecode ? { bytes: 4 * ROTARY + KV_HEADS * row, flops: 3 * ROTARY * (HEADS + KV_HEADS) } : none;
  const out = 4 * problem.seq * HEADS * HEAD_DIM;
  return {
    bytes: keys * row + bytesOf(problem, isDecode ? "qkv" : "q") + out + rotation.bytes,
    flops: 4 * HEAD_DIM * scores + rotation.flops,
  };
}

function ropeAppend(kernel: Kernel, problem: Problem): Work {
  const { KV_HEADS = 0, HEADS = 0, HEAD_DIM = 0, ROTARY = 0 } = kernel.constants;
  const [kv = "f16"] = variant(kernel) as KvFormat[];
  const appended = problem.seq * KV_HEADS * 2 * kvHeadBytes(kv, HEAD_DIM);
  return {
    bytes: bytesOf(problem, "qkv", "q") + 4 * ROTARY * problem.seq + appended,
    flops: 3 * ROTARY * (HEADS + KV_HEADS) * problem.seq,
  };
}

function embed(_: Kernel, problem: Problem): Work {
  const { rows } = matrixOf(problem);
  const x = problem.outputs.x?.words ?? 0;
  const perRow = bytesOf(problem, "weight", "scales") / rows;
  return { bytes: problem.seq * perRow + 4 * x + bytesOf(problem, "ids"), flops: x };
}

const none: Work = { bytes: 0, flops: 0 };

/** `perElement` operations for each of the numbers of an operand. */
const elementwise = (perElement: number, operand: string) => (_: Kernel, problem: Problem, boundBytes: number) => ({
  bytes: boundBytes,
  flops: (perElement * bytesOf(problem, operand)) / 4,
});

const works: Readonly<Record<string, (kernel: Kernel, problem: Problem, boundBytes: number) => Work>> = {
  argmax: elementwise(1, "logits"),
  attention,
  decodeAttention: attention,
  embed,
  expertMatmul: expertLinear,
  expertMatvec: expertLinear,
  expertSum: elementwise(2, "y"),
  // A comparison for each choice and expert.
  groupByExpert: (kernel, { seq }, bytes) => ({ bytes, flops: 2 * seq * (kernel.constants.EXPERTS ?? 0) }),
  // mean, deviations and their squares, and the four of each result
  headNorm: elementwise(7, "y"),
  lastRow: (_, problem) => ({ bytes: 2 * bytesOf(problem, "y"), flops: 0 }),
  layerNorm: elementwise(7, "y"),
  matmul: linear,
  matvec: linear,
  // Eight turns, in each of which a weight is rounded, compared and added to four sums: a dozen operations.
  quantize: (_, problem, bytes) => ({ bytes, flops: 8 * 12 * matrixOf(problem).rows * matrixOf(problem).cols }),
  rmsNorm: elementwise(4, "y"),
  ropeAppend,
  // Bias, three penalties, temperature, exp, and a comparison and an addition for the draw.
  sample: elementwise(8, "logits"),
  scan: elementwise(4, "words"), // a mask and a comparison for each of two elements in a word
  sparsemixer: elementwise(8, "scores"), // two choices: the best, those near it, their exp and its sum
  tile: elementwise(0, "rows"),
};

/** `boundBytes` are all that the kernel is bound to. Throws an Error for an unknown kernel. */
export function workOf(kernel: Kernel, problem: Problem, boundBytes: number): Work {
  const work = works[/^\w+/.exec(kernel.name)?.[0] ?? ""]?.(kernel, problem, boundBytes);
  if (work === undefined) throw new Error(`${kernel.name}: nobody says what it moves`);
  return work;
}

/** Operations of a prompt's linears, which grow as its tokens do, and of its attention, which grow as their square. */
export interface PromptWork {
  readonly linears: number;
  readonly attention: number;
}

export function promptWork(architecture: Architecture): (tokens: number) => PromptWork {
  const graph = new Graph("prefill");
  const logits = architecture.forward(graph, new Weights());
  const { steps } = buildPlan(graph, logits, {
    ...{ maxSeq: 1, kv: "f16", rotary: architecture.rope.rotary, maxBindingBytes: 2 ** 31, tuning: safeTuning },
    packing: () => ({ layout: "f16" }),
  });
  return (tokens) => {
    let linears = 0;
    let attention = 0;
    const scores = new Map<string, number>(); // layers are of few kinds
    for (const { kernel, flopsPerToken } of steps) {
      // What follows the last row is a matvec.
      linears += flopsPerToken * (kernel.name.startsWith("matvec") ? 1 : tokens);
      if (!kernel.name.startsWith("attention")) continue;
      const kind = JSON.stringify(kernel.constants);
      const seen = scores.get(kind) ?? seenKeys(kernel, { seq: tokens, past: 0, kvRows: tokens }).scores;
      scores.set(kind, seen);
      attention += 4 * (kernel.constants.HEAD_DIM ?? 0) * seen;
    }
    return { linears, attention };
  };
}
