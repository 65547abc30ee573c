// Scales and zeros of a quantized weight: a word for each group of a row, rows one after the other. The low half is the
// scale, a float16; the high half the zero, an integer.

@group(1) @binding(2) var<storage, read> scales: array<u32>;

fn scaleAndZero(row: u32, block: u32) -> vec2f {
  let groups = (blocksPerRow() + (1u << matrix.groupShift) - 1u) >> matrix.groupShift;
  let word = scales[row * groups + (block >> matrix.groupShift)];
  return vec2f(unpack2x16float(word).x, f32(i32(word >> 16u)));
}
