// quantize: rows of a plain weight become integers, scales and zeros: w ≈ scale * (q - zero), q from 0 to LEVELS
//   weight [piece.rows, cols] in a plain layout, in rows     packed, scales: rows piece.firstRow … of a q4 or q8 matrix, in tiles
//   grid: ceil(piece.rows * groups in a row / 64), a thread a group
//   The scale and the zero are searched for least squared error: two starts, the group's range and one a tenth smaller,
//   are improved three times each by the least-squares line through (q, w), as in ggml's make_qkx2_quants. Scale and zero
//   are rounded to float16 before an error is judged, and q is chosen for the rounded ones.
//   Appended: weights/* of a plain layout, const GROUP, const BITS, const ZERO, const RAGGED.

struct Piece {
  rows: u32,
  firstRow: u32,   // row of the outputs that the first row becomes
  rowsTotal: u32,  // of the outputs
  tileRows: u32,   // of the outputs
  start: u32,      // always 0: see begin() in state.wgsl
}

// As in scan.wgsl. Indices count the elements of the plain rows, with their padding, as the outputs' rows lie.
struct Found {
  count: atomic<u32>,
  notFirst: atomic<u32>,
  ran: atomic<u32>,
  tooLarge: atomic<u32>,  // groups whose scale float16 does not have
  notFirstTooLarge: atomic<u32>,
}

@group(0) @binding(0) var<uniform> piece: Piece;
@group(0) @binding(1) var<storage, read_write> packed: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> found: Found;

const LEVELS = f32((1u << BITS) - 1u);
const MIDDLE = LEVELS / 2.0;
const BLOCKS = GROUP / BLOCK;  // of the plain layout
const TURNS = 8u;           // of each start: its own grid, and three better ones
const SMALLEST = 0x1p-24f;  // the smallest float16
const LARGEST = 65504.0;

// Which zeros there are (ZERO): half of the levels always, whole numbers among the levels, or any float16.
const SYMMETRIC = 0u;
const WHOLE = 1u;

// The nearest float16, ties to even, as a float32. Beyond the largest it stays as it is.
fn roundHalf(value: f32) -> f32 {
  let size = abs(value);
  let bits = bitcast<u32>(size);
  let normal = bitcast<f32>((bits + 0xfffu + ((bits >> 13u) & 1u)) & 0xffffe000u);
  return select(normal, round(size * 0x1p24f) * SMALLEST, size < 0x1p-14f) * select(1.0, -1.0, value < 0.0);
}

// The bits of a number that float16 has.
fn halfBits(value: f32) -> u32 {
  let size = abs(value);
  let normal = (bitcast<u32>(size) - 0x38000000u) >> 13u;
  return select(normal, u32(size * 0x1p24f), size < 0x1p-14f) | select(0u, 0x8000u, value < 0.0);
}

// 1 where there is a column, 0 in the padding of a row's last group.
fn present(group: u32, vec: u32) -> vec4f {
  if (RAGGED == 0u) {
    return vec4f(1.0);
  }
  let left = f32(matrix.cols) - f32(group * GROUP + vec * 4u);
  return select(vec4f(0.0), vec4f(1.0), vec4f(0.0, 1.0, 2.0, 3.0) < vec4f(left));
}

fn sum(v: vec4f) -> f32 {
  return (v.x + v.y) + (v.z + v.w);
}

struct Grid {
  scale: f32,   // of the true weights: a float16
  zero: f32,    // a float16
  step: f32,    // scale of the weights in `w`
  offset: f32,  // zero of the weights in `w`
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let groups = (matrix.cols + GROUP - 1u) / GROUP;
  let item = (id.y * count.x + id.x) * 64u + thread;
  let row = item / groups;
  let group = item % groups;
  if (thread == 0u) {
    atomicAdd(&found.ran, 1u);
  }
  if (row >= piece.rows) {
    return;
  }

  var w: array<array<vec4f, VECS>, BLOCKS>;
  var low = vec4f(0x1.fffffep+127f);
  var high = -low;
  var bad = 0u;
  var firstBad = 0u;
  for (var b = 0u; b < BLOCKS; b++) {
    w[b] = weightBlock(row, min(group * BLOCKS + b, blocksPerRow() - 1u)).vecs;
    for (var k = 0u; k < VECS; k++) {
      let here = w[b][k];
      let there = present(group, b * VECS + k) > vec4f(0.5);
      low = select(low, min(low, here), there);
      high = select(high, max(high, here), there);
      let isBad = there & ((bitcast<vec4u>(here) & vec4u(0x7f800000u)) == vec4u(0x7f800000u));
      if (any(isBad)) {
        let four = select(vec4u(0u), vec4u(1u), isBad);
        let nth = firstTrailingBit(dot(four, vec4u(1u, 2u, 4u, 8u)));
        firstBad = select(firstBad, b * BLOCK + k * 4u + nth, bad == 0u);
        bad += dot(four, vec4u(1u));
      }
    }
  }
  let lowest = min(min(low.x, low.y), min(low.z, low.w));
  let highest = max(max(high.x, high.y), max(high.z, high.w));
  let columns = min(GROUP, matrix.cols - group * GROUP);
  let n = f32(columns);

  // All is done on weights of about 1, so that no square overflows or vanishes: w = 2^-exponent (true w) - centre.
  let largest = max(abs(lowest), abs(highest));
  let exponent = clamp(i32(bitcast<u32>(largest) >> 23u) - 127, -40, 126);
  let down = bitcast<f32>(u32(127 - exponent) << 23u);
  let up = bitcast<f32>(u32(127 + exponent) << 23u);
  var first = lowest * down;
  var last = highest * down;
  if (ZERO == WHOLE) {
    first = min(first, 0.0);
    last = max(last, 0.0);
  }
  let fixedZero = ZERO == SYMMETRIC || ZERO == WHOLE;  // found at the start; the turns improve the scale only
  let middle = 0.5 * (first + last);
  let centre = select(middle, 0.0, fixedZero);
  let extreme = select(first, last, abs(last) > abs(first));
  let flat = last - first <= abs(centre) * 0x1p-10f;  // nothing but the zero can tell such weights apart
  var sums = vec4f();
  for (var b = 0u; b < BLOCKS; b++) {
    for (var k = 0u; k < VECS; k++) {
      w[b][k] = (w[b][k] * down - centre) * present(group, b * VECS + k);
      sums += w[b][k];
    }
  }
  let sumW = sum(sums);

  var best = Grid(0x1p127f, 0.0, 1.0, 0.0);  // stays, as too large, where a compiler's order of operations overflows
  var bestError = 0x1.fffffep+127f;
  var step = 0.0;    // what this turn tries
  var offset = 0.0;
  for (var turn = piece.start; turn < TURNS; turn++) {
    if (turn % (TURNS / 2u) == 0u) {
      let shrink = select(0.9, 1.0, turn == 0u);
      if (ZERO == SYMMETRIC) {
        step = -extreme * shrink / (MIDDLE + 0.5);
        offset = MIDDLE + 0.5;
      } else {
        step = select((last - first) * shrink / LEVELS, abs(centre), flat);
        offset = select(MIDDLE - (middle - centre) / step, 0.0, flat);
      }
    }
    // Rounded to what can be stored; never 0, which would make all weights equal.
    var grid: Grid;
    grid.scale = clamp(roundHalf(step * up), -0x1p127f, 0x1p127f);
    grid.scale = select(grid.scale, select(SMALLEST, -SMALLEST, step < 0.0), grid.scale == 0.0);
    grid.step = grid.scale * down;
    let inverse = 1.0 / grid.step;
    let centreSteps = centre * inverse;
    grid.zero = offset - centreSteps;
    if (ZERO == WHOLE) {
      grid.zero = clamp(round(grid.zero), 0.0, LEVELS);
    } else {
      grid.zero = clamp(roundHalf(grid.zero), -LARGEST, LARGEST);
    }
    grid.offset = grid.zero + centreSteps;

    var errors = vec4f();
    var sums1 = vec4f();  // of c = q - MIDDLE, c * c and c * w
    var sums2 = vec4f();
    var sumsW = vec4f();
    for (var b = 0u; b < BLOCKS; b++) {
      for (var k = 0u; k < VECS; k++) {
        let mask = present(group, b * VECS + k);
        let q = clamp(round(w[b][k] * inverse + grid.offset), vec4f(0.0), vec4f(LEVELS));
        let off = (w[b][k] - grid.step * (q - grid.offset)) * mask;
        let c = (q - MIDDLE) * mask;
        errors += off * off;
        sums1 += c;
        sums2 += c * c;
        sumsW += c * w[b][k];
      }
    }
    let error = sum(errors);
    if (error < bestError) {
      bestError = error;
      best = grid;
    }

    let s1 = sum(sums1);
    let s2 = sum(sums2);
    let sw = sum(sumsW);
    if (fixedZero) {
      // The best scale for these q and this zero.
      let d = MIDDLE - grid.zero;
      let squares = s2 + 2.0 * d * s1 + n * d * d;
      step = select(grid.step, (sw + d * sumW) / squares, squares > 0.0);
      offset = grid.zero;
    } else {
      // The best scale and zero for these q.
      let squares = n * s2 - s1 * s1;
      let slope = (n * sw - s1 * sumW) / squares;
      step = select(grid.step, slope, squares > 0.0 && slope > 0.0);
      offset = MIDDLE + (s1 - sumW / step) / n;
    }
  }

  let rowOut = piece.firstRow + row;
  let at = placeIn(rowOut, group, groups, piece.tileRows, piece.rowsTotal);
  let element = rowOut * blocksPerRow() * BLOCK + group * GROUP;
  if (bad > 0u) {
    atomicAdd(&found.count, bad);
    atomicMax(&found.notFirst, ~(element + firstBad));
    scales[at] = 0x7e00u;  // a NaN, as some of the weights are
  } else if (largest == 0.0) {
    best = Grid(0.0, 0.0, 1.0, 0.0);
    scales[at] = 0u;
  } else {
    if (abs(best.scale) > LARGEST) {
      atomicAdd(&found.tooLarge, 1u);
      atomicMax(&found.notFirstTooLarge, ~element);
    }
    scales[at] = halfBits(best.scale) | (halfBits(best.zero) << 16u);
  }

  let inverse = 1.0 / best.step;
  let blocksOut = (matrix.cols + 31u) / 32u;
  let wordsOut = BITS / 4u;  // vec4u in a block of 32 columns
  for (var b = 0u; b < GROUP / 32u; b++) {
    let block = group * (GROUP / 32u) + b;
    var bits = array<vec4u, 2>();
    for (var v = 0u; v < 8u; v++) {
      let q = vec4u(vec4i(clamp(round(w[b * (32u / BLOCK) + v / VECS][v % VECS] * inverse + best.offset), vec4f(0.0), vec4f(LEVELS))));
      if (BITS == 4u) {
        bits[0] |= q << vec4u(4u * v);
      } else {
        bits[v / 4u] |= q << vec4u(8u * (v % 4u));
      }
    }
    if (block < blocksOut) {
      let placeOut = placeIn(rowOut, block, blocksOut, piece.tileRows, piece.rowsTotal);
      for (var k = 0u; k < wordsOut; k++) {
        packed[placeOut * wordsOut + k] = bits[k];
      }
    }
  }
}
