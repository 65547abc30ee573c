// How the threads of a subgroup, which run through the same blocks, load each vector of the input once: a thread loads
// OWN vectors, and the thread that has a vector passes it to the others.

const OWN = max(1u, VECS / SUBGROUP);
const LOADED = max(1u, SUBGROUP / VECS);  // blocks that one load of all threads holds

alias Input = array<vec4f, OWN>;  // what a thread loads

// The vectors of input row `row` that a thread loads, the first of them `vec`; zero behind the row's last block.
fn loadInput(row: u32, vec: u32) -> Input {
  let last = blocksPerRow() * VECS - 1u;
  var own: Input;
  for (var i = 0u; i < OWN; i++) {
    let at = vec + i * SUBGROUP;
    own[i] = select(vec4f(), inputVec(row, min(at, last)), LOADED == 1u || at <= last);
  }
  return own;
}

// Vector `at` of a load.
fn sharedVec(own: Input, at: u32) -> vec4f {
  if (OWN == 1u) {
    return fromLane(own[0], at % SUBGROUP);
  }
  return fromLane(own[at / SUBGROUP], at % SUBGROUP);
}
