// A weight matrix as it is bound. It may be split over several bindings: this one holds `rows` rows of each part, the
// first of them row `first` of the part. The shape is data, so that linears of all shapes share a pipeline.

struct Matrix {
  first: u32,
  rows: u32,
  rowsTotal: u32,
  cols: u32,
  groupShift: u32,  // 1 << groupShift blocks of a row share a scale; 0 where there are no scales
  tileRows: u32,    // rows that lie block by block, a power of two; 1: each lies for itself
  bound: u32,       // rows of the binding, of all parts
}

@group(1) @binding(1) var<uniform> matrix: Matrix;

const VECS = BLOCK / 4u;  // vec4f in a block

// BLOCK columns of a row: their values are scale * vecs. The scale is left to the kernel, which multiplies the sum.
struct Block {
  vecs: array<vec4f, VECS>,
  scale: f32,
}

fn blocksPerRow() -> u32 {
  return (matrix.cols + BLOCK - 1u) / BLOCK;
}

// Where a row's item (block, or scale) of its `items` lies: tiles of rows lie one after the other, in a tile the first items
// of its rows, then their second ones, and so on. The last tile is lower where the rows do not fill it.
fn placeOf(row: u32, item: u32, items: u32) -> u32 {
  return placeIn(row, item, items, matrix.tileRows, matrix.bound);
}

// The same for a matrix of `bound` rows that is not the bound one.
fn placeIn(row: u32, item: u32, items: u32, tileRows: u32, bound: u32) -> u32 {
  let first = row & ~(tileRows - 1u);
  let height = min(tileRows, bound - first);
  return first * items + item * height + row - first;
}
