// scan: how many elements of a weight are not finite, and the first of them
//   words [n/4] packed elements: one float32, or two float16 or bfloat16, in 32 bits
//   found { count, ~index of the first, or 0; workgroups that ran }, zero before     grid: any, it strides over the words
//   Not finite is judged by the exponent's bits, all ones in MASK: a comparison does not see NaN in WGSL.

override LANES: u32;
// The exponent's bits of the element that lies lowest in a word.
override MASK: u32;
// Elements in a word: 1 or 2.
override PER_WORD: u32;

struct Found {
  count: atomic<u32>,
  notFirst: atomic<u32>,
  ran: atomic<u32>,
  tooLarge: atomic<u32>,  // these two are the quantizer's
  notFirstTooLarge: atomic<u32>,
}

@group(0) @binding(0) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> found: Found;

fn isBad(word: u32, element: u32) -> bool {
  return ((word >> (16u * element)) & MASK) == MASK;
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(global_invocation_id) id: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
  @builtin(num_workgroups) workgroups: vec3<u32>,
) {
  var count = 0u;
  var notFirst = 0u;
  for (var i = id.x; i < arrayLength(&words); i += workgroups.x * LANES) {
    let four = words[i];
    for (var k = 0u; k < 4u; k++) {
      for (var element = 0u; element < PER_WORD; element++) {
        if (isBad(four[k], element)) {
          count++;
          notFirst = max(notFirst, ~((4u * i + k) * PER_WORD + element));
        }
      }
    }
  }
  if (lane == 0u) {
    atomicAdd(&found.ran, 1u);
  }
  if (count > 0u) {
    atomicAdd(&found.count, count);
    atomicMax(&found.notFirst, notFirst);
  }
}
