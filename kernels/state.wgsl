// Appended to every kernel: what changes from one call to the next, and how a long grid is numbered.

struct State {
  past: u32,  // positions already in the key/value cache
  seq: u32,   // tokens of this call, at positions past .. past + seq - 1
  zero: u32,  // always 0: a loop that starts here is not unrolled, which software adapters would spend seconds compiling
}

@group(0) @binding(0) var<uniform> state: State;

// A grid of more than 65 535 workgroups is laid out in two dimensions: this is the number of one of them.
fn workgroupNumber(id: vec3u, count: vec3u) -> u32 {
  return id.y * count.x + id.x;
}
