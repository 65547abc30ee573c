// attention: o[t, h, :] = sum over j of softmax_j(SCALE * q[t, h] . k[j]) * v[j],  j of the keys that t sees in head h
//   keys, values: see kv/head.wgsl     q, o and the grid: see prefill.wgsl and decode.wgsl
//   A workgroup of THREADS threads takes QUADS * 4 queries that share a key/value head, which makes their scores vec4f, and
//   walks over the keys in tiles, a key a thread, with a running maximum and sum (online softmax: Milakov & Gimelshein
//   2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135). Keys that none of the queries sees are skipped. Threads of
//   a subgroup share the loads of queries and weights.
//   Appended: prefill or decode, together or apart (what threads tell each other), kv/head, kv/*,
//   visible/* (which keys a query sees, and which queries go together), lanes/*, const QUADS,
//   const SUMS = ceil(HEAD_VECS / THREADS).

override SCALE: f32;
override THREADS: u32;  // a multiple of SUBGROUP
override TILE: u32;     // keys that are scored at a time, THREADS at most
override GROUP: u32 = HEADS / KV_HEADS;

const LOWEST = -3.0e38;
const QUERIES = QUADS * 4u;

alias Scores = array<vec4f, QUADS>;  // a number for each query

override QUERY_VECS: u32 = (HEAD_VECS + SUBGROUP - 1u) / SUBGROUP * SUBGROUP;

var<workgroup> query: array<vec4f, QUERIES * QUERY_VECS>;  // times SCALE, zero behind a head's own

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) thread: u32) {
  let kvHead = id.x;
  let place = ownLane();
  var heads: array<u32, QUERIES>;
  var positions: array<u32, QUERIES>;
  var last = 0u;  // the last key that is seen
  for (var i = 0u; i < QUERIES; i++) {
    let row = min(firstRow(id.y) + i, state.seq * GROUP - 1u);  // surplus rows repeat the last one
    heads[i] = kvHead * GROUP + rowHead(row);
    positions[i] = state.past + rowToken(row);
    last = max(last, positions[i]);
  }
  prepare(id, thread);
  let end = min(last + 1u, lastKey(id.y));
  workgroupBarrier();

  var top: Scores;   // running maximum of the scores
  var mass: Scores;  // running sum of the weights of this thread's keys
  for (var q = 0u; q < QUADS; q++) {
    top[q] = vec4f(LOWEST);
  }
  var sums: array<array<vec4f, SUMS>, QUERIES>;  // the dimensions that this thread owns

  var tile = nextKey(firstKey(id.y), &heads, &positions);
  while (tile < end) {
    // Scores: a thread takes a key and meets the queries with it.
    let local = keyOf(thread, place);
    let own = tile + local;
    let at = cacheAt(kvHead, min(own, end - 1u));
    var dots = Scores();
    for (var c = begin(); c < QUERY_VECS; c += SUBGROUP) {
      var mine: array<vec4f, QUERIES>;  // this thread's share of the queries' next vectors
      for (var i = 0u; i < QUERIES; i++) {
        mine[i] = query[i * QUERY_VECS + c + place];
      }
      for (var lane = begin(); lane < SUBGROUP; lane++) {
        let key = unpackKv(keys[at + min(c + lane, HEAD_VECS - 1u)]);
        for (var q = 0u; q < QUADS; q++) {
          dots[q] += key * mat4x4f(
            fromLane(mine[q * 4u], lane), fromLane(mine[q * 4u + 1u], lane),
            fromLane(mine[q * 4u + 2u], lane), fromLane(mine[q * 4u + 3u], lane));
        }
      }
    }
    let scale = unpackScale(keys[at + HEAD_VECS * SCALE_PACKS]);
    for (var i = 0u; i < QUERIES; i++) {
      let seen = local < TILE && own < end && sees(own, heads[i], positions[i]);
      dots[i / 4u][i % 4u] = select(LOWEST, dots[i / 4u][i % 4u] * scale, seen);
    }

    // Weights: all threads find the new maximum, each one weighs its key. For a query that has seen no key yet they are of
    // no use, and the next real maximum fades them to 0.
    let highest = highestOf(thread, dots, top);
    var fade: Scores;
    var weights: Scores;
    for (var q = 0u; q < QUADS; q++) {
      fade[q] = exp(top[q] - highest[q]);
      weights[q] = exp(dots[q] - highest[q]);
      mass[q] = mass[q] * fade[q] + weights[q];
    }
    top = highest;
    share(thread, weights);

    // Values: a thread takes some dimensions of the output.
    for (var i = 0u; i < QUERIES; i++) {
      for (var s = 0u; s < SUMS; s++) {
        sums[i][s] *= fade[i / 4u][i % 4u];
      }
    }
    let tileKeys = min(TILE, end - tile);
    for (var c = begin(); c < tileKeys; c += SUBGROUP) {
      let mine = weightsOf(c + place, weights);  // this thread's share of the next weights
      for (var lane = begin(); lane < SUBGROUP; lane++) {
        let at = cacheAt(kvHead, min(tile + c + lane, end - 1u));
        let scale = unpackScale(values[at + HEAD_VECS * SCALE_PACKS]);
        var weight = Scores();
        for (var q = 0u; q < QUADS; q++) {
          weight[q] = fromLane(mine[q], lane) * scale;
        }
        for (var s = 0u; s < SUMS; s++) {
          let value = unpackKv(values[at + min(thread + s * THREADS, HEAD_VECS - 1u)]);
          for (var i = 0u; i < QUERIES; i++) {
            sums[i][s] += weight[i / 4u][i % 4u] * value;
          }
        }
      }
    }
    tile = nextKey(tile + TILE, &heads, &positions);
  }

  mass = massOf(thread, mass);
  store(id, thread, &sums, &top, &mass);
}

// The first key from `key` on that one of the queries sees, or one behind all that they see.
fn nextKey(key: u32, heads: ptr<function, array<u32, QUERIES>>, positions: ptr<function, array<u32, QUERIES>>) -> u32 {
  var next = 0xffffffffu;
  for (var i = 0u; i < QUERIES; i++) {
    next = min(next, nextSeen(key, heads[i], positions[i]));
  }
  return max(key, next);
}
