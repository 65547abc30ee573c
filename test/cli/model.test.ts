import { expect, test } from "vitest";
import { checkMemory } from "../../cli/model.ts";
import type { GpuNeeds } from "../../engine/index.ts";

test("a model that a software adapter has no memory for is refused with the bytes; a GPU's memory is not known", () => {
  const needs = { weightsBytes: 3 * 2 ** 30, kvBytes: 2 ** 30, totalBytes: 4 * 2 ** 30 } as GpuNeeds;
  const check = (isSoftware: boolean, memoryBytes: number) =>
    checkMemory({ context: 4096, needs: () => ({ ...needs, isSoftware }) }, {} as GPUAdapter, memoryBytes);
  check(true, 4 * 2 ** 30);
  check(false, 1);
  const message = "the model needs 4 GiB (weights 3 GiB, cache of 4096 positions 1 GiB), and this machine has 3.5 GiB";
  expect(() => check(true, 3.5 * 2 ** 30)).toThrow(expect.objectContaining({ kind: "machine", message }));
});
