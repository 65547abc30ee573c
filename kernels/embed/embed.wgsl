// embed: x[t, :] = SCALE * E[ids[t], :],  for the ids that this row range of E holds
//   ids [seq]     E [vocab, cols]     x [seq, cols]     grid: ceil(seq * blocks in a row / 64), a thread a block
//   Appended: weights/*.

override SCALE: f32;

@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let item = workgroupNumber(id, count) * 64u + thread;
  let token = item / blocksPerRow();
  let block = item % blocksPerRow();
  if (token >= state.seq) {
    return;
  }
  let row = ids[token] - matrix.first;  // wraps around for an id before the range, which the test below refuses too
  if (row >= matrix.rows) {
    return;
  }
  let values = weightBlock(row, block);
  for (var k = begin(); k < BLOCK; k++) {
    let column = block * BLOCK + k;
    if (column < matrix.cols) {
      x[token * matrix.cols + column] = SCALE * values.scale * values.vecs[k / 4u][k % 4u];
    }
  }
}
