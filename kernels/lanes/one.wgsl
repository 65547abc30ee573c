// Threads that pass nothing to each other: each is a subgroup of its own.

const SUBGROUP = 1u;

fn ownLane() -> u32 {
  return 0u;
}

fn fromLane(v: vec4f, lane: u32) -> vec4f {
  return v;
}
