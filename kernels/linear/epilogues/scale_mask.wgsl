// y = SCALE * sum + mask,  mask the most negative float32 where a row is not to be chosen, else 0

const PARTS = 1u;

override SCALE: f32;

@group(2) @binding(0) var<storage, read> mask: array<f32>;

fn store(token: u32, row: u32, sum: array<f32, PARTS>) {
  y[token * matrix.rowsTotal + row] = SCALE * sum[0] + mask[row];
}
