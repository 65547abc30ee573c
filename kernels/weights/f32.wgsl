// Packed layout f32: rows of float32, padded with zeros to a whole number of blocks of 8 columns (32 bytes).

const BLOCK = 8u;

@group(1) @binding(0) var<storage, read> weight: array<vec4f>;

fn weightBlock(row: u32, block: u32) -> Block {
  let at = 2u * placeOf(row, block, blocksPerRow());
  return Block(array<vec4f, 2>(weight[at], weight[at + 1u]), 1.0);
}
