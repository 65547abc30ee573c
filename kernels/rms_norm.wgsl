// rmsNorm: y[t, i] = x[t, i] / sqrt(mean over i of x[t, i]^2 + EPS) * gain[i]    (Zhang & Sennrich 2019, arXiv 1910.07467)
//   x [seq, COLS]     gain [COLS]     y [seq, COLS]     grid: seq workgroups of LANES threads

override COLS: u32;
override EPS: f32;
override LANES: u32;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<storage, read> gain: array<f32>;

var<workgroup> partial: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let token = workgroupNumber(id, count);
  let base = min(token, state.seq - 1u) * COLS;  // a surplus workgroup repeats the last row: barriers need all threads

  var squares = 0.0;
  for (var i = lane; i < COLS; i += LANES) {
    squares += x[base + i] * x[base + i];
  }
  partial[lane] = squares;
  workgroupBarrier();
  var total = 0.0;
  for (var i = 0u; i < LANES; i++) {
    total += partial[i];
  }

  let scale = inverseSqrt(total / f32(COLS) + EPS);
  for (var i = lane; i < COLS; i += LANES) {
    y[base + i] = x[base + i] * scale * gain[i];
  }
}
