// Packed layout q4: rows of unsigned 4-bit integers, padded with zeros (q = zero) to whole blocks of 32 columns
// (16 bytes). Column 4 v + c of a block is nibble v, counted from the lowest bits, of its word c, so that four
// neighbouring columns come out of one shift of four words. Conversions are from i32: u32 to f32 is no single instruction on x86.

const BLOCK = 32u;

@group(1) @binding(0) var<storage, read> weight: array<vec4u>;

fn weightBlock(row: u32, block: u32) -> Block {
  let bits = weight[placeOf(row, block, blocksPerRow())];
  let s = scaleAndZero(row, block);
  var out: Block;
  for (var v = 0u; v < VECS; v++) {
    out.vecs[v] = vec4f(vec4i((bits >> vec4u(4u * v)) & vec4u(15u))) - s.y;
  }
  out.scale = s.x;
  return out;
}
