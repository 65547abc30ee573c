// Cache format int8: four dimensions of a head in 4 bytes, and behind each head of a position its scale as float32.
//   scale = max |x| / 127,  code = round(x / scale) from -127 to 127,  value = scale * code: off by half a scale at most.
//   A head whose scale would be no normal float32 becomes 0. What is not finite gives a scale that is not, which the
//   check of the logits reports.

alias KvPack = u32;

const SCALE_PACKS = 1u;

fn packKv(v: vec4f, scale: f32) -> KvPack {
  if (scale == 0.0) {
    return 0u;
  }
  let code = vec4u(vec4i(clamp(round(v / scale), vec4f(-127.0), vec4f(127.0)))) & vec4u(0xffu);
  return code.x | (code.y << 8u) | (code.z << 16u) | (code.w << 24u);
}

fn unpackKv(p: KvPack) -> vec4f {
  return vec4f((vec4i(i32(p)) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u));
}

fn packScale(scale: f32) -> KvPack {
  return bitcast<u32>(scale);
}

fn unpackScale(p: KvPack) -> f32 {
  return bitcast<f32>(p);
}
