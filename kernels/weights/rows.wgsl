// Four rows of W, a block of them at a time: what matvec, matmul and their forms for experts have in common.

alias Rows = array<Block, 4>;

fn loadRows(rows: vec4u, block: u32) -> Rows {
  return Rows(
    weightBlock(rows.x, block), weightBlock(rows.y, block), weightBlock(rows.z, block), weightBlock(rows.w, block));
}

// sum over the block's columns k of W[r, k] * x[k], of the four rows r; the block's first vector of x is vector `at` of a load
fn blockSums(w: Rows, own: Input, at: u32) -> vec4f {
  var sums = vec4f();
  for (var v = 0u; v < VECS; v++) {
    sums += sharedVec(own, at + v) * mat4x4f(w[0].vecs[v], w[1].vecs[v], w[2].vecs[v], w[3].vecs[v]);
  }
  return sums * vec4f(w[0].scale, w[1].scale, w[2].scale, w[3].scale);
}
