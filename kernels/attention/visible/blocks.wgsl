// Block-sparse attention (phi-3-small): positions fall into blocks of KEY_BLOCK. A query in block qb sees, of the keys up
// to its own, those in the last LOCAL_BLOCKS blocks, and in head h those in each block kb with
// (kb + h * HEAD_STEP + 1) % STRIDE = 0.
//   Queries go together that are neighbouring tokens of a head, as heads see different blocks. Of a single token they are
//   heads of a group: the blocks that one of them sees are visited for all, since each of them has its own.

override KEY_BLOCK: u32;
override LOCAL_BLOCKS: u32;
override STRIDE: u32;
override HEAD_STEP: u32;

fn rowToken(row: u32) -> u32 {
  return row % state.seq;
}

fn rowHead(row: u32) -> u32 {
  return row / state.seq;
}

fn sees(key: u32, head: u32, position: u32) -> bool {
  let block = key / KEY_BLOCK;
  let isLocal = position / KEY_BLOCK < block + LOCAL_BLOCKS;
  let isOfStride = (block + head * HEAD_STEP + 1u) % STRIDE == 0u;
  return key <= position && (isLocal || isOfStride);
}

// The first key from `key` on that a query sees, as long as there is one.
fn nextSeen(key: u32, head: u32, position: u32) -> u32 {
  let block = key / KEY_BLOCK;
  let own = position / KEY_BLOCK;
  let local = max(block, own + 1u - min(own + 1u, LOCAL_BLOCKS));
  let ofStride = block + (STRIDE - 1u - (block + head * HEAD_STEP) % STRIDE);
  return select(max(key, min(local, ofStride) * KEY_BLOCK), 0xffffffffu, block > own);
}
