// y = weight of the choice * sum

const PARTS = 1u;

fn storeChoice(choice: u32, row: u32, sum: array<f32, PARTS>) {
  y[choice * EXPERT_ROWS + row] = routing[choice].y * sum[0];
}
