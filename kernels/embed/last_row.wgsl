// lastRow: y[i] = x[seq - 1, i]     x [seq, COLS]     y [1, COLS]     grid: ceil(COLS / 64)

override COLS: u32;

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < COLS) {
    y[id.x] = x[(state.seq - 1u) * COLS + id.x];
  }
}
