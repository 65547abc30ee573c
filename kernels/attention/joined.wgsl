// How a linear reads the output of attention of a single token, whose parts it joins (decode.wgsl). Takes the place
// of linear/activations/aligned.
//   x [SPLITS, HEADS, HEAD_DIM], and [SPLITS, HEADS] vec4f of (top, mass)     Appended: splits.

override HEADS: u32;
override HEAD_DIM: u32;

@group(0) @binding(1) var<storage, read> x: array<vec4f>;

fn inputVec(token: u32, vec: u32) -> vec4f {
  let count = splitCount();
  if (count == 1u) {
    return x[vec];
  }
  let vecs = HEADS * HEAD_DIM / 4u;
  let stats = SPLITS * vecs + vec * 4u / HEAD_DIM;
  var top = x[stats].x;
  for (var s = 1u + begin(); s < count; s++) {
    top = max(top, x[stats + s * HEADS].x);
  }
  var sum = vec4f();
  var mass = 0.0;
  for (var s = begin(); s < count; s++) {
    let stat = x[stats + s * HEADS];
    let fade = exp(stat.x - top);
    sum += fade * x[s * vecs + vec];
    mass += fade * stat.y;
  }
  return sum / mass;
}

fn inputElement(token: u32, column: u32) -> f32 {
  return inputVec(token, column / 4u)[column % 4u];
}
