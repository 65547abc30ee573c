// How heads lie in the cache and in the rotated queries: HEAD_VECS vec4f each, padded with zeros.
//   keys, values [KV_HEADS, kvRows, HEAD_VECS + SCALE_PACKS]    a pack is four dimensions, the last one the head's scale
//   where the format has one; position p is in row p % kvRows (a ring, where a window allows it)

override HEADS: u32;
override KV_HEADS: u32;
override HEAD_DIM: u32;
override HEAD_VECS: u32 = (HEAD_DIM + 3u) / 4u;

fn cacheAt(kvHead: u32, position: u32) -> u32 {
  return (kvHead * state.kvRows + position % state.kvRows) * (HEAD_VECS + SCALE_PACKS);
}
