// A block of q4 as words of four integers of 8 bits, for dot4I8Packed: word j has the columns j, 8 + j, 16 + j, 24 + j,
// which are every second nibble of word j % 4.

fn integerBlock(row: u32, block: u32) -> IntegerBlock {
  let stored = storedBlock(row, block);
  let low = stored.bits & vec4u(0x0f0f0f0fu);
  let high = (stored.bits >> vec4u(4u)) & vec4u(0x0f0f0f0fu);
  return IntegerBlock(low, high, stored.scale, stored.zero);
}

fn wordColumns(word: u32) -> vec4u {
  return word + vec4u(0u, 8u, 16u, 24u);
}
