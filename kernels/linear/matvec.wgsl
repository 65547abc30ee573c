// matvec: y[r] = epilogue(sum over k of W[r, k] * x[k]),  one token
//   x [cols]     W [rowsTotal, cols] (PARTS times)     y [rowsTotal]
//   grid: ceil(matrix.rows / (GROUPS * 4)) workgroups of GROUPS groups of LANES threads
//   LANES threads share the columns of 4 rows, so that a load of x serves four rows: 1 makes a thread own whole rows,
//   which suits software adapters, where it can share the loads of x with its subgroup; a subgroup's worth makes the
//   loads of W contiguous, which suits GPUs.
//   Appended: weights/*, activations/*, lanes/* (lanes/one unless LANES is 1), reduction/*, epilogues/*.

override LANES: u32;
override GROUPS: u32;

@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(LANES * GROUPS)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let lane = thread % LANES;
  let first = (workgroupNumber(id, count) * GROUPS + thread / LANES) * 4u;
  let rows = min(vec4u(first) + vec4u(0u, 1u, 2u, 3u), vec4u(matrix.rows - 1u));
  let blocks = blocksPerRow();

  let place = ownLane();
  var own: Input;
  var sums: array<vec4f, PARTS>;  // four rows each
  for (var block = lane + begin(); block < blocks; block += LANES) {
    if (firstVec(block) == 0u) {
      own = loadInput(0u, block * VECS + place);
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
      if (first + r < matrix.rows) {
        var sum: array<f32, PARTS>;
        for (var p = 0u; p < PARTS; p++) {
          sum[p] = sums[p][r];
        }
        store(0u, matrix.first + first + r, sum);
      }
    }
  }
}
