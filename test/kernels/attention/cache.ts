/** The key/value cache and the padded queries as kernels see them (kernels/attention/kv/head.wgsl), made and read on the host. */
import { headVecs, type KvShape, kvHeadBytes } from "../../../kernels/attention/attention.ts";
import { decodeHalves, encodeHalves, type Numbers } from "../../reference/ops.ts";

/** A layer's cache: position p lies in row p % kvRows. */
export interface CacheShape extends KvShape {
  readonly kvRows: number;
}

/**
 * Values [positions * kvHeads, headDim] as the cache keeps them: as they are, rounded to f16, or as codes of int8 times
 * their head's scale, which float64 holds exactly.
 */
export function stored(values: Float32Array<ArrayBuffer>, { kv, headDim }: KvShape): Numbers {
  if (kv === "f32") return values;
  if (kv === "f16") return decodeHalves(encodeHalves(values, "f16"), "f16");
  const out = new Float64Array(values.length);
  for (let at = 0; at < values.length; at += headDim) {
    const head = values.subarray(at, at + headDim);
    const scale = headScale(head);
    head.forEach((value, d) => {
      out[at + d] = scale === 0 ? 0 : scale * Math.round(value / scale);
    });
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

/** Words of one cache (the keys, or the values) of a layer. */
export function cacheWords({ kv, kvHeads, kvRows, headDim }: CacheShape): number {
  return (kvHeads * kvRows * kvHeadBytes(kv, headDim)) / 4;
}

/**
 * A cache in elements, [kvHeads, kvRows, headVecs * 4], once positions first … of `values` [positions, kvHeads * headDim]
 * were appended: NaN where nothing was, zero in the padding of a head.
 */
export function cacheElements(values: Numbers, first: number, shape: CacheShape): Float64Array {
  const { kvHeads, kvRows, headDim } = shape;
  const stride = headVecs(headDim) * 4;
  const out = new Float64Array(kvHeads * kvRows * stride).fill(Number.NaN);
  const positions = values.length / (kvHeads * headDim);
  for (let position = 0; position < positions; position++) {
    for (let head = 0; head < kvHeads; head++) {
      const at = (head * kvRows + ((first + position) % kvRows)) * stride;
      const from = (position * kvHeads + head) * headDim;
      out.fill(0, at, at + stride);
      out.set(values.subarray(from, from + headDim), at);
    }
  }
  return out;
}

/** Elements of a cache, as `stored` gives them, as the words that the GPU holds. */
export function packCache(elements: Float64Array, { kv, headDim }: KvShape): Uint32Array<ArrayBuffer> {
  if (kv === "f32") return new Uint32Array(Float32Array.from(elements).buffer);
  if (kv === "f16") return new Uint32Array(encodeHalves(elements, "f16").buffer);
  const stride = headVecs(headDim) * 4;
  const heads = elements.length / stride;
  const bytes = new DataView(new ArrayBuffer(heads * (stride + 4)));
  for (let head = 0; head < heads; head++) {
    const values = elements.subarray(head * stride, (head + 1) * stride);
    const scale = headScale(values);
    const at = head * (stride + 4);
    values.forEach((value, d) => {
      bytes.setInt8(at + d, scale === 0 ? 0 : Math.round(value / scale));
    });
    bytes.setFloat32(at + stride, scale, true);
  }
  return new Uint32Array(bytes.buffer);
}

/** Words of a cache, read from the GPU, as elements. */
export function unpackCache(words: Float32Array, { kv, headDim }: KvShape): Numbers {
  if (kv === "f32") return words;
  const { buffer, byteOffset, byteLength } = words;
  if (kv === "f16") return decodeHalves(new Uint16Array(buffer, byteOffset, byteLength / 2), "f16");
  const stride = headVecs(headDim) * 4;
  const bytes = new DataView(buffer, byteOffset, byteLength);
  return Float64Array.from({ length: (byteLength / (stride + 4)) * stride }, (_, i) => {
    const at = Math.floor(i / stride) * (stride + 4);
    return bytes.getFloat32(at + stride, true) * bytes.getInt8(at + (i % stride));
  });
}

/** Heads [seq, heads * headDim] padded with zeros to whole vec4f, [seq, heads, headVecs * 4]. */
export function padHeads(values: Numbers, headDim: number): Float32Array<ArrayBuffer> {
  const stride = headVecs(headDim) * 4;
  const count = values.length / headDim;
  const out = new Float32Array(count * stride);
  for (let head = 0; head < count; head++) {
    out.set(values.subarray(head * headDim, (head + 1) * headDim), head * stride);
  }
  return out;
}
