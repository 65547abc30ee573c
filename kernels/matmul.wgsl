// matmul: y[t, r] = epilogue(sum over k of W[r, k] * x[t, k]),  several tokens
//   x [seq, COLS]     W [ROWS_TOTAL, COLS] (PARTS times)     y [seq, ROWS_TOTAL]
//   grid: (ceil(range.rows / (THREADS * 4)), ceil(seq / (QUADS * 4))) workgroups of THREADS threads
//   A thread owns 4 rows and QUADS * 4 tokens and keeps their sums in registers as 4 x 4 matrices: a weight is unpacked
//   once for all the tokens, and the loads of x are the same for the whole workgroup.
//   Appended: weights/*, activations/*, epilogues/*, const QUADS.

override ROWS_TOTAL: u32;
override THREADS: u32;

@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) thread: u32) {
  let first = (id.x * THREADS + thread) * 4u;
  let rows = min(vec4u(first) + vec4u(0u, 1u, 2u, 3u), vec4u(range.rows - 1u));
  let firstToken = id.y * QUADS * 4u;
  let lastToken = state.seq - 1u;

  var sums: array<array<mat4x4f, QUADS>, PARTS>;  // column t, row r of each matrix
  for (var block = state.zero; block < BLOCKS; block++) {
    for (var p = 0u; p < PARTS; p++) {
      let part = rows + vec4u(p * range.rows);
      let w0 = weightBlock(part.x, block);
      let w1 = weightBlock(part.y, block);
      let w2 = weightBlock(part.z, block);
      let w3 = weightBlock(part.w, block);
      for (var v = 0u; v < VECS; v++) {
        let w = mat4x4f(w0[v], w1[v], w2[v], w3[v]);
        for (var q = 0u; q < QUADS; q++) {
          let t = min(vec4u(firstToken + q * 4u) + vec4u(0u, 1u, 2u, 3u), vec4u(lastToken));
          let vec = block * VECS + v;
          sums[p][q] += mat4x4f(inputVec(t.x, vec) * w, inputVec(t.y, vec) * w, inputVec(t.z, vec) * w, inputVec(t.w, vec) * w);
        }
      }
    }
  }

  for (var t = 0u; t < QUADS * 4u; t++) {
    for (var r = 0u; r < 4u; r++) {
      if (firstToken + t < state.seq && first + r < range.rows) {
        var sum: array<f32, PARTS>;
        for (var p = 0u; p < PARTS; p++) {
          sum[p] = sums[p][t / 4u][t % 4u][r];
        }
        store(firstToken + t, range.first + first + r, sum);
      }
    }
  }
}
