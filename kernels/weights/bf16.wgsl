// Packed layout bf16: rows of bfloat16, padded with zeros to a whole number of blocks of 8 columns (16 bytes).
// A bfloat16 is the upper half of a float32: the low one of a word is shifted up, the high one is masked.

const BLOCK = 8u;

@group(1) @binding(0) var<storage, read> weight: array<vec4u>;

fn weightBlock(row: u32, block: u32) -> Block {
  let bits = weight[placeOf(row, block, blocksPerRow())];
  let low = bitcast<vec4f>(bits << vec4u(16u));
  let high = bitcast<vec4f>(bits & vec4u(0xffff0000u));
  let vecs = array<vec4f, 2>(vec4f(low.x, high.x, low.y, high.y), vec4f(low.z, high.z, low.w, high.w));
  return Block(vecs, 1.0);
}
