// Appended to the kernels that choose a token, in place of state.wgsl: the state that all kernels read, which these also
// write, and what a chosen token changes in it. So the next step needs nothing from the host.

const RING = 64u;        // tokens that are kept for the host to read: the most that one submit may choose
const STOPS_VECS = 16u;  // vec4u of stop ids

struct State {
  past: u32,       // these four as in state.wgsl
  seq: u32,
  zero: u32,
  kvRows: u32,
  stopped: u32,    // 1 once nothing advances any more
  drawn: u32,      // tokens chosen so far, which is the index of the next one
  notFinite: u32,  // logits of the step that stopped which were NaN or infinite
  unused: u32,
  tokens: array<u32, RING>,  // token i is in place i % RING
}

struct Control {
  stops: u32,     // how many ids follow in stopIds
  vocab: u32,     // ids from here on are padding
  zero: u32,      // always 0
  hasMarks: u32,  // from here on: see sample.wgsl
  topP: vec2u,
  seed: vec2u,
  topK: u32,
  temperature: f32,
  leastExponent: f32,
  repetition: f32,
  frequency: f32,
  presence: f32,
  stopIds: array<vec4u, STOPS_VECS>,
}

@group(0) @binding(0) var<storage, read_write> state: State;
@group(0) @binding(1) var<uniform> control: Control;
@group(0) @binding(2) var<storage, read_write> ids: array<u32>;

override UNROLL: bool = true;

// See state.wgsl.
fn begin() -> u32 {
  return select(control.zero, 0u, UNROLL);
}

// Takes `id` for the next token. After a stop id, or where logits are not finite, the state stays as it is: steps that are
// already submitted then repeat the last one, and write to the cache what is there.
fn advance(id: u32, notFinite: u32) {
  if (state.stopped != 0u) {
    return;
  }
  if (notFinite > 0u) {
    state.notFinite = notFinite;
    state.stopped = 1u;
    return;
  }
  state.tokens[state.drawn % RING] = id;
  state.drawn += 1u;
  for (var i = begin(); i < control.stops; i++) {
    if (control.stopIds[i / 4u][i % 4u] == id) {
      state.stopped = 1u;
      return;
    }
  }
  state.past += state.seq;
  state.seq = 1u;
  ids[0] = id;
}
