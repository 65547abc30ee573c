// attention: o[t, h, :] = sum over j of softmax_j(SCALE * q[t, h] . k[j]) * v[j],  j of the keys that t sees in head h
//   q [seq, HEADS, HEAD_VECS]     keys, values: see kv/head.wgsl     o [seq, HEADS * HEAD_DIM]
//   grid: (KV_HEADS, ceil(seq * GROUP / 4)) workgroups of THREADS threads,  GROUP = HEADS / KV_HEADS
//   A workgroup takes 4 queries that share a key/value head, which makes a score per query a vec4f, and walks over the
//   keys in tiles of THREADS with a running maximum and sum (online softmax: Milakov & Gimelshein 2018, arXiv 1805.02867;
//   Dao et al. 2022, arXiv 2205.14135). Keys that none of the four sees are skipped.
//   Appended: kv/head, kv/*, visible/* (which keys a query sees, and which four go together),
//   const SUMS = ceil(HEAD_VECS / THREADS).

override SCALE: f32;
override THREADS: u32;
override GROUP: u32 = HEADS / KV_HEADS;

@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> keys: array<KvPack>;
@group(0) @binding(3) var<storage, read> values: array<KvPack>;
@group(0) @binding(4) var<storage, read_write> o: array<f32>;

const LOWEST = -3.0e38;

var<workgroup> query: array<vec4f, HEAD_VECS * 4u>;  // [vec, query]
var<workgroup> scores: array<vec4f, THREADS>;   // of each key of the tile
var<workgroup> weights: array<vec4f, THREADS>;  // exp(score - top)

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) thread: u32) {
  let kvHead = id.x;
  let rows = vec4u(id.y * 4u) + vec4u(0u, 1u, 2u, 3u);
  let row = min(rows, vec4u(state.seq * GROUP - 1u));        // surplus rows repeat the last one
  let token = rowToken(row);
  let head = vec4u(kvHead * GROUP) + rowHead(row);
  let position = vec4u(state.past) + token;
  let base = (token * HEADS + head) * HEAD_VECS;

  for (var i = thread + begin(); i < HEAD_VECS * 4u; i += THREADS) {
    query[i] = q[base[i % 4u] + i / 4u] * SCALE;
  }
  workgroupBarrier();

  var top = vec4f(LOWEST);  // running maximum of the scores
  var mass = vec4f(0.0);    // running sum of the weights
  var sums: array<mat4x4f, SUMS>;  // column: query; the dimensions that this thread owns

  let last = max(max(position.x, position.y), max(position.z, position.w));
  for (var tile = nextKey(0u, head, position); tile <= last; tile = nextKey(tile + THREADS, head, position)) {
    // Scores: a thread takes a key and meets the four queries with it.
    let own = tile + thread;
    let at = cacheAt(kvHead, min(own, last));
    var dots = vec4f(0.0);
    for (var d = begin(); d < HEAD_VECS; d++) {
      dots += unpackKv(keys[at + d]) * mat4x4f(query[d * 4u], query[d * 4u + 1u], query[d * 4u + 2u], query[d * 4u + 3u]);
    }
    dots *= unpackScale(keys[at + HEAD_VECS * SCALE_PACKS]);
    scores[thread] = select(vec4f(LOWEST), dots, sees(own, head, position));
    workgroupBarrier();

    // Weights: all threads find the new maximum, each one weighs its key. For a query that has seen no key yet they are
    // of no use, and the next real maximum fades them to 0.
    var highest = top;
    for (var j = begin(); j < THREADS; j++) {
      highest = max(highest, scores[j]);
    }
    weights[thread] = exp(scores[thread] - highest);
    workgroupBarrier();

    // Values: a thread takes four dimensions of the output.
    let fade = exp(top - highest);
    top = highest;
    mass *= fade;
    for (var s = 0u; s < SUMS; s++) {
      sums[s] = mat4x4f(sums[s][0] * fade.x, sums[s][1] * fade.y, sums[s][2] * fade.z, sums[s][3] * fade.w);
    }
    let tileKeys = min(THREADS, last + 1u - tile);
    for (var j = begin(); j < tileKeys; j++) {
      let weight = weights[j];
      mass += weight;
      let valueAt = cacheAt(kvHead, tile + j);
      let scaled = weight * unpackScale(values[valueAt + HEAD_VECS * SCALE_PACKS]);
      for (var s = 0u; s < SUMS; s++) {
        let value = unpackKv(values[valueAt + min(thread + s * THREADS, HEAD_VECS - 1u)]);
        sums[s] += mat4x4f(scaled.x * value, scaled.y * value, scaled.z * value, scaled.w * value);
      }
    }
    workgroupBarrier();
  }

  var results = sums;  // a copy: indexing the sums themselves by a variable would move them out of registers
  for (var i = begin(); i < 4u * SUMS; i++) {
    let r = i % 4u;
    let vec = thread + i / 4u * THREADS;
    if (vec < HEAD_VECS && rows[r] == row[r]) {
      let result = results[i / 4u][r] / mass[r];
      for (var k = begin(); k < min(4u, HEAD_DIM - vec * 4u); k++) {
        o[(token[r] * HEADS + head[r]) * HEAD_DIM + vec * 4u + k] = result[k];
      }
    }
  }
}
