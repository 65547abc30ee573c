// matmul: y[t, r] = epilogue(sum over k of W[r, k] * x[t, k]),  several tokens
//   x [seq, cols]     W [rowsTotal, cols] (PARTS times)     y [seq, rowsTotal]
//   grid: (ceil(matrix.rows / (THREADS * 4)), ceil(seq / (QUADS * 4))) workgroups of THREADS threads
//   A thread owns 4 rows and QUADS * 4 tokens and keeps their sums in registers as 4 x 4 matrices, so that a weight is
//   unpacked once for all its tokens and a load of x serves four rows.
//   Appended: weights/*, activations/*, epilogues/*, const QUADS.

override THREADS: u32;

@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) thread: u32) {
  let first = (id.x * THREADS + thread) * 4u;
  let firstToken = id.y * QUADS * 4u;
  let blocks = blocksPerRow();

  var sums: array<array<mat4x4f, QUADS>, PARTS>;  // column: token, row: row
  for (var block = begin(); block < blocks; block++) {
    for (var p = 0u; p < PARTS; p++) {
      let r = min(vec4u(first) + vec4u(0u, 1u, 2u, 3u), vec4u(matrix.rows - 1u)) + vec4u(p * matrix.rows);
      let w0 = weightBlock(r.x, block);
      let w1 = weightBlock(r.y, block);
      let w2 = weightBlock(r.z, block);
      let w3 = weightBlock(r.w, block);
      var sum = array<mat4x4f, QUADS>();  // written out, see CONTRIBUTING.md: else it would keep its value
      for (var v = 0u; v < VECS; v++) {
        let w = mat4x4f(w0.vecs[v], w1.vecs[v], w2.vecs[v], w3.vecs[v]);
        let vec = block * VECS + v;
        for (var q = 0u; q < QUADS; q++) {
          let t = min(vec4u(firstToken + q * 4u) + vec4u(0u, 1u, 2u, 3u), vec4u(state.seq - 1u));
          sum[q] += mat4x4f(inputVec(t.x, vec) * w, inputVec(t.y, vec) * w, inputVec(t.z, vec) * w, inputVec(t.w, vec) * w);
        }
      }
      let scale = vec4f(w0.scale, w1.scale, w2.scale, w3.scale);
      for (var q = 0u; q < QUADS; q++) {
        sums[p][q] += mat4x4f(sum[q][0] * scale, sum[q][1] * scale, sum[q][2] * scale, sum[q][3] * scale);
      }
    }
  }

  var results = sums;  // a copy: indexing the sums themselves by a variable would move them out of registers
  for (var i = begin(); i < QUADS * 16u; i++) {
    let t = i / 4u;
    let r = i % 4u;
    if (firstToken + t < state.seq && first + r < matrix.rows) {
      var sum: array<f32, PARTS>;
      for (var p = 0u; p < PARTS; p++) {
        sum[p] = results[p][t / 4u][t % 4u][r];
      }
      store(firstToken + t, matrix.first + first + r, sum);
    }
  }
}
