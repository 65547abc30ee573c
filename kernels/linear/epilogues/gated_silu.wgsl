// y = silu(gate) * up: the weight has two parts, the gate's rows and the up projection's, and y has the rows of one.

const PARTS = 2u;

fn store(token: u32, row: u32, sum: array<f32, PARTS>) {
  y[token * matrix.rowsTotal + row] = sum[0] / (1.0 + exp(-sum[0])) * sum[1];
}
