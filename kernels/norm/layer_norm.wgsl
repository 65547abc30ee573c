// layerNorm: y[t, i] = (x[t, i] - mean) / sqrt(variance + EPS) * gain[i] + bias[i],  mean and variance over i
//   x [seq, cols]     gain, bias [cols]     y [seq, cols]     grid: seq workgroups of LANES threads
//   The variance is that of the differences, in a second pass: the mean of squares less the square of the mean cancels.
//   (Ba, Kiros & Hinton 2016, arXiv 1607.06450)

override EPS: f32;
override LANES: u32;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<storage, read> gain: array<f32>;
@group(1) @binding(1) var<storage, read> bias: array<f32>;

var<workgroup> partial: array<f32, LANES>;
var<workgroup> partialSquares: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let cols = arrayLength(&gain);
  let token = workgroupNumber(id, count);
  let base = min(token, state.seq - 1u) * cols;  // a surplus workgroup repeats the last row: barriers need all threads

  var sum = 0.0;
  for (var i = lane + begin(); i < cols; i += LANES) {
    sum += x[base + i];
  }
  partial[lane] = sum;
  workgroupBarrier();
  var total = 0.0;
  for (var i = begin(); i < LANES; i++) {
    total += partial[i];
  }
  let mean = total / f32(cols);

  var squares = 0.0;
  for (var i = lane + begin(); i < cols; i += LANES) {
    squares += (x[base + i] - mean) * (x[base + i] - mean);
  }
  partialSquares[lane] = squares;
  workgroupBarrier();
  total = 0.0;
  for (var i = begin(); i < LANES; i++) {
    total += partialSquares[i];
  }

  let scale = inverseSqrt(total / f32(cols) + EPS);
  for (var i = lane + begin(); i < cols; i += LANES) {
    y[base + i] = (x[base + i] - mean) * scale * gain[i] + bias[i];
  }
}
