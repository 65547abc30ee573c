// The heads of a fused row [q | k | v], rotated by their position.
//   (Su et al. 2021, arXiv 2104.09864, in the "rotate half" layout of Hugging Face: dimension i pairs with i + ROTARY / 2)
//   qkv [seq, (HEADS + 2 * KV_HEADS) * HEAD_DIM]     table [positions, ROTARY / 2] of (cos, sin)
//   Appended: kv/head.

override ROTARY: u32;

@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec2f>;

fn rotated(base: u32, position: u32, i: u32) -> f32 {
  if (i >= HEAD_DIM) {
    return 0.0;
  }
  if (i >= ROTARY) {
    return qkv[base + i];
  }
  let half = ROTARY / 2u;
  let turn = table[position * half + i % half];
  if (i < half) {
    return qkv[base + i] * turn.x - qkv[base + i + half] * turn.y;
  }
  return qkv[base + i] * turn.x + qkv[base + i - half] * turn.y;
}

fn plain(base: u32, i: u32) -> f32 {
  if (i >= HEAD_DIM) {
    return 0.0;
  }
  return qkv[base + i];
}

// Four dimensions of a head from i on, rotated where it is a query or a key.
fn four(base: u32, position: u32, turned: bool, i: u32) -> vec4f {
  if (turned) {
    return vec4f(
      rotated(base, position, i), rotated(base, position, i + 1u),
      rotated(base, position, i + 2u), rotated(base, position, i + 3u));
  }
  return vec4f(plain(base, i), plain(base, i + 1u), plain(base, i + 2u), plain(base, i + 3u));
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
