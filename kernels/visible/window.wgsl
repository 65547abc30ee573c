// A query at i sees the keys j <= i with i - j < WINDOW, in every head.
//   Four queries go together that are heads of the group, then neighbouring tokens: they see nearly the same keys.

override WINDOW: u32;

fn rowToken(row: vec4u) -> vec4u {
  return row / GROUP;
}

fn rowHead(row: vec4u) -> vec4u {
  return row % GROUP;
}

fn sees(key: u32, head: vec4u, position: vec4u) -> vec4<bool> {
  return (vec4u(key) <= position) & (position - vec4u(key) < vec4u(WINDOW));
}

// The first key from `key` on that one of the queries sees, as long as there is one.
fn nextKey(key: u32, head: vec4u, position: vec4u) -> u32 {
  let end = min(min(position.x, position.y), min(position.z, position.w)) + 1u;
  return max(key, select(end - WINDOW, 0u, end <= WINDOW));
}
