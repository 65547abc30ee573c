/** kernels/embed: rows by token id, and the last row. */

import type { WeightLayout } from "../../../kernels/weights/weights.ts";
import { at } from "../formulas.ts";
import { numbers, packedMatrix } from "./numbers.ts";
import { byRow, constant, type MakeProblem, tolerance, variant, whole } from "./problem.ts";

export const embed: MakeProblem = (kernel, size) => {
  const [layout = "f32"] = variant(kernel) as WeightLayout[];
  const { seq = 4, rows = 11, cols = 72 } = size;
  const { row, inputs } = packedMatrix(layout, { ...size, rows, parts: 1, cols });
  const ids = Uint32Array.from({ length: seq }, (_, token) => (token * 7919 + 3) % rows);
  ids[seq - 1] = rows - 1;
  const scale = constant(kernel, "SCALE");
  const expected = byRow(cols, (token) => Float64Array.from(row(at(ids, token)), (n) => scale * n));
  const outputs = { x: { words: seq * cols, count: seq * cols, expected, tolerance } };
  return { seq, past: 0, kvRows: 1, inputs: { ids, ...inputs }, outputs };
};

export const lastRow: MakeProblem = (kernel, { seq = 3 }) => {
  const cols = constant(kernel, "COLS");
  const x = numbers(1, seq * cols);
  const outputs = { y: { ...whole(x.subarray((seq - 1) * cols)), tolerance: 0 } };
  return { seq, past: 0, kvRows: 1, inputs: { x }, outputs };
};
