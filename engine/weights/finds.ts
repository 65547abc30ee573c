/** What is said of weights that are not finite, or too large to be quantized: the first of them, as the files have it. */

import { groupSizes } from "../../kernels/weights/weights.ts";
import { PhiError, printable } from "../errors.ts";
import type { TensorInfo } from "../files/safetensors.ts";
import type { TensorNeed } from "../graph/weights.ts";
import type { CheckedWeights } from "./check.ts";
import type { ReadTensor } from "./format.ts";
import type { Finds } from "./scan.ts";

/** Throws the PhiError "checkpoint" of a number that is not finite. */
export function refuseNonFinite(
  tensor: TensorInfo,
  index: readonly number[],
  value: number | undefined,
  more = 0,
): never {
  throw new PhiError(
    "checkpoint",
    `${printable(tensor.file)}: tensor "${printable(tensor.name)}": expected finite numbers, got ${value} at [${index.join(", ")}]${more > 0 ? ` and ${more} more` : ""}`,
    ["The file is damaged, or its training failed; --allow-nan-weights loads it all the same."],
  );
}

function refuseTooLarge(tensor: TensorInfo, row: number, firstCol: number, values: Float32Array, more: number): never {
  const largest = values.reduce((at, value, i) => (Math.abs(value) > Math.abs(values[at] ?? 0) ? i : at), 0);
  const others = more > 0 ? `, and ${more} more groups of columns` : "";
  throw new PhiError(
    "checkpoint",
    `${printable(tensor.file)}: tensor "${printable(tensor.name)}": expected numbers that have a float16 scale, got ${values[largest]} at [${row}, ${firstCol + largest}]${others}`,
    ["Such weights cannot be quantized; load them as they are, with --quantize none."],
  );
}

/** Throws a PhiError "checkpoint" for what was found in weights, with the first of them as the files have it. */
export async function refuseFinds(
  { nonFinite, tooLarge }: Partial<Finds>,
  { source }: Pick<CheckedWeights, "source">,
  read: ReadTensor,
): Promise<void> {
  const readRow = async (need: TensorNeed, row: number): Promise<Float32Array> => {
    for await (const { weight } of source(need).rows(read, row, 1, { layout: "f32" })) {
      return new Float32Array(weight.slice().buffer);
    }
    throw new Error(`${need.name} has no row ${row}`);
  };
  const storedTensor = (need: TensorNeed): TensorInfo => {
    const [tensor] = source(need).tensors;
    if (tensor === undefined) throw new Error(`${need.name} has no tensor`);
    return tensor;
  };
  if (nonFinite !== undefined) {
    const { need, row, col, count } = nonFinite;
    const [value] = (await readRow(need, row)).subarray(col);
    refuseNonFinite(storedTensor(need), [row, col], value, count - 1);
  }
  if (tooLarge !== undefined) {
    const { need, row, col, count } = tooLarge;
    const values = (await readRow(need, row)).subarray(col, col + Math.max(...groupSizes));
    refuseTooLarge(storedTensor(need), row, col, values, count - 1);
  }
}
