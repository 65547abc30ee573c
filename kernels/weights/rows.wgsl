// Four rows of W, a block of them at a time: what matvec, matmul and their forms for experts have in common.

alias Rows = array<Block, 4>;

fn loadRows(rows: vec4u, block: u32) -> Rows {
  return Rows(
    weightBlock(rows.x, block), weightBlock(rows.y, block), weightBlock(rows.z, block), weightBlock(rows.w, block));
}

// sum over the columns k of the block's vector v, the scale left out
fn vecSums(w: Rows, own: Input, at: u32, v: u32) -> vec4f {
  return sharedVec(own, at + v) * mat4x4f(w[0].vecs[v], w[1].vecs[v], w[2].vecs[v], w[3].vecs[v]);
}
