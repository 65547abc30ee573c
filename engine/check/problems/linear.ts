/** kernels/linear: matvec and matmul, with every input and epilogue. */

import type { Kernel } from "../../../kernels/kernel.ts";
import { permutationBytes, type WeightLayout, weightLayouts } from "../../../kernels/weights/weights.ts";
import { at, dot, gegelu, geluNew, int8Blocks, joinParts, type Numbers, silu } from "../formulas.ts";
import { dividedAt } from "./attention.ts";
import { numbers, packedMatrix, thirds } from "./numbers.ts";
import { constant, has, type MakeProblem, tolerance, variant } from "./problem.ts";

/** A linear's operands as its name has them (`linearVariant`). */
export function linearForm(kernel: Kernel) {
  const [form = "", epilogue = ""] = variant(kernel);
  const [layout, ...words] = form.split(" ") as [WeightLayout, ...string[]];
  const [isInt8 = false, isPermuted = false, isJoined = false] = ["int8", "permuted", "joined"].map((word) =>
    words.includes(word),
  );
  return { layout, epilogue, isInt8, isPermuted, isJoined };
}

/** Which column of a linear's input a stored column of its weight belongs to. */
type InputColumn = (column: number) => number;

/** Numbers that int8 has nearly exactly, where every block of columns begins with the largest: no rounding is in doubt. */
function int8Numbers(seed: number, count: number, cols: number, inputOf: InputColumn = (column) => column) {
  const out = numbers(seed, count).map((n) => Math.round(127 * n) / 127);
  const { blockCols } = weightLayouts.q8;
  for (let row = 0; row < count; row += cols) {
    for (let first = 0; first < cols; first += blockCols) out[row + inputOf(first)] = 1;
  }
  return out;
}

interface InputShape {
  readonly rows: number;
  readonly cols: number;
  /** The kernel makes int8 of it. */
  readonly isInt8: boolean;
  readonly inputOf?: InputColumn | undefined;
}

/** A linear's input: as it is given [rows, cols], and as it is multiplied, in the order of the weight's columns. */
export function linearInput(shape: InputShape): { readonly given: Float32Array<ArrayBuffer>; readonly x: Numbers } {
  const { rows, cols, isInt8, inputOf } = shape;
  const given = isInt8 ? int8Numbers(1, rows * cols, cols, inputOf) : thirds(1, rows * cols);
  return { given, x: multiplied(given, shape) };
}

/** Rows of an input in the order of the weight's columns, and as int8 has them where it does. */
function multiplied(input: Numbers, { rows, cols, isInt8, inputOf }: InputShape): Numbers {
  const x =
    inputOf === undefined
      ? input
      : Float64Array.from(input, (_, i) => at(input, Math.floor(i / cols) * cols + inputOf(i % cols)));
  return isInt8 ? int8Blocks(x, { seq: rows, cols }).values : x;
}

/** The output of attention in parts, which a linear joins as it reads it. */
function joinedInput(kernel: Kernel, { splits, count }: ReturnType<typeof dividedAt>, isInt8: boolean) {
  const [heads, headDim] = [constant(kernel, "HEADS"), constant(kernel, "HEAD_DIM")];
  const cols = heads * headDim;
  const given = thirds(1, splits * (cols + 4 * heads));
  for (let i = splits * cols; i < given.length; i++) given[i] = 2 + at(given, i); // (top, mass)
  return { given, x: multiplied(joinParts(given, { heads, headDim, splits, count }), { rows: 1, cols, isInt8 }) };
}

export const linear: MakeProblem = (kernel, size) => {
  const { layout, epilogue, isInt8, isPermuted, isJoined } = linearForm(kernel);
  const joined = isJoined ? dividedAt(kernel, size) : undefined;
  const seq = kernel.name.startsWith("matvec") ? 1 : (size.seq ?? 5);
  const parts = epilogue === "gated_silu" || epilogue === "bias_gegelu" ? 2 : 1;
  const rows = size.rows ?? 37;
  const cols = joined
    ? constant(kernel, "HEADS") * constant(kernel, "HEAD_DIM")
    : (size.cols ?? (has(kernel, "/aligned.wgsl") ? 256 : 203));
  const { row: weight, inputs } = packedMatrix(layout, { ...size, rows, parts, cols });
  // Stored column k belongs to input cols - 1 - k; the padding's entries lie past the input.
  const inputOf = isPermuted ? (column: number) => (column < cols ? cols - 1 - column : column) : undefined;
  const { given, x } = joined ? joinedInput(kernel, joined, isInt8) : linearInput({ rows: seq, cols, isInt8, inputOf });
  const bias = numbers(6, rows * parts);
  const residual = numbers(7, seq * rows);
  const mask = numbers(8, rows);
  const perm = inputOf && Uint32Array.from({ length: permutationBytes("q4", cols) / 4 }, (_, k) => inputOf(k));

  const sum = (token: number, row: number): number => dot(weight(row), x.subarray(token * cols, (token + 1) * cols));
  const result = (token: number, row: number): number => {
    const first = sum(token, row);
    switch (epilogue) {
      case "none":
        return first;
      case "bias":
        return first + at(bias, row);
      case "residual":
        return at(residual, token * rows + row) + first;
      case "bias_residual":
        return at(residual, token * rows + row) + first + at(bias, row);
      case "bias_gelu":
        return geluNew(first + at(bias, row));
      case "gated_silu":
        return silu(first) * sum(token, rows + row);
      case "scale_mask":
        return constant(kernel, "SCALE") * first + at(mask, row);
      case "bias_gegelu": {
        const second = sum(token, rows + row) + at(bias, rows + row);
        return gegelu(first + at(bias, row), second, constant(kernel, "LIMIT"));
      }
      default:
        throw new Error(`${kernel.name}: no reference for its epilogue`);
    }
  };
  const expected = (index: number) => result(Math.floor(index / rows), index % rows);
  return {
    seq,
    past: joined?.past ?? 0,
    kvRows: 1,
    inputs: { x: given, ...inputs, bias, residual, mask, ...(perm && { perm }) },
    outputs: { y: { words: seq * rows, count: seq * rows, expected, tolerance } },
    ...(size.rows === undefined && { leastWorkgroups: Math.ceil(rows / 4) }), // four rows or more each
  };
};
