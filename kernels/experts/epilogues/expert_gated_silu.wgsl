// y = silu(gate) * up for a choice of an expert: the weight has two parts, as in gated_silu.

const PARTS = 2u;

fn storeChoice(choice: u32, row: u32, sum: array<f32, PARTS>) {
  y[choice * EXPERT_ROWS + row] = sum[0] / (1.0 + exp(-sum[0])) * sum[1];
}
