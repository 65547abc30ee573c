// Packed layout f32: rows of float32, padded with zeros to a whole number of blocks of 8 columns (32 bytes).

const BLOCK = 8u;

@group(1) @binding(0) var<storage, read> weight: array<vec4f>;

fn weightBlock(index: u32) -> array<vec4f, 2> {
  return array<vec4f, 2>(weight[index * 2u], weight[index * 2u + 1u]);
}
