// Threads that pass values to each other within a subgroup, of which a workgroup is a multiple (feature "subgroups").
//   Appended: const SUBGROUP = threads in a subgroup, which the adapter must guarantee.

// The place in the subgroup: all threads are active where this is called.
fn ownLane() -> u32 {
  return subgroupExclusiveAdd(1u);
}

fn fromLane(v: vec4f, lane: u32) -> vec4f {
  return subgroupShuffle(v, lane);
}
