// How the threads of a subgroup, which run through the same blocks of the input, load each vector of it once: a thread
// loads OWN vectors, and the thread that has a vector passes it to the others.

const OWN = max(1u, VECS / SUBGROUP);
const LOAD_BLOCKS = max(1u, SUBGROUP / VECS);  // blocks that one load of all threads holds

// The vectors that thread `lane` loads when `block` is the first of a load.
fn loadInput(token: u32, block: u32, lane: u32) -> array<vec4f, OWN> {
  var own: array<vec4f, OWN>;
  for (var i = 0u; i < OWN; i++) {
    own[i] = inputVec(token, min(block * VECS + i * SUBGROUP + lane, blocksPerRow() * VECS - 1u));
  }
  return own;
}

// Vector `v` of a block.
fn sharedVec(own: array<vec4f, OWN>, block: u32, v: u32) -> vec4f {
  let at = block % LOAD_BLOCKS * VECS + v;
  return fromLane(own[at / SUBGROUP], at % SUBGROUP);
}
