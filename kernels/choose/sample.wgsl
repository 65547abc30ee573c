// sample: draws the next token from logits by the chain of engine/generation/sampler.ts: bias, penalties, temperature, top-k, top-p,
// min-p
//   logits [vocab], which become scores     marks [vocab]     grid: 1 workgroup of THREADS threads
//   Tokens are ranked by score, ties by the lower id. There is no sort: top-k and top-p look for the rank of the last
//   token that they keep, 8 bits of it at a time, with a histogram of the tokens' number or weight (radix select). Weights
//   are integers and their sums too, so that no result depends on the order in which threads add.
//   Appended: next.

override THREADS: u32;

struct Mark {
  bias: f32,
  said: u32,  // how often among the new tokens; and the top bit for one of the prompt
}

@group(0) @binding(3) var<storage, read_write> logits: array<f32>;
@group(0) @binding(4) var<storage, read_write> marks: array<Mark>;

const LOWEST = -3.0e38;
const TOP_BIT = 0x80000000u;
const BINS = 256u;

// Integers of 64 bits are vec2u(low, high).
var<workgroup> partial: array<vec2u, THREADS>;
var<workgroup> binLow: array<atomic<u32>, BINS>;
var<workgroup> binHigh: array<atomic<u32>, BINS>;
var<workgroup> notFinite: atomic<u32>;
var<workgroup> best: vec2u;     // rank of the likeliest token
var<workgroup> badLogits: u32;
var<workgroup> choice: u32;     // what thread 0 found: a bin, or a thread's part
var<workgroup> isWhole: bool;   // whether all of that bin stays

var<private> bestScore: f32;
var<private> lastKept: vec2u;   // tokens of a lower rank are out
var<private> leastExponent: f32;
var<private> goal: vec2u;       // thread 0: what is still to be passed

fn add64(a: vec2u, b: vec2u) -> vec2u {
  let low = a.x + b.x;
  return vec2u(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn subtract64(a: vec2u, b: vec2u) -> vec2u {
  return vec2u(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

fn isLess64(a: vec2u, b: vec2u) -> bool {
  return a.y < b.y || (a.y == b.y && a.x < b.x);
}

// The 64-bit product of two u32, by halves of 16 bits.
fn multiply(a: u32, b: u32) -> vec2u {
  let low = (a & 0xffffu) * (b & 0xffffu);
  let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
  let carried = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
  return vec2u(a * b, (a >> 16u) * (b >> 16u) + (middle >> 16u) + (carried >> 16u));
}

// a * share / 2^64: the upper half of the product of 128 bits, and below it the word that decides how it rounds.
fn shareOf(a: vec2u, share: vec2u) -> vec3u {
  let low = multiply(a.x, share.x);
  let cross = multiply(a.x, share.y);
  let other = multiply(a.y, share.x);
  let middle = add64(add64(vec2u(low.y, 0u), vec2u(cross.x, 0u)), vec2u(other.x, 0u));
  let high = add64(multiply(a.y, share.y), add64(vec2u(cross.y, 0u), add64(vec2u(other.y, 0u), vec2u(middle.y, 0u))));
  return vec3u(high, middle.x);
}

// The first two words of Philox4x32-10 (Salmon et al., SC 2011) of the counter (index, 0, 0, 0), as 64 binary digits of
// a number in [0, 1).
fn uniformNumber(seed: vec2u, index: u32) -> vec2u {
  var x = vec4u(index, 0u, 0u, 0u);
  var key = seed;
  for (var round = begin(); round < 10u; round++) {
    let a = multiply(0xd2511f53u, x.x);
    let b = multiply(0xcd9e8d57u, x.z);
    x = vec4u(b.y ^ x.y ^ key.x, b.x, a.y ^ x.w ^ key.y, a.x);
    key += vec2u(0x9e3779b9u, 0xbb67ae85u);
  }
  return x.yx;
}

// Ascending with the score, and descending with the id. The zeros of both signs are one.
fn rankOf(score: f32, id: u32) -> vec2u {
  let bits = bitcast<u32>(select(score, 0.0, score == 0.0));
  return vec2u(~id, select(bits | TOP_BIT, ~bits, (bits & TOP_BIT) != 0u));
}

fn changed(logit: f32, mark: Mark) -> f32 {
  var score = logit + mark.bias;
  if (mark.said != 0u) {
    score = select(score / control.repetition, score * control.repetition, score < 0.0);
    let times = mark.said & ~TOP_BIT;
    if (times > 0u) {
      score -= control.frequency * f32(times) + control.presence;
    }
  }
  return clamp(score, -1.0e38, 1.0e38);
}

// e^((score - best score) / temperature) in units of 2^-31, 0 for what is out. The best token and its ties weigh 1 also at
// temperatures where the quotient has no meaning.
fn weightOf(id: u32) -> u32 {
  let score = logits[id];
  let below = score - bestScore;
  if (isLess64(rankOf(score, id), lastKept)) {
    return 0u;
  }
  if (below == 0.0) {
    return TOP_BIT;
  }
  if (below < -23.0 * control.temperature) {
    return 0u;  // less than half a unit
  }
  let exponent = below / control.temperature;
  return select(u32(exp(exponent) * 2147483648.0 + 0.5), 0u, exponent < leastExponent);
}

// Thread 0: the first of the parts whose sum passes the goal, which is lowered by the parts before it.
fn partOfGoal() -> u32 {
  var part = begin();
  while (part + 1u < THREADS && !isLess64(goal, partial[part])) {
    goal = subtract64(goal, partial[part]);
    part++;
  }
  return part;
}

fn totalOfParts() -> vec2u {
  var total = vec2u(0u);
  for (var part = begin(); part < THREADS; part++) {
    total = add64(total, partial[part]);
  }
  return total;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  var highest = vec2u(0u);
  var bad = 0u;
  for (var id = thread + begin(); id < control.vocab; id += THREADS) {
    var score = logits[id];
    bad += select(0u, 1u, (bitcast<u32>(score) & 0x7f800000u) == 0x7f800000u);
    if (control.hasMarks != 0u) {
      score = changed(score, marks[id]);
      logits[id] = score;
    }
    let rank = rankOf(score, id);
    if (isLess64(highest, rank)) {
      highest = rank;
    }
  }
  partial[thread] = highest;
  atomicAdd(&notFinite, bad);
  workgroupBarrier();
  if (thread == 0u) {
    for (var part = begin(); part < THREADS; part++) {
      if (isLess64(highest, partial[part])) {
        highest = partial[part];
      }
    }
    best = highest;
    badLogits = atomicLoad(&notFinite);
  }
  storageBarrier();
  var id = ~workgroupUniformLoad(&best).x;
  let isDrawn = workgroupUniformLoad(&badLogits) == 0u && control.temperature > 0.0;

  if (isDrawn) {
    bestScore = logits[id];
    lastKept = vec2u(0u);
    leastExponent = LOWEST;

    // Top-k, then top-p of what it leaves.
    for (var stage = 0u; stage < 2u; stage++) {
      let byWeight = stage == 1u;
      if (select(control.topK == 0u, all(control.topP == vec2u(0xffffffffu)), byWeight)) {
        continue;
      }
      if (byWeight) {
        var sum = vec2u(0u);
        for (var i = thread + begin(); i < control.vocab; i += THREADS) {
          sum = add64(sum, vec2u(weightOf(i), 0u));
        }
        partial[thread] = sum;
      }
      workgroupBarrier();
      goal = vec2u(control.topK, 0u);
      if (byWeight && thread == 0u) {
        let share = shareOf(totalOfParts(), control.topP);
        goal = add64(share.xy, vec2u(share.z >> 31u, 0u));
        goal.x = select(goal.x, 1u, all(goal == vec2u(0u)));  // a share of 0 still asks for the first token
      }

      // An id has at most 24 bits.
      var prefix = vec2u(0xff000000u, 0u);
      var mask = prefix;
      for (var digit = 0u; digit < 7u; digit++) {
        let inScore = digit < 4u;
        let shift = select(48u - 8u * digit, 24u - 8u * digit, inScore);
        for (var bin = thread + begin(); bin < BINS; bin += THREADS) {
          atomicStore(&binLow[bin], 0u);
          atomicStore(&binHigh[bin], 0u);
        }
        workgroupBarrier();
        for (var i = thread + begin(); i < control.vocab; i += THREADS) {
          let rank = rankOf(logits[i], i);
          if (any((rank & mask) != prefix) || isLess64(rank, lastKept)) {
            continue;
          }
          var amount = 1u;
          if (byWeight) {
            amount = weightOf(i);
          }
          let bin = (select(rank.x, rank.y, inScore) >> shift) & (BINS - 1u);
          let before = atomicAdd(&binLow[bin], amount);
          if (before + amount < before) {
            atomicAdd(&binHigh[bin], 1u);
          }
        }
        workgroupBarrier();
        if (thread == 0u) {
          var bin = BINS - 1u - begin();
          var held = vec2u(atomicLoad(&binLow[bin]), atomicLoad(&binHigh[bin]));
          while (bin > 0u && isLess64(held, goal)) {
            goal = subtract64(goal, held);
            bin--;
            held = vec2u(atomicLoad(&binLow[bin]), atomicLoad(&binHigh[bin]));
          }
          choice = bin;
          isWhole = all(held == goal);
        }
        let bits = workgroupUniformLoad(&choice) << shift;
        prefix |= select(vec2u(bits, 0u), vec2u(0u, bits), inScore);
        mask |= select(vec2u((BINS - 1u) << shift, 0u), vec2u(0u, (BINS - 1u) << shift), inScore);
        if (workgroupUniformLoad(&isWhole)) {
          break;
        }
      }
      if (isLess64(lastKept, prefix)) {
        lastKept = prefix;
      }
    }

    // The draw: which of the threads' parts holds it, then the same within that part.
    leastExponent = control.leastExponent;
    var first = 0u;
    var span = control.vocab;
    for (var round = 0u; round == 0u || span > 1u; round++) {
      let size = (span + THREADS - 1u) / THREADS;
      let own = first + thread * size;
      var sum = vec2u(0u);
      for (var i = own + begin(); i < min(own + size, first + span); i++) {
        sum = add64(sum, vec2u(weightOf(i), 0u));
      }
      partial[thread] = sum;
      workgroupBarrier();
      if (thread == 0u) {
        if (round == 0u) {
          goal = shareOf(totalOfParts(), uniformNumber(control.seed, state.drawn)).xy;
        }
        choice = partOfGoal();
      }
      let skipped = workgroupUniformLoad(&choice) * size;
      first += skipped;
      span = min(size, span - skipped);
    }
    id = first;
  }

  if (thread == 0u) {
    if (control.hasMarks != 0u && state.stopped == 0u) {
      marks[id].said++;
    }
    advance(id, badLogits);
  }
}
