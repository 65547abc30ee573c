// How a linear reads its input when the columns are a multiple of the weight's block: vec4f loads.

@group(0) @binding(1) var<storage, read> x: array<vec4f>;

fn inputVec(token: u32, vec: u32) -> vec4f {
  return x[token * (matrix.cols / 4u) + vec];
}

fn inputElement(token: u32, column: u32) -> f32 {
  return x[token * (matrix.cols / 4u) + column / 4u][column % 4u];
}
