/** Heads as kernels see them (kernels/attention/kv/head.wgsl): padded, and in a format of the cache. */

import { headVecs, type KvFormat, kvHeadBytes } from "../../../kernels/attention/kv/kv.ts";
import { fromHalf } from "../../weights/plain.ts";
import { at, type Numbers } from "../formulas.ts";
import { encodeHalves } from "./numbers.ts";

/** A cache's format, and the size of its heads. */
export interface HeadFormat {
  readonly kv: KvFormat;
  readonly headDim: number;
}

/** Heads [count, headDim] → padded with zeros to whole vec4f, [count, headVecs * 4]. */
export function padHeads(values: Numbers, headDim: number): Float32Array<ArrayBuffer> {
  const stride = headVecs(headDim) * 4;
  const count = values.length / headDim;
  const out = new Float32Array(count * stride);
  for (let head = 0; head < count; head++) {
    out.set(values.subarray(head * headDim, (head + 1) * headDim), head * stride);
  }
  return out;
}

/** The int8 scale of a head: its largest size in 127 steps, rounded to float32; 0 below float32's normal numbers. */
export function headScale(head: Numbers): number {
  let most = 0;
  for (const value of head) most = Math.max(most, Math.abs(value));
  const scale = Math.fround(most / 127);
  return scale < 2 ** -126 ? 0 : scale;
}

/** Padded heads [count, headVecs * 4] → the words of a cache. */
export function packHeads(heads: Numbers, { kv, headDim }: HeadFormat): Uint32Array<ArrayBuffer> {
  if (kv === "f32") return new Uint32Array(Float32Array.from(heads).buffer);
  if (kv === "f16") return encodeHalves(heads);
  const stride = headVecs(headDim) * 4;
  const headBytes = kvHeadBytes(kv, headDim);
  const count = heads.length / stride;
  const bytes = new DataView(new ArrayBuffer(count * headBytes));
  for (let head = 0; head < count; head++) {
    const values = heads.subarray(head * stride, (head + 1) * stride);
    const scale = headScale(values);
    for (let d = 0; d < stride; d++) {
      bytes.setInt8(head * headBytes + d, scale === 0 ? 0 : Math.round(at(values, d) / scale));
    }
    bytes.setFloat32(head * headBytes + stride, scale, true);
  }
  return new Uint32Array(bytes.buffer);
}

/** The words of a cache → an element of its padded heads [count, headVecs * 4]; of int8 exact in float64. */
export function readHeads(
  { buffer, byteOffset, byteLength }: Float32Array | Uint32Array,
  { kv, headDim }: HeadFormat,
): (index: number) => number {
  const bytes = new DataView(buffer, byteOffset, byteLength);
  if (kv === "f32") return (i) => bytes.getFloat32(4 * i, true);
  if (kv === "f16") return (i) => fromHalf(bytes.getUint16(2 * i, true));
  const stride = headVecs(headDim) * 4;
  const headBytes = kvHeadBytes(kv, headDim);
  return (i) => {
    const head = Math.floor(i / stride) * headBytes;
    return bytes.getFloat32(head + stride, true) * bytes.getInt8(head + (i % stride));
  };
}

/** Heads [count, headDim] as a cache keeps them: rounded to f16, or codes of int8 times their head's scale. */
export function storedHeads(values: Float32Array<ArrayBuffer>, format: HeadFormat): Numbers {
  if (format.kv === "f32") return values;
  const { headDim } = format;
  const stride = headVecs(headDim) * 4;
  const read = readHeads(packHeads(padHeads(values, headDim), format), format);
  return Float64Array.from(values, (_, i) => read(Math.floor(i / headDim) * stride + (i % headDim)));
}
