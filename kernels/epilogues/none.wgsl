// y = sum

const PARTS = 1u;

fn store(token: u32, row: u32, sum: array<f32, PARTS>) {
  y[token * ROWS_TOTAL + row] = sum[0];
}
