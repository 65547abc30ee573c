// Cache format f16: four dimensions of a head in 8 bytes. Beyond 65504 a value becomes infinite or NaN, as the driver
// has it, which the check of the logits reports; it is not clamped into a wrong answer.
//   Appended: unscaled.

alias KvPack = vec2u;

fn packKv(v: vec4f, scale: f32) -> KvPack {
  return vec2u(pack2x16float(v.xy), pack2x16float(v.zw));
}

fn unpackKv(p: KvPack) -> vec4f {
  return vec4f(unpack2x16float(p.x), unpack2x16float(p.y));
}
