// argmax: the id of the highest logit (the lowest such id), and how many logits are not finite
//   logits [VOCAB]     choice: { id, highest as bits, count of non-finite }     grid: 1 workgroup of LANES threads
//   Not finite is judged by the exponent's bits: a comparison does not see NaN in WGSL.

override VOCAB: u32;
override LANES: u32;

struct Choice {
  id: u32,
  highest: f32,
  notFinite: u32,
}

@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read_write> choice: Choice;

var<workgroup> bestId: array<u32, LANES>;
var<workgroup> best: array<f32, LANES>;
var<workgroup> bad: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
  var highest = -3.4028234e38;
  var highestId = 0xffffffffu;
  var notFinite = 0u;
  for (var i = lane + begin(); i < VOCAB; i += LANES) {
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
    choice = Choice(highestId, highest, notFinite);
  }
}
