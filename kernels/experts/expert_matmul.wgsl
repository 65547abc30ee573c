// expertMatmul: y[c, r] = epilogue(sum over k of W[expert of c, r, k] * x[c / CHOICES_PER_X, k]),  the choices c of all tokens
//   x [seq * 2 / CHOICES_PER_X, cols]     W [experts * EXPERT_ROWS, cols] (PARTS times)     routing [seq * 2] of (expert, weight)
//   groups: the choices by expert, see group_by_expert     y [seq * 2, EXPERT_ROWS]
//   grid: (ceil(min(EXPERT_ROWS, matrix.rows) / (THREADS * 4)), ceil(seq / CHOICES), experts), threads as in matmul
//   A tile is CHOICES choices of one expert: where it has fewer, its workgroups end at once, and nobody asks the host.
//   Appended: weights/*, linear/activations/*, lanes/*, epilogues/expert_*, const CHOICES.

override EXPERTS: u32;
override EXPERT_ROWS: u32;
override CHOICES_PER_X: u32;
override THREADS: u32;

@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> routing: array<vec2f>;
@group(0) @binding(4) var<storage, read> groups: array<u32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) thread: u32) {
  let firstRow = id.z * EXPERT_ROWS;
  let low = max(firstRow, matrix.first);
  let high = min(firstRow + EXPERT_ROWS, matrix.first + matrix.rows);
  let firstChoice = id.y * CHOICES;
  let count = groups[id.z];
  if (firstChoice >= count || low + id.x * THREADS * 4u >= high) {
    return;
  }
  let first = low + (id.x * THREADS + thread) * 4u;
  let list = EXPERTS + id.z * state.seq;
  let rows = min(vec4u(first) + vec4u(0u, 1u, 2u, 3u), vec4u(high - 1u)) - vec4u(matrix.first);
  let blocks = blocksPerRow();

  let place = ownLane();
  var sums: array<array<vec4f, CHOICES>, PARTS>;  // four rows each
  for (var p = begin(); p < PARTS; p++) {
    for (var block = begin(); block < blocks; block += LOADED) {
      let w = loadBlocks(rows + p * matrix.rows, block);
      for (var c = begin(); c < CHOICES; c++) {
        if (!UNROLL && firstChoice + c >= count) {
          break;
        }
        let own = loadInput(groups[list + min(firstChoice + c, count - 1u)] / CHOICES_PER_X, block * VECS + place);
        sums[p][c] += loadSums(w, own);
      }
    }
  }

  var results = sums;  // a copy: indexing the sums themselves by a variable would move them out of registers
  for (var i = begin(); i < CHOICES * 4u; i++) {
    let c = i / 4u;
    let r = i % 4u;
    if (firstChoice + c < count && first + r < high) {
      var sum: array<f32, PARTS>;
      for (var p = 0u; p < PARTS; p++) {
        sum[p] = results[p][c][r];
      }
      storeChoice(groups[list + firstChoice + c], first + r - firstRow, sum);
    }
  }
}
