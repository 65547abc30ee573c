// The sums of the LANES threads of each group, in workgroup memory; thread 0 of a group gets them.

var<workgroup> partial: array<vec4f, LANES * GROUPS * PARTS>;

fn laneSums(own: array<vec4f, PARTS>, thread: u32) -> array<vec4f, PARTS> {
  var sums = own;
  for (var p = 0u; p < PARTS; p++) {
    partial[p * LANES * GROUPS + thread] = sums[p];
  }
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (thread % LANES < half) {
      for (var p = 0u; p < PARTS; p++) {
        sums[p] += partial[p * LANES * GROUPS + thread + half];
        partial[p * LANES * GROUPS + thread] = sums[p];
      }
    }
  }
  return sums;
}
