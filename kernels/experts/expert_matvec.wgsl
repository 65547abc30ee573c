// expertMatvec: y[c, r] = epilogue(sum over k of W[expert of c, r, k] * x[c / CHOICES_PER_X, k]),  one token's two choices c
//   x [2 / CHOICES_PER_X, cols]     W [experts * EXPERT_ROWS, cols] (PARTS times)     routing [2] of (expert, weight)
//   y [2, EXPERT_ROWS]     grid: (ceil(min(EXPERT_ROWS, matrix.rows) / (GROUPS * 4)), 2), workgroups as in matvec
//   A row range of W holds some rows of some experts: what it lacks is another dispatch's. Only the chosen are read.
//   Appended: weights/*, linear/activations/*, lanes/* and linear/reduction/* (as in matvec), epilogues/expert_*.

override EXPERT_ROWS: u32;
override CHOICES_PER_X: u32;
override LANES: u32;
override GROUPS: u32;

@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> routing: array<vec2f>;

@compute @workgroup_size(LANES * GROUPS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) thread: u32) {
  let choice = id.y;
  let firstRow = u32(routing[choice].x) * EXPERT_ROWS;
  let low = max(firstRow, matrix.first);
  let high = min(firstRow + EXPERT_ROWS, matrix.first + matrix.rows);
  if (low + id.x * GROUPS * 4u >= high) {
    return;
  }
  let lane = thread % LANES;
  let first = low + (id.x * GROUPS + thread / LANES) * 4u;
  let rows = min(vec4u(first) + vec4u(0u, 1u, 2u, 3u), vec4u(high - 1u)) - vec4u(matrix.first);
  let blocks = blocksPerRow();

  let place = ownLane();
  var own: Input;
  var sums: array<vec4f, PARTS>;  // four rows each
  for (var block = lane + begin(); block < blocks; block += LANES) {
    if (firstVec(block) == 0u) {
      own = loadInput(choice / CHOICES_PER_X, block * VECS + place);
    }
    for (var p = 0u; p < PARTS; p++) {
      sums[p] += blockSums(loadRows(rows + p * matrix.rows, block), own, firstVec(block));
    }
  }

  if (LANES > 1u) {
    sums = laneSums(sums, thread);
  }

  if (lane == 0u) {
    for (var r = begin(); r < 4u; r++) {
      if (first + r < high) {
        var sum: array<f32, PARTS>;
        for (var p = 0u; p < PARTS; p++) {
          sum[p] = sums[p][r];
        }
        storeChoice(choice, first + r - firstRow, sum);
      }
    }
  }
}
