// A linear on integer weights whose input becomes integers too as it is loaded: symmetric int8, a step for each block of a
// token's 32 columns, x = step * q, |q| <= 127 (as llama.cpp's Q8_0, the step in float32). The integers go four to a word
// into dot4I8Packed (language feature "packed_4x8_integer_dot_product"). Takes the place of shared.wgsl and weights/rows.wgsl.
//   sum of W x over a block = scale * step * (sum of w q - zero * sum of q): both sums are exact, and so is the product.
//   Threads of a subgroup share the loads as in shared.wgsl, a word a thread in place of a vector.
//   Appended: weights/*_words, which has a block of W as words, and which columns word j of a block has.

const OWN = max(1u, VECS / SUBGROUP);  // a block has as many words as vectors
const LOADED = max(1u, SUBGROUP / VECS);  // blocks that one load of all threads holds

struct Input {
  words: array<u32, OWN>,
  step: f32,  // of the block that the words are of
  sum: f32,   // of the block's integers
}

// The least step, the smallest normal number, as bits: what is smaller than half of it counts as zero, as WGSL allows.
const LEAST_STEP = 0x00800000u;
// 1.5 * 2^23: after its addition a number's lowest bits are those of the nearest integer. WGSL's conversion also clamps.
const ROUND = 12582912.0;

// What a thread loads of input row `row`, for the block that vector `vec - ownLane()` begins; zero behind the row's last block.
fn loadInput(row: u32, vec: u32) -> Input {
  let blocks = blocksPerRow();
  let block = min(vec / VECS, blocks - 1u);
  var values: array<vec4f, OWN>;
  var largest = 0u;  // size by its bits, in whose order NaN is above infinity and that above all numbers
  for (var i = 0u; i < OWN; i++) {
    let columns = block * BLOCK + wordColumns((vec + i * SUBGROUP) % VECS);
    values[i] = vec4f(
      inputElement(row, columns.x), inputElement(row, columns.y), inputElement(row, columns.z), inputElement(row, columns.w));
    let sizes = bitcast<vec4u>(values[i]) & vec4u(0x7fffffffu);
    largest = max(largest, max(max(sizes.x, sizes.y), max(sizes.z, sizes.w)));
  }
  for (var other = 1u; other < min(SUBGROUP, VECS); other *= 2u) {
    largest = max(largest, otherLane(largest, other));
  }
  let step = bitcast<f32>(max(bitcast<u32>(bitcast<f32>(largest) * (1.0 / 127.0)), LEAST_STEP));
  let inverse = 1.0 / step;
  var own: Input;
  var sum = 0;
  for (var i = 0u; i < OWN; i++) {
    own.words[i] = pack4xI8(bitcast<vec4i>(values[i] * inverse + ROUND));
    sum += dot4I8Packed(own.words[i], 0x01010101u);
  }
  for (var other = 1u; other < min(SUBGROUP, VECS); other *= 2u) {
    sum += bitcast<i32>(otherLane(bitcast<u32>(sum), other));
  }
  own.step = select(0.0, step, LOADED == 1u || vec / VECS < blocks);
  own.sum = f32(sum);
  return own;
}

// BLOCK columns of a row of W, four integers to a word in the order of `wordColumns`: values are scale * (integer - zero).
struct IntegerBlock {
  low: vec4u,   // words 0 to 3
  high: vec4u,  // words 4 to 7
  scale: f32,
  zero: f32,
}

alias Rows = array<IntegerBlock, 4>;

fn loadRows(rows: vec4u, block: u32) -> Rows {
  return Rows(
    integerBlock(rows.x, block), integerBlock(rows.y, block), integerBlock(rows.z, block), integerBlock(rows.w, block));
}

// sum over the block's columns k of W[r, k] * x[k], of the four rows r; the block's first word is word `at` of a load
fn blockSums(w: Rows, own: Input, at: u32) -> vec4f {
  var sums = wordSums(w[0].low.x, w[1].low.x, w[2].low.x, w[3].low.x, sharedWord(own, at));
  sums += wordSums(w[0].low.y, w[1].low.y, w[2].low.y, w[3].low.y, sharedWord(own, at + 1u));
  sums += wordSums(w[0].low.z, w[1].low.z, w[2].low.z, w[3].low.z, sharedWord(own, at + 2u));
  sums += wordSums(w[0].low.w, w[1].low.w, w[2].low.w, w[3].low.w, sharedWord(own, at + 3u));
  sums += wordSums(w[0].high.x, w[1].high.x, w[2].high.x, w[3].high.x, sharedWord(own, at + 4u));
  sums += wordSums(w[0].high.y, w[1].high.y, w[2].high.y, w[3].high.y, sharedWord(own, at + 5u));
  sums += wordSums(w[0].high.z, w[1].high.z, w[2].high.z, w[3].high.z, sharedWord(own, at + 6u));
  sums += wordSums(w[0].high.w, w[1].high.w, w[2].high.w, w[3].high.w, sharedWord(own, at + 7u));
  var step = own.step;
  var sum = own.sum;
  if (LOADED > 1u) {
    step = bitcast<f32>(wordFromLane(bitcast<u32>(step), at));
    sum = bitcast<f32>(wordFromLane(bitcast<u32>(sum), at));
  }
  let zeros = vec4f(w[0].zero, w[1].zero, w[2].zero, w[3].zero);
  return (vec4f(sums) - zeros * sum) * vec4f(w[0].scale, w[1].scale, w[2].scale, w[3].scale) * step;
}

// Word `at` of a load.
fn sharedWord(own: Input, at: u32) -> u32 {
  if (OWN == 1u) {
    return wordFromLane(own.words[0], at % SUBGROUP);
  }
  return wordFromLane(own.words[at / SUBGROUP], at % SUBGROUP);
}

fn wordSums(a: u32, b: u32, c: u32, d: u32, q: u32) -> vec4i {
  return vec4i(dot4I8Packed(a, q), dot4I8Packed(b, q), dot4I8Packed(c, q), dot4I8Packed(d, q));
}
