// matmul: y[t, r] = epilogue(sum over k of W[r, k] * x[t, k]),  several tokens
//   x [seq, cols]     W [rowsTotal, cols] (PARTS times)     y [seq, rowsTotal]
//   grid: (ceil(matrix.rows / (THREADS * 4)), ceil(seq / TOKENS)) workgroups of THREADS threads
//   A thread owns 4 rows and TOKENS tokens and keeps their sums in registers, so that a weight is unpacked once for all
//   its tokens and a load of x serves four rows; with lanes/subgroup the four rows of each thread of a subgroup.
//   Appended: weights/*, activations/*, lanes/*, epilogues/*, const TOKENS.

override THREADS: u32;

@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) thread: u32) {
  let first = (id.x * THREADS + thread) * 4u;
  let firstToken = id.y * TOKENS;
  let blocks = blocksPerRow();

  let place = ownLane();
  var own: array<array<vec4f, OWN>, TOKENS>;
  var sums: array<array<vec4f, TOKENS>, PARTS>;  // four rows each
  for (var block = begin(); block < blocks; block++) {
    for (var p = 0u; p < PARTS; p++) {
      let r = min(vec4u(first) + vec4u(0u, 1u, 2u, 3u), vec4u(matrix.rows - 1u)) + vec4u(p * matrix.rows);
      let w0 = weightBlock(r.x, block);
      let w1 = weightBlock(r.y, block);
      let w2 = weightBlock(r.z, block);
      let w3 = weightBlock(r.w, block);
      let scale = vec4f(w0.scale, w1.scale, w2.scale, w3.scale);
      for (var t = 0u; t < TOKENS; t++) {
        if (block % LOAD_BLOCKS == 0u && (p == 0u || SUBGROUP == 1u)) {
          own[t] = loadInput(min(firstToken + t, state.seq - 1u), block, place);
        }
        var sum = vec4f();  // written out, see CONTRIBUTING.md: else it would keep its value
        for (var v = 0u; v < VECS; v++) {
          sum += sharedVec(own[t], block, v) * mat4x4f(w0.vecs[v], w1.vecs[v], w2.vecs[v], w3.vecs[v]);
        }
        sums[p][t] += sum * scale;
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
