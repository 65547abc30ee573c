// Four rows of a block times x. The vectors are written out: an array that a variable indexes is memory to SwiftShader,
// which unrolls no loop.

// sum over the block's columns k of W[r, k] * x[k], of the four rows r; the block's first vector of x is vector `at` of a load
fn blockSums(w: Rows, own: Input, at: u32) -> vec4f {
  var sums = vecSums(w, own, at, 0u);
  sums += vecSums(w, own, at, 1u);
  if (VECS > 2u) {
    sums += vecSums(w, own, at, 2u);
    sums += vecSums(w, own, at, 3u);
    sums += vecSums(w, own, at, 4u);
    sums += vecSums(w, own, at, 5u);
    sums += vecSums(w, own, at, 6u);
    sums += vecSums(w, own, at, 7u);
  }
  return sums * vec4f(w[0].scale, w[1].scale, w[2].scale, w[3].scale);
}

const_assert VECS == 2u || VECS == 8u;
