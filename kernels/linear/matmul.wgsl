// matmul: y[t, r] = epilogue(sum over k of W[r, k] * x[t, k]),  several tokens
//   x [seq, cols]     W [rowsTotal, cols] (PARTS times)     y [seq, rowsTotal]
//   grid: (ceil(matrix.rows / (THREADS * 4)), ceil(seq / TOKENS)) workgroups of THREADS threads
//   A thread owns 4 rows and TOKENS tokens and keeps their sums, so that a weight is unpacked once for all its tokens and
//   a load of x serves four rows; with lanes/subgroup the four rows of each thread of a subgroup. On software drivers the
//   loop over the tokens is a loop, which ends with the tokens; on GPUs it is unrolled, and the sums are registers.
//   Appended: weights/*, activations/*, lanes/*, epilogues/*, const TOKENS.

override THREADS: u32;

@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) thread: u32) {
  let first = (id.x * THREADS + thread) * 4u;
  let firstToken = id.y * TOKENS;
  let rows = min(vec4u(first) + vec4u(0u, 1u, 2u, 3u), vec4u(matrix.rows - 1u));
  let blocks = blocksPerRow();

  let place = ownLane();
  var sums: array<array<vec4f, TOKENS>, PARTS>;  // four rows each
  for (var p = begin(); p < PARTS; p++) {
    for (var block = begin(); block < blocks; block += LOADED) {
      let w = loadBlocks(rows + p * matrix.rows, block);
      for (var t = begin(); t < TOKENS; t++) {
        if (!UNROLL && firstToken + t >= state.seq) {
          break;
        }
        let own = loadInput(min(firstToken + t, state.seq - 1u), block * VECS + place);
        sums[p][t] += loadSums(w, own);
      }
    }
  }

  var results = sums;  // a copy: indexing the sums themselves by a variable would move them out of registers
  for (var i = begin(); i < TOKENS * 4u; i++) {
    let t = i / 4u;
    let r = i % 4u;
    if (firstToken + t < state.seq && first + r < matrix.rows) {
      var sum: array<f32, PARTS>;
      for (var p = 0u; p < PARTS; p++) {
        sum[p] = results[p][t][r];
      }
      store(firstToken + t, matrix.first + first + r, sum);
    }
  }
}
