// Packed layout q8: rows of unsigned 8-bit integers, padded with zeros (q = zero) to whole blocks of 32 columns
// (32 bytes). Column 16 h + 4 v + c of a block is byte v, counted from the lowest bits, of word c of its half h.

const BLOCK = 32u;

@group(1) @binding(0) var<storage, read> weight: array<vec4u>;

fn weightBlock(row: u32, block: u32) -> Block {
  let at = 2u * placeOf(row, block, blocksPerRow());
  let halves = array<vec4u, 2>(weight[at], weight[at + 1u]);
  let s = scaleAndZero(row, block);
  var out: Block;
  for (var v = 0u; v < VECS; v++) {
    out.vecs[v] = vec4f(vec4i((halves[v / 4u] >> vec4u(8u * (v % 4u))) & vec4u(255u))) - s.y;
  }
  out.scale = s.x;
  return out;
}
