// ropeAppend: rotates q and k of a fused row by their position and appends k and v to the cache
//   qkv, table: see kv/rotate.wgsl     q [seq, HEADS, HEAD_VECS]     keys, values: see kv/head.wgsl
//   grid: ceil(seq * (HEADS + 2 * KV_HEADS) * HEAD_VECS / 64), a thread four dimensions of a head
//   Appended: kv/rotate, kv/head, kv/*.

@group(0) @binding(3) var<storage, read_write> q: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> keys: array<KvPack>;
@group(0) @binding(5) var<storage, read_write> values: array<KvPack>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let item = workgroupNumber(id, count) * 64u + thread;
  let vec = item % HEAD_VECS;
  let head = item / HEAD_VECS % (HEADS + 2u * KV_HEADS);
  let token = item / HEAD_VECS / (HEADS + 2u * KV_HEADS);
  if (token >= state.seq) {
    return;
  }
  let position = state.past + token;
  let base = (token * (HEADS + 2u * KV_HEADS) + head) * HEAD_DIM;
  let turned = head < HEADS + KV_HEADS;
  let numbers = four(base, position, turned, vec * 4u);
  if (head < HEADS) {
    q[(token * HEADS + head) * HEAD_VECS + vec] = numbers;
    return;
  }
  // Each of a head's threads finds the scale by itself: a fraction of a percent of the layer's work, and no barrier.
  var scale = 1.0;
  if (SCALE_PACKS > 0u) {
    scale = scaleOf(base, position, turned);
  }
  let at = cacheAt((head - HEADS) % KV_HEADS, position);
  if (turned) {
    keys[at + vec] = packKv(numbers, scale);
  } else {
    values[at + vec] = packKv(numbers, scale);
  }
  if (SCALE_PACKS > 0u && vec == 0u) {
    if (turned) {
      keys[at + HEAD_VECS] = packScale(scale);
    } else {
      values[at + HEAD_VECS] = packScale(scale);
    }
  }
}
