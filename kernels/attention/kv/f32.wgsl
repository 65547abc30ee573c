// Cache format f32: four dimensions of a head in 16 bytes.
//   Appended: unscaled.

alias KvPack = vec4f;

fn packKv(v: vec4f, scale: f32) -> KvPack {
  return v;
}

fn unpackKv(p: KvPack) -> vec4f {
  return p;
}
