// rmsNorm: y[t, i] = x[t, i] / sqrt(mean over i of x[t, i]^2 + EPS) * gain[i]    (Zhang & Sennrich 2019, arXiv 1910.07467)
//   x [seq, cols]     gain [cols]     y [seq, cols]     grid: seq workgroups of LANES threads

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
  let cols = arrayLength(&gain);
  let token = workgroupNumber(id, count);
  let base = min(token, state.seq - 1u) * cols;  // a surplus workgroup repeats the last row: barriers need all threads

  var squares = 0.0;
  for (var i = lane + begin(); i < cols; i += LANES) {
    squares += x[base + i] * x[base + i];
  }
  partial[lane] = squares;
  workgroupBarrier();
  var total = 0.0;
  for (var i = begin(); i < LANES; i++) {
    total += partial[i];
  }

  let scale = inverseSqrt(total / f32(cols) + EPS);
  for (var i = lane + begin(); i < cols; i += LANES) {
    y[base + i] = x[base + i] * scale * gain[i];
  }
}
