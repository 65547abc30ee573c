// Block-sparse attention (phi-3-small): positions fall into blocks of KEY_BLOCK. A query in block qb sees, of the keys up
// to its own, those in the last LOCAL_BLOCKS blocks, and in head h those in each block kb with
// (kb + h * HEAD_STEP + 1) % STRIDE = 0.
//   Four queries go together that are neighbouring tokens of a head, as heads see different blocks. Of a single token the
//   four are heads of a group: the blocks that one of them sees are visited for all, since each of them has its own.

override KEY_BLOCK: u32;
override LOCAL_BLOCKS: u32;
override STRIDE: u32;
override HEAD_STEP: u32;

fn rowToken(row: vec4u) -> vec4u {
  return row % state.seq;
}

fn rowHead(row: vec4u) -> vec4u {
  return row / state.seq;
}

fn sees(key: u32, head: vec4u, position: vec4u) -> vec4<bool> {
  let block = vec4u(key / KEY_BLOCK);
  let isLocal = position / KEY_BLOCK < block + LOCAL_BLOCKS;
  let isOfStride = (block + head * HEAD_STEP + 1u) % STRIDE == vec4u(0u);
  return (vec4u(key) <= position) & (isLocal | isOfStride);
}

// The first key from `key` on that one of the queries sees, as long as there is one.
fn nextKey(key: u32, head: vec4u, position: vec4u) -> u32 {
  let block = vec4u(key / KEY_BLOCK);
  let own = position / KEY_BLOCK;
  let local = max(block, own + 1u - min(own + 1u, vec4u(LOCAL_BLOCKS)));
  let ofStride = block + (STRIDE - 1u - (block + head * HEAD_STEP) % STRIDE);
  let next = select(min(local, ofStride), vec4u(0xffffffffu / KEY_BLOCK), block > own);
  return max(key, min(min(next.x, next.y), min(next.z, next.w)) * KEY_BLOCK);
}
