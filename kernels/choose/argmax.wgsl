// argmax: the id of the highest logit (the lowest such id) is the next token
//   logits [vocab]     grid: 1 workgroup of LANES threads
//   Not finite is judged by the exponent's bits: a comparison does not see NaN in WGSL.
//   Appended: next.

override LANES: u32;

@group(0) @binding(3) var<storage, read> logits: array<f32>;

var<workgroup> bestId: array<u32, LANES>;
var<workgroup> best: array<f32, LANES>;
var<workgroup> bad: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
  var highest = -3.4028234e38;
  var highestId = 0xffffffffu;
  var notFinite = 0u;
  for (var i = lane + begin(); i < control.vocab; i += LANES) {
    let logit = logits[i];
    notFinite += select(0u, 1u, (bitcast<u32>(logit) & 0x7f800000u) == 0x7f800000u);
    if (logit > highest || highestId == 0xffffffffu) {
      highest = logit;
      highestId = i;
    }
  }
  best[lane] = highest;
  bestId[lane] = highestId;
  bad[lane] = notFinite;
  workgroupBarrier();
  if (lane == 0u) {
    for (var i = 1u + begin(); i < LANES; i++) {
      notFinite += bad[i];
      if (bestId[i] != 0xffffffffu && (best[i] > highest || (best[i] == highest && bestId[i] < highestId))) {
        highest = best[i];
        highestId = bestId[i];
      }
    }
    advance(highestId, notFinite);
  }
}
