import { type Kernel, stateSnippet } from "./kernel.ts";

/** Bytes of the result: id, highest logit, count of non-finite logits (u32, f32, u32), padded. */
export const choiceBytes = 16;

/** The id of the highest of logits [vocab], lowest id on ties, and the count of logits that are not finite. */
export function argmax(vocab: number, lanes: number): Kernel {
  return {
    name: "argmax",
    files: [new URL("./argmax.wgsl", import.meta.url), stateSnippet],
    constants: { VOCAB: vocab, LANES: lanes },
    tile: {},
    grid: () => [1, 1, 1],
  };
}
