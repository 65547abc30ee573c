// Four rows of W in layout q4 that are used once, for one token: as in rows.wgsl, but four columns are unpacked where they
// are multiplied, so that no more of them take registers at a time.

alias Rows = array<Stored, 4>;

fn loadRows(rows: vec4u, block: u32) -> Rows {
  return Rows(
    storedBlock(rows.x, block), storedBlock(rows.y, block), storedBlock(rows.z, block), storedBlock(rows.w, block));
}

// sum over the block's columns k of W[r, k] * x[k], of the four rows r; the block's first vector of x is vector `at` of a load
fn blockSums(w: Rows, own: Input, at: u32) -> vec4f {
  var sums = vec4f();
  for (var v = 0u; v < VECS; v++) {
    sums += sharedVec(own, at + v) * mat4x4f(storedVec(w[0], v), storedVec(w[1], v), storedVec(w[2], v), storedVec(w[3], v));
  }
  return sums * vec4f(w[0].scale, w[1].scale, w[2].scale, w[3].scale);
}
