// attention of a single token, which is rotated and appended to the cache first; parts of the keys are different workgroups'
//   qkv, table: see kv/rotate.wgsl     grid: (KV_HEADS, SPLITS)
//   o [SPLITS, HEADS, HEAD_DIM], with SPLITS > 1 followed by [SPLITS, HEADS] vec4f of (top, mass): as it is where there is
//   one part (splitCount), else the sums before their division by the mass, which activations/splits.wgsl joins
//   Appended: attention/splits, kv/rotate.

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

fn prepare(id: vec3u, thread: u32) {
  for (var n = thread + begin(); n < QUERIES * QUERY_VECS; n += THREADS) {
    let head = id.x * GROUP + min(n / QUERY_VECS, GROUP - 1u);
    query[n] = four(head * HEAD_DIM, state.past, true, n % QUERY_VECS * 4u) * SCALE;  // zero behind the head
  }
  // The new key is in the last part: of its keys only this workgroup reads it, and the others none that it overwrites.
  if (id.y + 1u == splitCount()) {
    let at = cacheAt(id.x, state.past);
    for (var n = thread + begin(); n < 2u * HEAD_VECS; n += THREADS) {
      let isKey = n < HEAD_VECS;
      let base = (HEADS + select(KV_HEADS, 0u, isKey) + id.x) * HEAD_DIM;
      let vec = n % HEAD_VECS;
      var scale = 1.0;
      if (SCALE_PACKS > 0u) {
        scale = scaleOf(base, state.past, isKey);
      }
      let pack = packKv(four(base, state.past, isKey, vec * 4u), scale);
      if (isKey) {
        keys[at + vec] = pack;
      } else {
        values[at + vec] = pack;
      }
      if (SCALE_PACKS > 0u && vec == 0u) {
        if (isKey) {
          keys[at + HEAD_VECS] = packScale(scale);
        } else {
          values[at + HEAD_VECS] = packScale(scale);
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
