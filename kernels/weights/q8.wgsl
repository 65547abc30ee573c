// Packed layout q8: rows of unsigned 8-bit integers, padded with zeros (q = zero) to whole blocks of 32 columns
// (32 bytes). Column 16 h + 4 v + c of a block is byte v, counted from the lowest bits, of word c of its half h.

const BLOCK = 32u;

@group(1) @binding(0) var<storage, read> weight: array<vec4u>;

fn weightBlock(row: u32, block: u32) -> Block {
  let at = 2u * placeOf(row, block, blocksPerRow());
  let low = weight[at];
  let high = weight[at + 1u];
  let s = scaleAndZero(row, block);
  let vecs = array<vec4f, VECS>(
    bytes(low, 0u) - s.y, bytes(low, 1u) - s.y, bytes(low, 2u) - s.y, bytes(low, 3u) - s.y,
    bytes(high, 0u) - s.y, bytes(high, 1u) - s.y, bytes(high, 2u) - s.y, bytes(high, 3u) - s.y);
  return Block(vecs, s.x);
}

fn bytes(bits: vec4u, v: u32) -> vec4f {
  return vec4f(vec4i((bits >> vec4u(8u * v)) & vec4u(255u)));
}
