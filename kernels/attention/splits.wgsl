// How the keys that a single token sees are divided among workgroups, SPAN or more to each of at most SPLITS parts.
//   Appended: const SPLITS.

override SPAN: u32;
override SEEN: u32;  // keys that are seen at most

fn keysSeen() -> u32 {
  return min(state.past + 1u, SEEN);
}

fn keysOfSplit() -> u32 {
  return max(SPAN, (keysSeen() + SPLITS - 1u) / SPLITS);
}

fn splitStart(split: u32) -> u32 {
  return state.past + 1u - keysSeen() + split * keysOfSplit();
}

fn splitCount() -> u32 {
  return (keysSeen() + keysOfSplit() - 1u) / keysOfSplit();
}
