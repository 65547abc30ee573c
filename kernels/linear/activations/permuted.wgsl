// How a linear reads its input when the columns of its weight are stored in another order (GPTQ's act-order, sorted by
// group): stored column k belongs to element perm[k] of the input. `perm` has an entry for each column of the blocks.

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(1) @binding(3) var<storage, read> perm: array<vec4u>;

fn inputAt(token: u32, column: u32) -> f32 {
  return select(0.0, x[token * matrix.cols + min(column, matrix.cols - 1u)], column < matrix.cols);
}

fn inputVec(token: u32, vec: u32) -> vec4f {
  let k = perm[vec];
  return vec4f(inputAt(token, k.x), inputAt(token, k.y), inputAt(token, k.z), inputAt(token, k.w));
}

fn inputElement(token: u32, column: u32) -> f32 {
  return inputAt(token, perm[column / 4u][column % 4u]);
}
