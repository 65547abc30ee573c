// A weight matrix as it is bound. It may be split over several bindings: this one holds `rows` rows of each part, the
// first of them row `first` of the part. The shape is data, so that linears of all shapes share a pipeline.

struct Matrix {
  first: u32,
  rows: u32,
  rowsTotal: u32,
  cols: u32,
}

@group(1) @binding(1) var<uniform> matrix: Matrix;

const VECS = BLOCK / 4u;  // vec4f in a block

fn blocksPerRow() -> u32 {
  return (matrix.cols + BLOCK - 1u) / BLOCK;
}
