// Four rows of W in layout q4 that are used once, for one token: as in rows.wgsl, but four columns are unpacked where they
// are multiplied, so that no more of them take registers at a time.

alias Rows = array<Stored, 4>;

fn loadRows(rows: vec4u, block: u32) -> Rows {
  return Rows(
    storedBlock(rows.x, block), storedBlock(rows.y, block), storedBlock(rows.z, block), storedBlock(rows.w, block));
}

fn vecSums(w: Rows, own: Input, at: u32, v: u32) -> vec4f {
  return sharedVec(own, at + v) * mat4x4f(storedVec(w[0], v), storedVec(w[1], v), storedVec(w[2], v), storedVec(w[3], v));
}
