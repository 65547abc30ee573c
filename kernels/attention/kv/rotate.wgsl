// The heads of a fused row [q | k | v], rotated by their position.
//   (Su et al. 2021, arXiv 2104.09864, in the "rotate half" layout of Hugging Face: dimension i pairs with i + ROTARY / 2)
//   qkv [seq, (HEADS + 2 * KV_HEADS) * HEAD_DIM]     table [positions, ROTARY / 2] of (cos, sin)
//   Appended: head.

override ROTARY: u32;

@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec2f>;

// Four dimensions of a head from i on, rotated where it is a query or a key, zero behind the head. One place for all
// loads: software drivers compile each of them for long.
fn four(base: u32, position: u32, turned: bool, i: u32) -> vec4f {
  let half = ROTARY / 2u;
  var numbers = vec4f();
  for (var k = begin(); k < 4u; k++) {
    let d = min(i + k, HEAD_DIM - 1u);
    let own = qkv[base + d];
    let isTurned = turned && d < ROTARY;
    let isFirst = d < half;
    let other = qkv[base + select(d, select(d - half, d + half, isFirst), isTurned)];
    let turn = table[position * half + d % half];
    let rotated = own * turn.x + select(other, -other, isFirst) * turn.y;
    numbers[k] = select(0.0, select(own, rotated, isTurned), i + k < HEAD_DIM);
  }
  return numbers;
}

// The largest size of a head's numbers in 127 steps. Sizes are compared as bits, in whose order NaN comes last.
fn scaleOf(base: u32, position: u32, turned: bool) -> f32 {
  var sizes = vec4u(0u);
  for (var vec = begin(); vec < HEAD_VECS; vec++) {
    sizes = max(sizes, bitcast<vec4u>(abs(four(base, position, turned, vec * 4u))));
  }
  let most = max(max(sizes.x, sizes.y), max(sizes.z, sizes.w));
  return select(bitcast<f32>(most) / 127.0, 0.0, most < 0x03fe0000u);  // 127 times the smallest normal number
}
