// headNorm: LayerNorm over each query and key head of a fused row, values passed through (phi's qk_layernorm)
//   qkv [seq, (HEADS + 2 * KV_HEADS) * HEAD_DIM]     y likewise
//   qGain, qBias, kGain, kBias [HEAD_DIM]            grid: ceil(seq * (HEADS + 2 * KV_HEADS) / 64), a thread a head

override HEADS: u32;
override KV_HEADS: u32;
override HEAD_DIM: u32;
override EPS: f32;

@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<storage, read> qGain: array<f32>;
@group(1) @binding(1) var<storage, read> qBias: array<f32>;
@group(1) @binding(2) var<storage, read> kGain: array<f32>;
@group(1) @binding(3) var<storage, read> kBias: array<f32>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let item = workgroupNumber(id, count) * 64u + thread;
  if (item >= state.seq * (HEADS + 2u * KV_HEADS)) {
    return;
  }
  let base = item * HEAD_DIM;
  let head = item % (HEADS + 2u * KV_HEADS);

  var sum = 0.0;
  for (var i = begin(); i < HEAD_DIM; i++) {
    sum += qkv[base + i];
  }
  let mean = sum / f32(HEAD_DIM);
  var squares = 0.0;
  for (var i = begin(); i < HEAD_DIM; i++) {
    squares += (qkv[base + i] - mean) * (qkv[base + i] - mean);
  }
  let scale = inverseSqrt(squares / f32(HEAD_DIM) + EPS);
  for (var i = begin(); i < HEAD_DIM; i++) {
    let value = qkv[base + i];
    if (head < HEADS) {
      y[base + i] = (value - mean) * scale * qGain[i] + qBias[i];
    } else if (head < HEADS + KV_HEADS) {
      y[base + i] = (value - mean) * scale * kGain[i] + kBias[i];
    } else {
      y[base + i] = value;
    }
  }
}
