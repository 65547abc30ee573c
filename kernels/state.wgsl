// Appended to every kernel: what changes from one call to the next, and how loops and long grids are counted.

struct State {
  past: u32,    // positions already in the key/value cache
  seq: u32,     // tokens of this call, at positions past .. past + seq - 1
  zero: u32,    // always 0
  kvRows: u32,  // positions that the cache holds
}

@group(0) @binding(0) var<uniform> state: State;

override UNROLL: bool = true;

// Where a loop starts that may be long in code: a start that the compiler cannot know keeps it from unrolling the loop.
// Mesa's lavapipe spends seconds of LLVM on a kernel with a few dozen unrolled loads.
fn begin() -> u32 {
  return select(state.zero, 0u, UNROLL);
}

// A grid of more than 65 535 workgroups is laid out in two dimensions: this is the number of one of them.
fn workgroupNumber(id: vec3u, count: vec3u) -> u32 {
  return id.y * count.x + id.x;
}
