/** Weights as float32, float16 or bfloat16: they keep their bits on the GPU. */

import { rowBytes, type WeightLayout } from "../../kernels/weights.ts";

/** The dtypes of safetensors that are read here. */
export type PlainDType = "F32" | "F16" | "BF16";

const layouts: Readonly<Record<PlainDType, WeightLayout>> = { F32: "f32", F16: "f16", BF16: "bf16" };

export function isPlain(dtype: string): dtype is PlainDType {
  return dtype in layouts;
}

export function plainBytes(dtype: PlainDType): number {
  return dtype === "F32" ? 4 : 2;
}

/** The packed layout of a matrix made of tensors of these dtypes: their own, or float32 where they differ. */
export function plainLayout(dtypes: readonly PlainDType[]): WeightLayout {
  const first = dtypes[0] ?? "F32";
  return dtypes.every((dtype) => dtype === first) ? layouts[first] : "f32";
}

/** float16 bits → number, exactly. */
function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Little-endian elements → float32, exactly. `bytes` may start anywhere. */
export function toFloat32(bytes: Uint8Array, dtype: PlainDType): Float32Array<ArrayBuffer> {
  const out = new Float32Array(bytes.byteLength / plainBytes(dtype));
  if (dtype === "F32") {
    new Uint8Array(out.buffer).set(bytes);
  } else if (dtype === "BF16") {
    const bits = new Uint16Array(out.buffer); // the upper half of each float32
    for (let i = 0; i < out.length; i++) bits[2 * i + 1] = (bytes[2 * i] ?? 0) | ((bytes[2 * i + 1] ?? 0) << 8);
  } else {
    for (let i = 0; i < out.length; i++) out[i] = fromHalf((bytes[2 * i] ?? 0) | ((bytes[2 * i + 1] ?? 0) << 8));
  }
  return out;
}

/** Whether rows of this dtype lie in the packed layout exactly as in the file. */
export function isPackedAsStored(dtype: PlainDType, layout: WeightLayout, cols: number): boolean {
  return layouts[dtype] === layout && rowBytes(layout, cols) === cols * plainBytes(dtype);
}

/** Rows of a tensor → packed rows: converted to float32 where the layout is, padded with zeros to whole blocks. */
export function packRows(
  bytes: Uint8Array,
  dtype: PlainDType,
  layout: WeightLayout,
  cols: number,
): Uint8Array<ArrayBuffer> {
  const stored = layouts[dtype] === layout ? bytes : new Uint8Array(toFloat32(bytes, dtype).buffer);
  const rows = bytes.byteLength / (cols * plainBytes(dtype));
  const from = stored.byteLength / rows;
  const to = rowBytes(layout, cols);
  const packed = new Uint8Array(rows * to);
  for (let row = 0; row < rows; row++) packed.set(stored.subarray(row * from, (row + 1) * from), row * to);
  return packed;
}
