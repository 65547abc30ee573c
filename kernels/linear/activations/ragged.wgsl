// How a linear reads its input when the columns are not a multiple of the weight's block: one by one, zero past the end.

@group(0) @binding(1) var<storage, read> x: array<f32>;

fn inputAt(token: u32, column: u32) -> f32 {
  return select(0.0, x[min(token * matrix.cols + column, arrayLength(&x) - 1u)], column < matrix.cols);
}

fn inputVec(token: u32, vec: u32) -> vec4f {
  let k = vec * 4u;
  return vec4f(inputAt(token, k), inputAt(token, k + 1u), inputAt(token, k + 2u), inputAt(token, k + 3u));
}

fn inputElement(token: u32, column: u32) -> f32 {
  return inputAt(token, column);
}
