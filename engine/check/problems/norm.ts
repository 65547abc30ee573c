/** kernels/norm: LayerNorm and RMSNorm of rows, LayerNorm of heads. */

import * as formulas from "../formulas.ts";
import { numbers } from "./numbers.ts";
import { byRow, constant, type MakeProblem, type ProblemSize, tolerance } from "./problem.ts";

/** One row, where only the last one is normed: as many as the kernel has workgroups for. */
function normSize(workgroups: number, { seq = 3, cols = 200 }: ProblemSize) {
  return { seq: Math.min(seq, workgroups), cols };
}

export const layerNorm: MakeProblem = (kernel, size) => {
  const { seq, cols } = normSize(kernel.grid(size.seq ?? 3)[0], size);
  const [x, gain, bias] = [numbers(1, seq * cols), numbers(2, cols), numbers(3, cols)];
  const shape = { seq: 1, cols, eps: constant(kernel, "EPS") };
  const expected = byRow(cols, (t) => formulas.layerNorm(x.subarray(t * cols, (t + 1) * cols), gain, bias, shape));
  const outputs = { y: { words: seq * cols, count: seq * cols, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { x, gain, bias }, outputs, vectors: ["gain", "bias"] };
};

export const rmsNorm: MakeProblem = (kernel, size) => {
  const { seq, cols } = normSize(kernel.grid(size.seq ?? 3)[0], size);
  const [x, gain] = [numbers(1, seq * cols), numbers(2, cols)];
  const shape = { seq: 1, cols, eps: constant(kernel, "EPS") };
  const expected = byRow(cols, (t) => formulas.rmsNorm(x.subarray(t * cols, (t + 1) * cols), gain, shape));
  const outputs = { y: { words: seq * cols, count: seq * cols, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { x, gain }, outputs, vectors: ["gain"] };
};

export const headNorm: MakeProblem = (kernel, { seq = 2 }) => {
  const [heads, kvHeads, headDim] = [
    constant(kernel, "HEADS"),
    constant(kernel, "KV_HEADS"),
    constant(kernel, "HEAD_DIM"),
  ];
  const shape = { seq: 1, heads, kvHeads, headDim, eps: constant(kernel, "EPS") };
  const cols = formulas.qkvCols(shape);
  const qkv = numbers(1, seq * cols);
  const vector = (seed: number) => numbers(seed, headDim);
  const [qGain, qBias, kGain, kBias] = [vector(2), vector(3), vector(4), vector(5)];
  const norm = { qWeight: qGain, qBias, kWeight: kGain, kBias };
  const expected = byRow(cols, (t) => formulas.headNorm(qkv.subarray(t * cols, (t + 1) * cols), norm, shape));
  const outputs = { y: { words: qkv.length, count: qkv.length, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { qkv, qGain, qBias, kGain, kBias }, outputs };
};
