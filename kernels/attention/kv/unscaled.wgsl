// A cache format whose numbers are what they stand for: no scale is stored.

const SCALE_PACKS = 0u;

fn packScale(scale: f32) -> KvPack {
  return KvPack();
}

fn unpackScale(p: KvPack) -> f32 {
  return 1.0;
}
