// y = gelu_new(sum + bias)    (needs gelu.wgsl)

const PARTS = 1u;

@group(2) @binding(0) var<storage, read> bias: array<f32>;

fn store(token: u32, row: u32, sum: array<f32, PARTS>) {
  y[token * matrix.rowsTotal + row] = geluNew(sum[0] + bias[row]);
}
