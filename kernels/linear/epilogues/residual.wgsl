// y = residual + sum

const PARTS = 1u;

@group(2) @binding(0) var<storage, read> residual: array<f32>;

fn store(token: u32, row: u32, sum: array<f32, PARTS>) {
  let at = token * matrix.rowsTotal + row;
  y[at] = residual[at] + sum[0];
}
