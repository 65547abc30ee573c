// Packed layout q4: rows of unsigned 4-bit integers, padded with zeros (q = zero) to whole blocks of 32 columns
// (16 bytes). Column 4 v + c of a block is nibble v, counted from the lowest bits, of its word c, so that four
// neighbouring columns come out of one shift of four words. Conversions are from i32: u32 to f32 is no single instruction on x86.

const BLOCK = 32u;

@group(1) @binding(0) var<storage, read> weight: array<vec4u>;

// A block as it lies.
struct Stored {
  bits: vec4u,
  scale: f32,
  zero: f32,
}

fn storedBlock(row: u32, block: u32) -> Stored {
  let s = scaleAndZero(row, block);
  return Stored(weight[placeOf(row, block, blocksPerRow())], s.x, s.y);
}

fn storedVec(block: Stored, v: u32) -> vec4f {
  return vec4f(vec4i((block.bits >> vec4u(4u * v)) & vec4u(15u))) - block.zero;
}

fn weightBlock(row: u32, block: u32) -> Block {
  let stored = storedBlock(row, block);
  let vecs = array<vec4f, VECS>(
    storedVec(stored, 0u), storedVec(stored, 1u), storedVec(stored, 2u), storedVec(stored, 3u),
    storedVec(stored, 4u), storedVec(stored, 5u), storedVec(stored, 6u), storedVec(stored, 7u));
  return Block(vecs, stored.scale);
}
