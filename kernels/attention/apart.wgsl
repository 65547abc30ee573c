// A workgroup of several subgroups, whose threads tell each other what all must know through workgroup memory.

var<workgroup> partial: array<Scores, THREADS>;
var<workgroup> weighed: array<Scores, THREADS>;  // of each key of the tile

// The key of the tile that a thread scores.
fn keyOf(thread: u32, place: u32) -> u32 {
  return thread;
}

// The largest of each query's scores, and of `top`.
fn highestOf(thread: u32, scores: Scores, top: Scores) -> Scores {
  partial[thread] = scores;
  workgroupBarrier();
  var highest = top;
  for (var j = begin(); j < THREADS; j++) {
    for (var q = 0u; q < QUADS; q++) {
      highest[q] = max(highest[q], partial[j][q]);
    }
  }
  return highest;
}

// Behind this barrier `partial` may be written anew; `weighed` may be behind the next one of highestOf.
fn share(thread: u32, weights: Scores) {
  weighed[thread] = weights;
  workgroupBarrier();
}

fn weightsOf(key: u32, weights: Scores) -> Scores {
  return weighed[key];
}

fn massOf(thread: u32, own: Scores) -> Scores {
  partial[thread] = own;
  workgroupBarrier();
  var mass = Scores();
  for (var j = begin(); j < THREADS; j++) {
    for (var q = 0u; q < QUADS; q++) {
      mass[q] += partial[j][q];
    }
  }
  return mass;
}
