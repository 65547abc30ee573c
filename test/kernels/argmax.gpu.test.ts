import { describe, expect, test } from "vitest";
import { argmax } from "../../kernels/argmax.ts";
import type { Kernel } from "../../kernels/kernel.ts";
import { randomValues } from "../reference/compare.ts";
import * as reference from "../reference/ops.ts";
import { broken, liveBuffers, runKernel } from "./harness.ts";

async function choose(kernel: Kernel, logits: Float32Array<ArrayBuffer>) {
  const { choice } = await runKernel(kernel, { seq: 1 }, { logits, choice: { output: 3 } });
  const [id, , notFinite] = new Uint32Array(choice.buffer);
  return { id, highest: choice[1], notFinite };
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
    expect({ name, ...choice, highest: choice.highest ?? 0 }).toEqual({
      name,
      id,
      highest: logits[id ?? 0],
      notFinite: 0,
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
    await checkFinite(argmax(vocab, lanes), vocab);
  });

  test.each(cases)("$vocab logits, $lanes threads: those that are not finite are counted", async ({ vocab, lanes }) => {
    const kernel = argmax(vocab, lanes);
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      expect(await choose(kernel, new Float32Array(vocab).fill(bad))).toMatchObject({ notFinite: vocab });
      for (const index of new Set([0, vocab - 1, Math.floor(vocab / 2)])) {
        expect(await choose(kernel, withPeaks(vocab, bad, [index]))).toMatchObject({ notFinite: 1 });
      }
    }
    // A NaN may have any sign and payload.
    const bits = Float32Array.of(1, 2, 3);
    new Uint32Array(bits.buffer).set([0xff800001, 0x7fffffff, 0x7f7fffff]);
    const logits = randomValues(1, vocab);
    logits.set(bits.subarray(0, vocab));
    expect(await choose(kernel, logits)).toMatchObject({ notFinite: Math.min(vocab, 2) });
  });

  test("mistakes are found: ties, the last logit", async () => {
    for (const [from, to] of [
      ["bestId[i] < highestId", "bestId[i] > highestId"],
      ["logit > highest ||", "logit >= highest ||"],
      ["i < VOCAB;", "i < VOCAB - 1u;"],
    ] as const) {
      await expect(checkFinite(await broken(argmax(63, 32), from, to), 63)).rejects.toThrow(/deeply equal/);
    }
  });

  test("no buffer is left", async () => expect(await liveBuffers()).toBe(0));
});
