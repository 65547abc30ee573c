// Threads that pass values to each other within a subgroup, of which a workgroup is a multiple (feature "subgroups").
//   Appended: const SUBGROUP = threads in a subgroup, which the adapter must guarantee.

// The place in the subgroup: all threads are active where this is called.
fn ownLane() -> u32 {
  return subgroupExclusiveAdd(1u);
}

fn fromLane(v: vec4f, lane: u32) -> vec4f {
  return subgroupShuffle(v, lane);
}

fn wordFromLane(word: u32, lane: u32) -> u32 {
  return subgroupShuffle(word, lane);
}

// The word of the thread whose place differs in the bits of `mask`.
fn otherLane(word: u32, mask: u32) -> u32 {
  return subgroupShuffleXor(word, mask);
}
