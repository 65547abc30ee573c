/** The key/value cache of a layer as kernels see it, a ring of rows of heads, made and read on the host. */
import { readHeads } from "../../../engine/check/problems/heads.ts";
import { headVecs, type KvShape, kvHeadBytes } from "../../../kernels/attention/kv/kv.ts";
import type { Numbers } from "../../reference/ops.ts";

/** A layer's cache: position p lies in row p % kvRows. */
export interface CacheShape extends KvShape {
  readonly kvRows: number;
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

/** Words of a cache, read from the GPU, as elements. */
export function unpackCache(words: Float32Array, { kv, headDim }: KvShape): Float64Array {
  const length = ((words.length * 4) / kvHeadBytes(kv, headDim)) * headVecs(headDim) * 4;
  const read = readHeads(words, { kv, headDim });
  return Float64Array.from({ length }, (_, i) => read(i));
}
