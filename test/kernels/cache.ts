/** The key/value cache and the padded queries as kernels see them (kernels/kv/head.wgsl), made and read on the host. */
import { headVecs, type KvFormat, type KvShape } from "../../kernels/attention.ts";
import { decodeHalves, encodeHalves, type Numbers } from "../reference/ops.ts";

/** A layer's cache: position p lies in row p % kvRows. */
export interface CacheShape extends KvShape {
  readonly kvRows: number;
}

/** Values as the cache keeps them: rounded to f16, or as they are. */
export function stored(values: Float32Array<ArrayBuffer>, kv: KvFormat): Float32Array<ArrayBuffer> {
  return kv === "f32" ? values : decodeHalves(encodeHalves(values, "f16"), "f16");
}

/** Words of one cache (the keys, or the values) of a layer. */
export function cacheWords({ kv, kvHeads, kvRows, headDim }: CacheShape): number {
  return kvHeads * kvRows * headVecs(headDim) * (kv === "f32" ? 4 : 2);
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

/** Elements of a cache as the words that the GPU holds. */
export function packCache(elements: Float64Array, kv: KvFormat): Uint32Array<ArrayBuffer> {
  const packed = kv === "f32" ? Float32Array.from(elements) : encodeHalves(elements, "f16");
  return new Uint32Array(packed.buffer);
}

/** Words of a cache, read from the GPU, as elements. */
export function unpackCache(words: Float32Array, kv: KvFormat): Float32Array {
  if (kv === "f32") return words;
  return decodeHalves(new Uint16Array(words.buffer, words.byteOffset, words.length * 2), "f16");
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
