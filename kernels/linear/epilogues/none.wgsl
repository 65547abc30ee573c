// y = sum

const PARTS = 1u;

fn store(token: u32, row: u32, sum: array<f32, PARTS>) {
  y[token * matrix.rowsTotal + row] = sum[0];
}
