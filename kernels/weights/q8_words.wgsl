// A block of q8 as words of four integers of 8 bits, for dot4I8Packed, which are signed there: all less 128, the zero too.
// Word 4 h + c has the columns 16 h + 4 i + c.

fn integerBlock(row: u32, block: u32) -> IntegerBlock {
  let at = 2u * placeOf(row, block, blocksPerRow());
  let s = scaleAndZero(row, block);
  return IntegerBlock(weight[at] ^ vec4u(0x80808080u), weight[at + 1u] ^ vec4u(0x80808080u), s.x, s.y - 128.0);
}

fn wordColumns(word: u32) -> vec4u {
  return word / 4u * 16u + word % 4u + vec4u(0u, 4u, 8u, 12u);
}
