// The blocks of four rows that one load of the input by all threads is for (linear/activations/*), written out as in sums.wgsl.

// Blocks from `first` on; behind the row's last one the input is zero.
fn loadBlocks(rows: vec4u, first: u32) -> array<Rows, LOADED> {
  var w: array<Rows, LOADED>;
  for (var b = 0u; b < LOADED; b++) {
    w[b] = loadRows(rows, min(first + b, blocksPerRow() - 1u));
  }
  return w;
}

// The sums of all blocks of a load.
fn loadSums(w: array<Rows, LOADED>, own: Input) -> vec4f {
  var sums = nthSums(w, own, 0u);
  if (LOADED > 1u) {
    sums += nthSums(w, own, 1u);
  }
  if (LOADED > 2u) {
    sums += nthSums(w, own, 2u);
    sums += nthSums(w, own, 3u);
  }
  return sums;
}

const_assert LOADED == 1u || LOADED == 2u || LOADED == 4u;

fn nthSums(w: array<Rows, LOADED>, own: Input, b: u32) -> vec4f {
  return blockSums(w[b], own, b * VECS);
}

// Which vector of its load is a block's first.
fn firstVec(block: u32) -> u32 {
  if (LOADED == 1u) {
    return 0u;
  }
  return block % LOADED * VECS;
}
