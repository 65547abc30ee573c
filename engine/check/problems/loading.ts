/** kernels/loading: the quantizer, and the search for what is not finite. */

import { pieceWords } from "../../../kernels/loading/quantize.ts";
import {
  type GroupSize,
  matrixWords,
  type PlainLayout,
  type QuantizedLayout,
  weightLayouts,
} from "../../../kernels/weights/weights.ts";
import { packQuantized } from "../../weights/packed.ts";
import { toHalf } from "../../weights/plain.ts";
import { tiled } from "../../weights/tiles.ts";
import { dequantize } from "../formulas.ts";
import { mostRows, numbers, packPlain, repeated, words } from "./numbers.ts";
import { type Data, integers, type MakeProblem, variant, whole } from "./problem.ts";

/** Weights that lie on a grid of integers of power-of-two scales, which the search must find as it is. */
export const quantize: MakeProblem = (kernel, size) => {
  const [from, to, groupText] = variant(kernel) as [PlainLayout, QuantizedLayout, string];
  const group = Number(groupText) as GroupSize;
  const { rows = 5, cols = 4 * group, tileRows = 4 } = size;
  const different = Math.min(rows, mostRows);
  const groups = Math.ceil(cols / group);
  const levels = to === "q4" ? 16 : 256;
  const q = Uint8Array.from(numbers(1, different * cols), (n) => Math.floor(((n + 1) / 2.001) * levels));
  for (let i = 0; i < q.length; i += cols) {
    for (let first = 0; first < cols; first += group) q.set([0, levels - 1], i + first);
  }
  const zero = new Float32Array(different * groups).fill(levels / 2);
  const scale = Uint16Array.from(numbers(2, different * groups), (n) => toHalf(2 ** (Math.round(4 * n) - 8)));
  const matrix = { rows: different, cols, group, q, scale, zero };
  const packed = packQuantized(to, matrix);
  const weight = packPlain(from, Float32Array.from(dequantize(matrix)), cols);
  const repeat = <Words extends Data>(one: Words) => repeated(one, (one.length / different) * rows);
  const lay = (one: Data, itemBytes: number) => tiled(repeat(one), { rows, itemBytes, tileRows });
  const [x, y] = kernel.grid(rows);
  return {
    ...{ seq: rows, past: 0, kvRows: 1 },
    inputs: {
      piece: pieceWords({ rows, firstRow: 0, rowsTotal: rows, tileRows }),
      weight: repeat(weight),
      matrix: matrixWords({ rows, cols }),
    },
    outputs: {
      packed: { ...whole(lay(words(packed.weight), weightLayouts[to].bytesPerBlock)), ...integers },
      scales: { ...whole(lay(words(packed.scales), 4)), ...integers },
      found: { ...whole([0, 0, x * y, 0, 0]), ...integers },
    },
  };
};

/** Numbers of which one, in the middle, is a NaN. */
export const scan: MakeProblem = (kernel, { rows = 37, cols = 200 }) => {
  const [layout = "f32"] = variant(kernel) as PlainLayout[];
  const different = Math.min(rows, mostRows);
  const data = packPlain(layout, numbers(1, different * cols), cols);
  const all = repeated(data, (data.length / different) * rows);
  const bytes = new Uint8Array(all.buffer);
  const element = Math.floor((rows * cols) / 2);
  const elementBytes = bytes.length / (rows * cols);
  bytes.fill(0xff, element * elementBytes, (element + 1) * elementBytes);
  const [workgroups] = kernel.grid(1);
  const found = { ...whole([1, ~element >>> 0, workgroups, 0, 0]), ...integers };
  return { seq: 1, past: 0, kvRows: 1, inputs: { words: all }, outputs: { found } };
};
