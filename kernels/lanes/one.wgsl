// Threads that pass nothing to each other: each is a subgroup of its own.

const SUBGROUP = 1u;

fn ownLane() -> u32 {
  return 0u;
}

fn fromLane(v: vec4f, lane: u32) -> vec4f {
  return v;
}

fn wordFromLane(word: u32, lane: u32) -> u32 {
  return word;
}

fn otherLane(word: u32, mask: u32) -> u32 {
  return word;
}
