// Scales and zeros of a quantized weight: a word for each group of a row. The low half is the scale, the high half
// the zero, both float16: a zero need not be a whole number, and all whole ones up to 2048 are exact.

@group(1) @binding(2) var<storage, read> scales: array<u32>;

fn scaleAndZero(row: u32, block: u32) -> vec2f {
  let groups = (blocksPerRow() + (1u << matrix.groupShift) - 1u) >> matrix.groupShift;
  return unpack2x16float(scales[placeOf(row, block >> matrix.groupShift, groups)]);
}
