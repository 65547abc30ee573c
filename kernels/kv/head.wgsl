// How heads lie in the cache and in the rotated queries: HEAD_VECS vec4f each, padded with zeros.
//   keys, values [KV_HEADS, KV_ROWS, HEAD_VECS]    position p is in row p % KV_ROWS (a ring, where a window allows it)

override HEADS: u32;
override KV_HEADS: u32;
override HEAD_DIM: u32;
override KV_ROWS: u32;
override HEAD_VECS: u32 = (HEAD_DIM + 3u) / 4u;

fn cacheAt(kvHead: u32, position: u32) -> u32 {
  return (kvHead * KV_ROWS + position % KV_ROWS) * HEAD_VECS;
}
