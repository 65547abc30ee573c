// A query at i sees the keys j <= i with i - j < WINDOW, in every head.
//   Queries go together that are heads of the group, then neighbouring tokens: they see nearly the same keys.

override WINDOW: u32;

fn rowToken(row: u32) -> u32 {
  return row / GROUP;
}

fn rowHead(row: u32) -> u32 {
  return row % GROUP;
}

fn sees(key: u32, head: u32, position: u32) -> bool {
  return key <= position && position - key < WINDOW;
}

// The first key from `key` on that a query sees, as long as there is one.
fn nextSeen(key: u32, head: u32, position: u32) -> u32 {
  return max(key, select(position + 1u - WINDOW, 0u, position + 1u <= WINDOW));
}
