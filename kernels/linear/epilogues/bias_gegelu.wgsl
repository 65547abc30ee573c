// y = a * sigmoid(1.702 a) * (b + 1),  a = min(sum + bias, LIMIT),  b = clamp(sum + bias, -LIMIT, LIMIT)
//   The weight and the bias have two parts, a's rows and b's, and y has the rows of one. As published, infinities are not
//   clamped; a NaN fails every comparison and stays.

const PARTS = 2u;
const LARGEST = 3.4028234e38;

override LIMIT: f32;

@group(2) @binding(0) var<storage, read> bias: array<f32>;

fn store(token: u32, row: u32, sum: array<f32, PARTS>) {
  var a = sum[0] + bias[row];
  var b = sum[1] + bias[matrix.rowsTotal + row];
  a = select(a, LIMIT, a > LIMIT && a <= LARGEST);
  b = select(b, LIMIT, b > LIMIT && b <= LARGEST);
  b = select(b, -LIMIT, b < -LIMIT && b >= -LARGEST);
  y[token * matrix.rowsTotal + row] = a / (1.0 + exp(-1.702 * a)) * (b + 1.0);
}
