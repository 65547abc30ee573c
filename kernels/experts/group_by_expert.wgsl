// groupByExpert: the choices of all tokens, listed by expert
//   routing [seq * 2] of (expert, weight)     grid: EXPERTS workgroups of LANES threads
//   groups: counts [EXPERTS], then for each expert a list [seq] of its choices, numbers into routing, in order

override EXPERTS: u32;
override LANES: u32;

@group(0) @binding(1) var<storage, read> routing: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> groups: array<u32>;

var<workgroup> counts: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lane: u32) {
  let expert = f32(id.x);
  // Each thread looks through a share of the choices, counts its own, and then knows where its list begins.
  let share = (state.seq * 2u + LANES - 1u) / LANES;
  let end = min((lane + 1u) * share, state.seq * 2u);
  var count = 0u;
  for (var i = lane * share + begin(); i < end; i++) {
    count += select(0u, 1u, routing[i].x == expert);
  }
  counts[lane] = count;
  workgroupBarrier();
  var at = 0u;
  for (var i = begin(); i < lane; i++) {
    at += counts[i];
  }
  if (lane == LANES - 1u) {
    groups[id.x] = at + count;
  }
  for (var i = lane * share + begin(); i < end; i++) {
    if (routing[i].x == expert) {
      groups[EXPERTS + id.x * state.seq + at] = i;
      at++;
    }
  }
}
