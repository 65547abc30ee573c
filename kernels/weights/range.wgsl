// A weight may be split over several bindings: this one holds `rows` rows (of each part), the first of them row `first`.

struct RowRange {
  first: u32,
  rows: u32,
}

@group(1) @binding(1) var<uniform> range: RowRange;

override COLS: u32;
override BLOCKS: u32 = (COLS + BLOCK - 1u) / BLOCK;  // blocks in a row
const VECS = BLOCK / 4u;                     // vec4f in a block
