// peak: multiplications and additions on registers alone     grid: any     measures what kernels can compute
//   y [threads], a vec4f each;  4 vectors take 16 multiplications and additions in a step: 512 operations a thread

override STEPS: u32;

@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let factor = vec4f(0.5, 0.25, 0.75, 0.125) + f32(begin());
  var sums = array<vec4f, 4>(vec4f(f32(id.x)), vec4f(1.0), vec4f(2.0), vec4f(3.0));
  for (var step = begin(); step < STEPS; step++) {
    for (var i = 0u; i < 16u; i++) {
      for (var s = 0u; s < 4u; s++) {
        sums[s] = fma(sums[s], factor, factor);
      }
    }
  }
  y[id.x] = sums[0] + sums[1] + sums[2] + sums[3];
}
