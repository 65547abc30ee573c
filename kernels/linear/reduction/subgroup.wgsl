// The sums of the LANES threads of a workgroup that has no others and lies in one subgroup (feature "subgroups"), which
// takes subgroups of LANES threads or more, of whatever sizes.

fn laneSums(own: array<vec4f, PARTS>, thread: u32) -> array<vec4f, PARTS> {
  var sums = own;
  for (var p = 0u; p < PARTS; p++) {
    sums[p] = subgroupAdd(sums[p]);
  }
  return sums;
}
