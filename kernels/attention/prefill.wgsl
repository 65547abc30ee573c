// attention of several tokens whose keys and values are in the cache
//   q [seq, HEADS, HEAD_VECS]     o [seq, HEADS * HEAD_DIM]     grid: (KV_HEADS, ceil(seq * GROUP / QUERIES))

@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> keys: array<KvPack>;
@group(0) @binding(3) var<storage, read> values: array<KvPack>;
@group(0) @binding(4) var<storage, read_write> o: array<f32>;

fn firstRow(part: u32) -> u32 {
  return part * QUERIES;
}

fn firstKey(part: u32) -> u32 {
  return 0u;
}

fn lastKey(part: u32) -> u32 {
  return 0xffffffffu;
}

fn prepare(id: vec3u, thread: u32) {
  for (var n = thread + begin(); n < QUERIES * QUERY_VECS; n += THREADS) {
    let row = min(id.y * QUERIES + n / QUERY_VECS, state.seq * GROUP - 1u);
    let vec = n % QUERY_VECS;
    let at = (rowToken(row) * HEADS + id.x * GROUP + rowHead(row)) * HEAD_VECS + vec;
    query[n] = select(vec4f(), q[min(at, arrayLength(&q) - 1u)] * SCALE, vec < HEAD_VECS);
  }
}

fn store(
  id: vec3u,
  thread: u32,
  sums: ptr<function, array<array<vec4f, SUMS>, QUERIES>>,
  top: ptr<function, Scores>,
  mass: ptr<function, Scores>,
) {
  var results = *sums;  // a copy: indexing the sums themselves by a variable would move them out of registers
  var masses = *mass;
  for (var i = begin(); i < QUERIES; i++) {
    let row = id.y * QUERIES + i;
    if (row < state.seq * GROUP) {
      let head = rowToken(row) * HEADS + id.x * GROUP + rowHead(row);
      for (var s = begin(); s < SUMS; s++) {
        let vec = thread + s * THREADS;
        let result = results[i][s] / masses[i / 4u][i % 4u];
        if (vec < HEAD_VECS) {
          for (var k = begin(); k < min(4u, HEAD_DIM - vec * 4u); k++) {
            o[head * HEAD_DIM + vec * 4u + k] = result[k];
          }
        }
      }
    }
  }
}
