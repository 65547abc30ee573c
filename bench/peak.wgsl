// peak: multiplications and additions on registers alone     grid: any     measures what kernels can compute
//   y [threads];  ten sums, independent of each other, take eight multiplications and additions in a step: 160 operations
//   More sums do not fit the registers of a CPU's vectors, fewer leave its units waiting. FUSED: by fma(), or in two operations.

override STEPS: u32;
override FUSED: bool;

@group(0) @binding(1) var<storage, read_write> y: array<f32>;

fn next(sum: f32, factor: f32) -> f32 {
  if (FUSED) {
    return fma(sum, factor, factor);
  }
  return sum * factor + factor;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let factor = 0.5 + f32(begin());
  var a = f32(id.x);
  var b = a + 1.0;
  var c = a + 2.0;
  var d = a + 3.0;
  var e = a + 4.0;
  var f = a + 5.0;
  var g = a + 6.0;
  var h = a + 7.0;
  var i = a + 8.0;
  var j = a + 9.0;
  for (var step = begin(); step < STEPS; step++) {
    for (var turn = 0u; turn < 8u; turn++) {
      a = next(a, factor);
      b = next(b, factor);
      c = next(c, factor);
      d = next(d, factor);
      e = next(e, factor);
      f = next(f, factor);
      g = next(g, factor);
      h = next(h, factor);
      i = next(i, factor);
      j = next(j, factor);
    }
  }
  y[id.x] = a + b + c + d + e + f + g + h + i + j;
}
