// Packed layout f16: rows of IEEE float16, padded with zeros to a whole number of blocks of 8 columns (16 bytes).
// Read through unpack2x16float, so the optional feature shader-f16 is not needed.

const BLOCK = 8u;

@group(1) @binding(0) var<storage, read> weight: array<vec4u>;

fn weightBlock(row: u32, block: u32) -> Block {
  let bits = weight[placeOf(row, block, blocksPerRow())];
  let low = vec4f(unpack2x16float(bits.x), unpack2x16float(bits.y));
  let high = vec4f(unpack2x16float(bits.z), unpack2x16float(bits.w));
  return Block(array<vec4f, 2>(low, high), 1.0);
}
