// gelu_new: the tanh form of GELU (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2), as phi-1, 1.5 and 2 use it.
// The argument of tanh is bounded: some drivers form it from exp and overflow to NaN far out, where tanh is 1 anyway.

fn geluNew(v: f32) -> f32 {
  let inner = 0.7978845608028654 * (v + 0.044715 * v * v * v);
  return 0.5 * v * (1.0 + tanh(clamp(inner, -15.0, 15.0)));
}
