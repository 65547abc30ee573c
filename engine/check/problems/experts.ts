/** kernels/experts: which experts tokens take, their lists, their linears, and the sum of two. */

import { choicesPerToken } from "../../../kernels/experts/experts.ts";
import { at, dot, silu, sparsemixer as sparsemixerOf } from "../formulas.ts";
import { linearForm, linearInput } from "./linear.ts";
import { numbers, packedMatrix } from "./numbers.ts";
import { byRow, constant, has, integers, type MakeProblem, tolerance, whole } from "./problem.ts";

/** Counts [experts] and for each expert a list [seq] of the choices that are its; the rest is 0. */
function listsOf(chosen: readonly number[], experts: number): Uint32Array<ArrayBuffer> {
  const seq = chosen.length / choicesPerToken;
  const out = new Uint32Array(experts + experts * seq);
  for (const [choice, expert] of chosen.entries()) {
    out[experts + expert * seq + at(out, expert)] = choice;
    out[expert] = at(out, expert) + 1;
  }
  return out;
}

/** (expert, weight) of each choice. */
function routingOf(chosen: readonly number[], weights: ArrayLike<number>): Float32Array<ArrayBuffer> {
  return Float32Array.from(chosen.flatMap((expert, choice) => [expert, at(weights, choice)]));
}

/** The first rows of all experts' are bound; where the size is small, those of expert 1. */
export const expertLinear: MakeProblem = (kernel, size) => {
  const { layout, epilogue, isInt8 } = linearForm(kernel);
  const isMatvec = kernel.name.startsWith("expertMatvec");
  const seq = isMatvec ? 1 : (size.seq ?? 5);
  const parts = epilogue === "gated_silu" ? 2 : 1;
  const expertRows = constant(kernel, "EXPERT_ROWS");
  const perX = constant(kernel, "CHOICES_PER_X");
  const routed = size.experts ?? 2;
  const experts = isMatvec ? routed : constant(kernel, "EXPERTS");
  const [first, rows] = size.rows === undefined ? [expertRows, Math.min(37, expertRows)] : [0, size.rows];
  const cols = size.cols ?? (has(kernel, "/aligned.wgsl") ? 256 : 203);
  const bound = { ...size, rows, parts, cols, first, rowsTotal: experts * expertRows };
  const { row: weight, inputs } = packedMatrix(layout, bound);
  const choices = choicesPerToken * seq;
  const { given, x } = linearInput({ rows: choices / perX, cols, isInt8 });
  const weights = numbers(2, choices);
  const chosen = Array.from({ length: choices }, (_, choice) => ((choice >> 1) + choice + 1) % routed);
  const expected = (index: number): number => {
    const choice = Math.floor(index / expertRows);
    const row = at(chosen, choice) * expertRows + (index % expertRows) - first;
    if (row < 0 || row >= rows) return 0;
    const token = Math.floor(choice / perX);
    const sum = (boundRow: number) => dot(weight(boundRow), x.subarray(token * cols, (token + 1) * cols));
    return parts === 2 ? silu(sum(row)) * sum(rows + row) : at(weights, choice) * sum(row);
  };
  const results = choices * expertRows;
  const outputs = { y: { words: results, count: results, expected, tolerance } };
  const routing = { routing: routingOf(chosen, weights), groups: listsOf(chosen, experts) };
  return { seq, past: 0, kvRows: 1, inputs: { x: given, ...inputs, ...routing }, outputs };
};

export const sparsemixer: MakeProblem = (kernel, { seq = 3 }) => {
  const [experts, threshold] = [constant(kernel, "EXPERTS"), constant(kernel, "THRESHOLD")];
  // No two are alike, so that no rounding decides.
  const scores = Float32Array.from({ length: seq * experts }, (_, i) => 1 + ((i * 7) % experts) / 8 + i / 4096);
  const expected = byRow(4, (token) => {
    const choices = sparsemixerOf(scores.subarray(token * experts, (token + 1) * experts), threshold / 2);
    return choices.flatMap(({ expert, weight }) => [expert, weight]);
  });
  const outputs = { routing: { words: 4 * seq, count: 4 * seq, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { scores }, outputs };
};

export const groupByExpert: MakeProblem = (kernel, { seq = 7 }) => {
  const experts = constant(kernel, "EXPERTS");
  const chosen = Array.from({ length: choicesPerToken * seq }, (_, choice) => (choice * 5) % experts);
  const routing = routingOf(chosen, new Float32Array(chosen.length).fill(1));
  const outputs = { groups: { ...whole(listsOf(chosen, experts)), ...integers } };
  return { seq, past: 0, kvRows: 1, inputs: { routing }, outputs };
};

export const expertSum: MakeProblem = (kernel, { seq = 2 }) => {
  const cols = constant(kernel, "COLS");
  const x = numbers(1, 2 * seq * cols);
  const residual = numbers(2, seq * cols);
  const expected = residual.map((n, i) => {
    const first = Math.floor(i / cols) * 2 * cols + (i % cols);
    return n + at(x, first) + at(x, first + cols);
  });
  const outputs = { y: { ...whole(expected), tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { x, residual }, outputs };
};
