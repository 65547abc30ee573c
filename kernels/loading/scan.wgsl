// scan: how many elements of a weight are not finite, and the first of them
//   words [n/4] packed elements: one float32, or two float16 or bfloat16, in 32 bits
//   found { count, ~index of the first, or 0; workgroups that ran }, zero before     grid: any, it strides over the words
//   Not finite is judged by the exponent's bits, all ones: a comparison does not see NaN in WGSL.

override LANES: u32;
// All bits of each exponent in a word, and the lowest one of each: added to an exponent of ones, it carries into the sign.
override EXPONENTS: u32;
override ONES: u32;
// Elements in a word: 1 or 2.
override PER_WORD: u32;

struct Found {
  count: atomic<u32>,
  notFirst: atomic<u32>,
  ran: atomic<u32>,
  tooLarge: atomic<u32>,  // these two are the quantizer's
  notFirstTooLarge: atomic<u32>,
}

@group(0) @binding(0) var<storage, read> words: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> found: Found;

// The sign's bit of each element that is not finite; what the other bits are does not matter.
fn badSigns(i: u32) -> vec4u {
  return (words[i] & vec4u(EXPONENTS)) + vec4u(ONES);
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(local_invocation_index) lane: u32,
  @builtin(num_workgroups) workgroups: vec3u,
) {
  let step = workgroups.x * LANES;
  var bad = vec4u();
  for (var i = id.x; i < arrayLength(&words); i += step) {
    bad |= badSigns(i);
  }
  if (lane == 0u) {
    atomicAdd(&found.ran, 1u);
  }
  let signs = (EXPONENTS << 1u) & ~EXPONENTS;
  if (((bad.x | bad.y | bad.z | bad.w) & signs) == 0u) {
    return;
  }

  var count = 0u;
  var notFirst = 0u;
  for (var i = id.x; i < arrayLength(&words); i += step) {
    let four = badSigns(i);
    for (var k = 0u; k < 4u; k++) {
      for (var element = 0u; element < PER_WORD; element++) {
        if ((four[k] & (0x80000000u >> (16u * (PER_WORD - 1u - element)))) != 0u) {
          count++;
          notFirst = max(notFirst, ~((4u * i + k) * PER_WORD + element));
        }
      }
    }
  }
  atomicAdd(&found.count, count);
  atomicMax(&found.notFirst, notFirst);
}
