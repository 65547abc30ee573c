// expertSum: y[t, i] = residual[t, i] + (x[t, 0, i] + x[t, 1, i]),  the two experts of each token
//   residual, y [seq, COLS]     x [seq, 2, COLS]     grid: ceil(seq * COLS / 64)

override COLS: u32;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> residual: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = workgroupNumber(id, count) * 64u + thread;
  if (i >= state.seq * COLS) {
    return;
  }
  let at = i / COLS * 2u * COLS + i % COLS;
  y[i] = residual[i] + (x[at] + x[at + COLS]);
}
