// sparsemixer: which two experts a token takes, and how much of each    (Liu et al. 2023, arXiv 2310.00811, at inference)
//   scores [seq, EXPERTS]     routing [seq, 2] of (expert, weight)     grid: ceil(seq / 64), a thread a token
//   An expert's weight is its softmax among those that are left and near it: (best - s) / max(|s|, best) <= THRESHOLD.
//   Then it is taken out and the next one chosen; the two weights may add up to more than 1. What is not finite makes them NaN.

override EXPERTS: u32;
override THRESHOLD: f32;

@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read_write> routing: array<vec2f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let token = id.x;
  if (token >= state.seq) {
    return;
  }
  var taken = EXPERTS;  // none yet
  for (var choice = begin(); choice < 2u; choice++) {
    var expert = select(0u, 1u, taken == 0u);
    var best = scores[token * EXPERTS + expert];
    for (var e = expert + 1u; e < EXPERTS; e++) {
      let score = scores[token * EXPERTS + e];
      if (e != taken && score > best) {
        expert = e;
        best = score;
      }
    }
    var mass = 0.0;
    for (var e = begin(); e < EXPERTS; e++) {
      let score = scores[token * EXPERTS + e];
      let isFar = best - score > THRESHOLD * max(abs(score), best);  // without a division by zero
      mass += select(exp(score - best), 0.0, e == taken || isFar);
      let bits = bitcast<u32>(score);
      if ((bits & 0x7f800000u) == 0x7f800000u) {
        mass = bitcast<f32>(bits | 0x00400000u);  // a NaN: comparisons do not see one, in WGSL
      }
    }
    routing[token * 2u + choice] = vec2f(f32(expert), 1.0 / mass);
    taken = expert;
  }
}
