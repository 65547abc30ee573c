/** Weights as float32, float16 or bfloat16, which keep their bits on the GPU, or as float64, which become float32. */

import { type PlainLayout, rowBytes } from "../../kernels/weights/weights.ts";
import { printable } from "../errors.ts";
import type { TensorInfo } from "../files/safetensors.ts";
import type { TensorNeed } from "../graph/weights.ts";
import { hasShape, type MatrixFormat, type MatrixSource, type Problem, rowsOfPiece } from "./format.ts";

/** The dtypes of safetensors that are read here. */
export type PlainDType = "F64" | "F32" | "F16" | "BF16";

/** How they lie on the GPU. */
const layouts: Readonly<Record<PlainDType, PlainLayout>> = { F64: "f32", F32: "f32", F16: "f16", BF16: "bf16" };
const bytesOf: Readonly<Record<PlainDType, number>> = { F64: 8, F32: 4, F16: 2, BF16: 2 };

export function isPlain(dtype: string): dtype is PlainDType {
  return Object.hasOwn(layouts, dtype);
}

export function plainBytes(dtype: PlainDType): number {
  return bytesOf[dtype];
}

/** float16 bits → number, exactly. */
export function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The bits of the float16 nearest to a number, of two as near the even one; from 65520 on infinity. */
export function toHalf(value: number): number {
  const size = Math.abs(value);
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  if (Number.isNaN(size)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  let exponent = -14;
  while (2 ** (exponent + 1) <= size) exponent++;
  const steps = size * 2 ** (10 - exponent); // exact
  const down = Math.floor(steps);
  const up = steps - down > 0.5 || (steps - down === 0.5 && down % 2 === 1);
  // A subnormal has fewer than 1024 steps, and a carry grows the exponent by itself.
  return sign | ((exponent + 14) * 1024 + (up ? down + 1 : down));
}

/** Little-endian elements → float32, exactly but for float64, which is rounded. `bytes` may start anywhere. */
export function toFloat32(bytes: Uint8Array, dtype: PlainDType): Float32Array<ArrayBuffer> {
  const out = new Float32Array(bytes.byteLength / plainBytes(dtype));
  if (dtype === "F32") {
    new Uint8Array(out.buffer).set(bytes);
  } else if (dtype === "F64") {
    out.set(new Float64Array(bytes.slice().buffer));
  } else if (dtype === "BF16") {
    const bits = new Uint16Array(out.buffer); // the upper half of each float32
    for (let i = 0; i < out.length; i++) bits[2 * i + 1] = (bytes[2 * i] ?? 0) | ((bytes[2 * i + 1] ?? 0) << 8);
  } else {
    for (let i = 0; i < out.length; i++) out[i] = fromHalf((bytes[2 * i] ?? 0) | ((bytes[2 * i + 1] ?? 0) << 8));
  }
  return out;
}

/** Rows of a tensor → packed rows: converted to float32 where the layout is, padded with zeros to whole blocks. */
function packRows(bytes: Uint8Array, dtype: PlainDType, layout: PlainLayout, cols: number): Uint8Array {
  const isAsStored = layouts[dtype] === layout && dtype !== "F64";
  if (isAsStored && rowBytes(layout, cols) === cols * plainBytes(dtype)) return bytes;
  const stored = isAsStored ? bytes : new Uint8Array(toFloat32(bytes, dtype).buffer);
  const rows = bytes.byteLength / (cols * plainBytes(dtype));
  const from = stored.byteLength / rows;
  const to = rowBytes(layout, cols);
  const packed = new Uint8Array(rows * to);
  for (let row = 0; row < rows; row++) packed.set(stored.subarray(row * from, (row + 1) * from), row * to);
  return packed;
}

/** A tensor whose dtype the engine computes with. */
export type FloatTensor = TensorInfo & { readonly dtype: PlainDType };

/** A tensor as the model needs it, or what is wrong with it. */
export function floatTensor(tensor: TensorInfo, need: TensorNeed): FloatTensor | Problem {
  const where = `${printable(tensor.file)}: tensor "${printable(need.name)}"`;
  if (!isPlain(tensor.dtype)) {
    const problem = `${where}: expected F32, F16, BF16 or F64, got ${tensor.dtype}`;
    return { problem, advice: dtypeAdvice(tensor.dtype) };
  }
  if (!hasShape(tensor, need)) {
    const orMore = need.mayHaveMoreRows ? " or more rows" : "";
    return {
      problem: `${where}: expected [${need.shape.join(", ")}]${orMore}, got [${tensor.shape.join(", ")}]`,
      advice: "Is this config.json from another checkpoint?",
    };
  }
  return { ...tensor, dtype: tensor.dtype };
}

function dtypeAdvice(dtype: string): string {
  const instead = "load the original checkpoint, with --quantize int8 or int4 where it must be small";
  if (/^F8|^F4|^F6/.test(dtype))
    return `Weights of ${/^F8/.test(dtype) ? "8" : "4 or 6"}-bit floats are not read: ${instead}.`;
  if (dtype === "C64") return "Complex numbers are no weights of such a model.";
  return `These are the integers of a quantization that is not read: ${instead}.`;
}

/** A tensor of the matrix's own name, [rows, cols] row by row. */
export const plain: MatrixFormat = {
  stores: (tensors, need) => tensors.has(need.name),
  async open(tensors, need) {
    const stored = tensors.get(need.name);
    if (stored === undefined) throw new Error(`${need.name} is not stored`);
    const tensor = floatTensor(stored, need);
    return "problem" in tensor ? tensor : plainMatrix(tensor, need);
  },
};

function plainMatrix(tensor: FloatTensor, need: TensorNeed): MatrixSource {
  const [tensorRows = 0, cols = 0] = need.shape;
  const storedRowBytes = cols * plainBytes(tensor.dtype);
  return {
    tensors: [tensor],
    packing: { layout: layouts[tensor.dtype] },
    storedBytes: tensorRows * storedRowBytes,
    async *rows(read, firstRow, rows, as, memory) {
      if ("group" in as) throw new Error(`${need.name} is not stored as ${as.layout}`);
      const most = rowsOfPiece(storedRowBytes);
      const bytes = Math.min(most, rows) * storedRowBytes;
      const piece = memory !== undefined && memory.byteLength >= bytes ? memory : new Uint8Array(bytes);
      for (let row = firstRow; row < firstRow + rows; row += most) {
        const count = Math.min(most, firstRow + rows - row);
        const stored = await read(tensor, row * storedRowBytes, count * storedRowBytes, piece);
        yield { rows: count, weight: packRows(stored, tensor.dtype, as.layout, cols) };
      }
    },
  };
}
