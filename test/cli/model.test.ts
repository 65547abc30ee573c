import { expect, test } from "vitest";
import { machineMemory } from "../../cli/fit.ts";
import { checkMemory } from "../../cli/model.ts";
import type { GpuNeeds, ModelDescription } from "../../engine/index.ts";

const gib = 2 ** 30;

/** A model of 3 GiB with a cache of 1 GiB for 4096 positions, on an adapter that binds the keys of 100,000. */
function checked({ isSoftware = true, context = 4096, weightsBytes = 3 * gib, weights = "none" }, memoryBytes: number) {
  const needs = (_adapter?: GPUAdapter, positions = context): GpuNeeds => {
    const kvBytes = (gib / 4096) * positions;
    const obstacles = positions > 100_000 ? ["the keys of one layer take too many bytes"] : [];
    return { isSoftware, weightsBytes, kvBytes, totalBytes: weightsBytes + kvBytes, obstacles } as unknown as GpuNeeds;
  };
  const quantize = { weights } as ModelDescription["quantize"];
  return () => checkMemory({ context, needs, quantize }, {} as GPUAdapter, memoryBytes);
}

const refusal = (message: RegExp, advice: RegExp) =>
  expect.objectContaining({
    kind: "machine",
    message: expect.stringMatching(message),
    advice: [expect.stringMatching(advice)],
  });

test("what fits is not refused; a GPU's memory is not known", () => {
  checked({}, 4 * gib)();
  checked({ isSoftware: false }, 1)();
});

test("a cache that a software adapter has no memory for is refused with the bytes and a context that fits", () => {
  // The largest would be 2048.
  expect(checked({}, 3.5 * gib)).toThrow(
    refusal(
      /^--context: expected at most 2048 positions, got 4096: the model needs 4 GiB \(weights 3 GiB, cache of 4096 positions 1 GiB\), and this machine has 3.5 GiB$/,
      /^Give --context 2048, or use a GPU/,
    ),
  );
  const fitting = 1280; // 5/16 of 4096, where 1310 would fit
  expect(checked({}, 3.32 * gib)).toThrow(refusal(new RegExp(`at most ${fitting} positions`), /^Give --context 1280,/));
  checked({ context: fitting }, 3.32 * gib)();
});

test("keys that an adapter does not bind are refused on a GPU too", () => {
  expect(checked({ isSoftware: false, context: 1_000_000 }, 1)).toThrow(
    refusal(
      /^--context: expected at most 93750 positions, got 1000000: the keys of one layer/,
      /^Give --context 93750.$/,
    ),
  );
});

test("where no context fits, int4 is named if it does", () => {
  const message = /^expected a model that fits this machine's memory of 2 GiB, got one of 4 GiB \(weights 3 GiB/;
  expect(checked({}, 2 * gib)).toThrow(refusal(message, /--quantize int4 .* about 960 MiB/));
  expect(checked({ weights: "int4" }, 2 * gib)).toThrow(refusal(message, /a smaller model/));
  expect(checked({ weightsBytes: 30 * gib }, 2 * gib)).toThrow(
    refusal(/of 2 GiB, got one of 31 GiB/, /a smaller model/),
  );
});

test("the machine's memory is a number of bytes", () => {
  expect(machineMemory()).toBeGreaterThan(2 ** 28);
});
