// A workgroup that is one subgroup: what its threads tell each other stays in registers.

// The key of the tile that a thread scores: that of its place, by which the others ask for its weight.
fn keyOf(thread: u32, place: u32) -> u32 {
  return place;
}

// The largest of each query's scores, and of `top`.
fn highestOf(thread: u32, scores: Scores, top: Scores) -> Scores {
  var highest = top;
  for (var lane = begin(); lane < SUBGROUP; lane++) {
    for (var q = 0u; q < QUADS; q++) {
      highest[q] = max(highest[q], fromLane(scores[q], lane));
    }
  }
  return highest;
}

fn share(thread: u32, weights: Scores) {}

fn weightsOf(key: u32, weights: Scores) -> Scores {
  return weights;
}

fn massOf(thread: u32, own: Scores) -> Scores {
  var mass = Scores();
  for (var lane = begin(); lane < SUBGROUP; lane++) {
    for (var q = 0u; q < QUADS; q++) {
      mass[q] += fromLane(own[q], lane);
    }
  }
  return mass;
}
