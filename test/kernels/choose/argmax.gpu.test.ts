import { describe, expect, test } from "vitest";
import { argmax, controlWords, stateWords } from "../../../kernels/choose/next.ts";
import type { Kernel } from "../../../kernels/kernel.ts";
import { randomValues } from "../../reference/compare.ts";
import * as reference from "../../reference/ops.ts";
import { broken, liveBuffers, runKernel } from "../harness.ts";

interface Before {
  readonly past?: number;
  readonly seq?: number;
  readonly drawn?: number;
  readonly stopped?: number;
  readonly stopIds?: readonly number[];
  /** Logits that are no padding. */
  readonly vocab?: number;
}

/** What the kernel leaves in the state and in the next call's id, which is 4242 before. */
async function choose(kernel: Kernel, logits: Float32Array<ArrayBuffer>, before: Before = {}) {
  const { past = 7, seq = 3, drawn = 5, stopped = 0, stopIds = [], vocab = logits.length } = before;
  const words = new Uint32Array(stateWords.all);
  words.set([past, seq, 0, 100, stopped, drawn]);
  const control = new Uint32Array(controlWords.all);
  control[controlWords.vocab] = vocab;
  control[controlWords.stops] = stopIds.length;
  control.set(stopIds, controlWords.stopIds);
  const operands = { logits, state: { inPlace: words }, control, ids: { inPlace: Uint32Array.of(4242) } };
  const result = await runKernel(kernel, { seq: 1 }, operands);
  const state = new Uint32Array(result.state.buffer);
  const word = (name: "past" | "seq" | "stopped" | "drawn" | "notFinite") => state[stateWords[name]];
  return {
    id: state[stateWords.tokens + (drawn % stateWords.ring)],
    next: new Uint32Array(result.ids.buffer)[0],
    past: word("past"),
    seq: word("seq"),
    stopped: word("stopped"),
    drawn: word("drawn"),
    notFinite: word("notFinite"),
  };
}

/** Logits with `value` at the indices given. */
function withPeaks(vocab: number, value: number, indices: readonly number[]): Float32Array<ArrayBuffer> {
  const logits = randomValues(vocab, vocab);
  for (const index of indices) logits[index] = value;
  return logits;
}

/** Finite logits by name; the answer is the reference's, bit for bit: nothing is rounded. */
function finiteLogits(vocab: number): Readonly<Record<string, Float32Array<ArrayBuffer>>> {
  const last = vocab - 1;
  return {
    "random logits": randomValues(vocab + 1, vocab, "mixed"),
    "the first": withPeaks(vocab, 50, [0]),
    "the last": withPeaks(vocab, 50, [last]),
    // Ties within a thread, between threads that are neighbours, and where the later thread has the lower id.
    "ties far apart": withPeaks(vocab, 50, [Math.floor(vocab / 3), last]),
    "ties of neighbours": withPeaks(vocab, 50, [Math.floor(vocab / 2), Math.min(last, Math.floor(vocab / 2) + 1)]),
    "ties across rounds": withPeaks(vocab, 50, [Math.min(last, 40), Math.min(last, 31 + 256), last]),
    "all equal": new Float32Array(vocab).fill(-3),
    "zeros of both signs": Float32Array.from({ length: vocab }, (_, i) => (i % 2 === 0 ? -0 : 0)),
    "all lowest": new Float32Array(vocab).fill(-3.4028234663852886e38),
    negative: randomValues(vocab + 2, vocab).map((value) => -Math.abs(value) - 1),
  };
}

async function checkFinite(kernel: Kernel, vocab: number): Promise<void> {
  for (const [name, logits] of Object.entries(finiteLogits(vocab))) {
    const [id] = reference.argmax(logits, { seq: 1, cols: vocab });
    const choice = await choose(kernel, logits);
    expect({ name, ...choice }).toEqual({
      ...{ name, id, next: id, past: 10, seq: 1, drawn: 6 },
      ...{ stopped: 0, notFinite: 0 },
    });
  }
}

const cases = [
  { vocab: 1, lanes: 32 },
  { vocab: 63, lanes: 32 },
  { vocab: 63, lanes: 256 },
  { vocab: 50001, lanes: 32 },
  { vocab: 50001, lanes: 256 },
];

describe("argmax", () => {
  test.each(cases)("$vocab logits, $lanes threads", async ({ vocab, lanes }) => {
    await checkFinite(argmax(lanes), vocab);
  });

  test.each(cases)("$vocab logits, $lanes threads: those that are not finite are counted", async ({ vocab, lanes }) => {
    const kernel = argmax(lanes);
    const stopped = (notFinite: number) => ({ id: 0, next: 4242, past: 7, seq: 3, stopped: 1, drawn: 5, notFinite });
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      expect(await choose(kernel, new Float32Array(vocab).fill(bad))).toEqual(stopped(vocab));
      for (const index of new Set([0, vocab - 1, Math.floor(vocab / 2)])) {
        expect(await choose(kernel, withPeaks(vocab, bad, [index]))).toEqual(stopped(1));
      }
    }
    // A NaN may have any sign and payload.
    const bits = Float32Array.of(1, 2, 3);
    new Uint32Array(bits.buffer).set([0xff800001, 0x7fffffff, 0x7f7fffff]);
    const logits = randomValues(1, vocab);
    logits.set(bits.subarray(0, vocab));
    expect(await choose(kernel, logits)).toEqual(stopped(Math.min(vocab, 2)));
  });

  test("a stop id is kept, and nothing advances from there on", async () => {
    const kernel = argmax(32);
    const logits = withPeaks(63, 50, [17]);
    const stopIds = Array.from({ length: controlWords.mostStops }, (_, i) => 100 + i);
    const advanced = { id: 17, next: 17, past: 10, seq: 1, stopped: 0, drawn: 6, notFinite: 0 };
    expect(await choose(kernel, logits, { stopIds })).toEqual(advanced);
    const at = { next: 4242, past: 7, seq: 3, stopped: 1, notFinite: 0 };
    for (const place of [0, 1, 63]) {
      expect(await choose(kernel, logits, { stopIds: stopIds.with(place, 17) })).toEqual({ id: 17, drawn: 6, ...at });
    }
    expect(await choose(kernel, logits, { stopped: 1 })).toEqual({ id: 0, drawn: 5, ...at });
    // Padding is not seen.
    const padded = Float32Array.from(logits);
    padded.set([99, Number.NaN], 61);
    expect(await choose(kernel, padded, { vocab: 61 })).toEqual(advanced);
    // The place of a token goes around.
    expect(await choose(kernel, logits, { drawn: 64 * 3 + 2 })).toEqual({ ...advanced, drawn: 64 * 3 + 3 });
  });

  test("mistakes are found: ties, the last logit", async () => {
    for (const [from, to] of [
      ["bestId[i] < highestId", "bestId[i] > highestId"],
      ["logit > highest ||", "logit >= highest ||"],
      ["i < control.vocab;", "i < control.vocab - 1u;"],
    ] as const) {
      await expect(checkFinite(await broken(argmax(32), from, to), 63)).rejects.toThrow(/deeply equal/);
    }
  });

  test("no buffer is left", async () => expect(await liveBuffers()).toBe(0));
});
