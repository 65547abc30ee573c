/** The kernels that choose the next token, and the words that they share with the host: state, control, marks. */

import type { Kernel } from "../kernel.ts";

/** The state in place of `stateSnippet`, for kernels that also write it, because they choose the next token. */
const nextSnippet = new URL("./next.wgsl", import.meta.url);

/** The layout of `State` in next.wgsl, in words. Kernels that choose no token see the first four (state.wgsl). */
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
  vocab: 1,
  hasMarks: 3,
  topP: 4,
  seed: 6,
  topK: 8,
  temperature: 9,
  leastExponent: 10,
  repetition: 11,
  frequency: 12,
  presence: 13,
  stopIds: 16,
  mostStops: 64,
  all: 80,
} as const;

/** Bytes of a token's `Mark` in sample.wgsl: the bias (float32), and how often it was said, the top bit for a prompt's. */
export const markBytes = 8;

/** The highest of the logits is the next token, the lowest id on ties. */
export function argmax(lanes: number): Kernel {
  return {
    name: "argmax",
    files: [new URL("./argmax.wgsl", import.meta.url), nextSnippet],
    constants: { LANES: lanes },
    tile: {},
    grid: () => [1, 1, 1],
  };
}

/** The next token is drawn by the chain of engine/generation/sampler.ts, from at most 2^24 logits. */
export function sample(threads: number): Kernel {
  return {
    name: "sample",
    files: [new URL("./sample.wgsl", import.meta.url), nextSnippet],
    constants: { THREADS: threads },
    tile: {},
    grid: () => [1, 1, 1],
  };
}
