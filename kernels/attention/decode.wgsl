// attention of a single token, which is rotated and appended to the cache first; parts of the keys are different workgroups'
//   qkv, table: see kv/rotate.wgsl     grid: (KV_HEADS, SPLITS)
//   o [SPLITS, HEADS, HEAD_DIM], with SPLITS > 1 followed by [SPLITS, HEADS] vec4f of (top, mass): as it is where there is
//   one part (splitCount), else the sums before their division by the mass, which joined.wgsl joins
//   Appended: splits, kv/rotate.

@group(0) @binding(4) var<storage, read_write> keys: array<KvPack>;
@group(0) @binding(5) var<storage, read_write> values: array<KvPack>;
@group(0) @binding(6) var<storage, read_write> o: array<f32>;

fn firstRow(part: u32) -> u32 {
  return 0u;
}

fn firstKey(part: u32) -> u32 {
  return splitStart(part);
}

fn lastKey(part: u32) -> u32 {
  return splitStart(part + 1u);
}

// The queries go to workgroup memory, the new key and value to the cache; one loop for all, see `four`. The new key is in
// the last part: of its keys only this workgroup reads it, and what it overwrites is read by none.
fn prepare(id: vec3u, thread: u32) {
  let appends = id.y + 1u == splitCount();
  let at = cacheAt(id.x, state.past);
  let items = QUERIES * QUERY_VECS + select(0u, 2u * HEAD_VECS, appends);
  for (var n = thread + begin(); n < items; n += THREADS) {
    let isQuery = n < QUERIES * QUERY_VECS;
    let item = select(n - QUERIES * QUERY_VECS, n, isQuery);
    let vecs = select(HEAD_VECS, QUERY_VECS, isQuery);
    let which = item / vecs;  // a query of the group; or 0: the key, 1: the value
    let vec = item % vecs;
    let head = select(HEADS + which * KV_HEADS + id.x, id.x * GROUP + min(which, GROUP - 1u), isQuery);
    let isValue = !isQuery && which == 1u;
    let numbers = four(head * HEAD_DIM, state.past, !isValue, vec * 4u);
    if (isQuery) {
      query[n] = numbers * SCALE;  // zero behind the head
    } else {
      var scale = 1.0;
      if (SCALE_PACKS > 0u) {
        scale = scaleOf(head * HEAD_DIM, state.past, !isValue);
      }
      let pack = packKv(numbers, scale);
      if (isValue) {
        values[at + vec] = pack;
      } else {
        keys[at + vec] = pack;
      }
      if (SCALE_PACKS > 0u && vec == 0u) {
        if (isValue) {
          values[at + HEAD_VECS] = packScale(scale);
        } else {
          keys[at + HEAD_VECS] = packScale(scale);
        }
      }
    }
  }
  storageBarrier();
}

fn store(
  id: vec3u,
  thread: u32,
  sums: ptr<function, array<array<vec4f, SUMS>, QUERIES>>,
  top: ptr<function, Scores>,
  mass: ptr<function, Scores>,
) {
  let count = splitCount();
  if (id.y >= count) {
    return;
  }
  var results = *sums;  // copies: indexing the sums themselves by a variable would move them out of registers
  var masses = *mass;
  var tops = *top;
  for (var i = begin(); i < GROUP; i++) {
    let part = id.y * HEADS + id.x * GROUP + i;
    let whole = masses[i / 4u][i % 4u];
    for (var s = begin(); s < SUMS; s++) {
      let vec = thread + s * THREADS;
      let result = select(results[i][s], results[i][s] / whole, count == 1u);
      if (vec < HEAD_VECS) {
        for (var k = begin(); k < min(4u, HEAD_DIM - vec * 4u); k++) {
          o[part * HEAD_DIM + vec * 4u + k] = result[k];
        }
      }
    }
    if (SPLITS > 1u && thread == 0u) {
      let at = SPLITS * HEADS * HEAD_DIM + part * 4u;
      o[at] = tops[i / 4u][i % 4u];
      o[at + 1u] = whole;
    }
  }
}
