import { type Kernel, nextSnippet } from "./kernel.ts";

/** The layout of `State` in next.wgsl, in words. Kernels that choose no token see the first five (state.wgsl). */
export const stateWords = {
  past: 0,
  seq: 1,
  kvRows: 3,
  stopped: 4,
  drawn: 5,
  notFinite: 6,
  tokens: 8,
  /** Tokens that are kept, the last of them: the most that one submit may choose. */
  ring: 64,
  /** What the host writes before a call, and all of it. */
  head: 8,
  all: 72,
} as const;

/** The layout of `Control` in next.wgsl, in words. */
export const controlWords = {
  stops: 0,
  topK: 1,
  topP: 2,
  seed: 4,
  hasMarks: 6,
  temperature: 7,
  leastExponent: 8,
  repetition: 9,
  frequency: 10,
  presence: 11,
  stopIds: 12,
  mostStops: 64,
  all: 76,
} as const;

/** The highest of logits [vocab] is the next token, the lowest id on ties. */
export function argmax(vocab: number, lanes: number): Kernel {
  return {
    name: "argmax",
    files: [new URL("./argmax.wgsl", import.meta.url), nextSnippet],
    constants: { VOCAB: vocab, LANES: lanes },
    tile: {},
    grid: () => [1, 1, 1],
  };
}
