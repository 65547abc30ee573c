import { describe, expect, test } from "vitest";
import { PhiError } from "../engine/errors.ts";
import { mutateText, randomOf } from "../fuzz/mutate.ts";
import { assertTyped, targets } from "../fuzz/targets.ts";

describe("a short seeded run", () => {
  test.each(targets.map((target) => [target.name, target] as const))("%s", async (_, target) => {
    let accepted = 0;
    for (let index = 0; index < 150; index++) {
      const began = performance.now();
      try {
        if (await target.run(target.input(randomOf(20, index)))) accepted++;
      } catch (cause) {
        throw new Error(`seed 20, case ${index}`, { cause });
      }
      expect(performance.now() - began, `case ${index}`).toBeLessThan(5000);
    }
    expect(accepted).toBeGreaterThan(0); // the mutations leave something to be read
    expect(target.name === "prompt" ? 0 : accepted).toBeLessThan(150);
  });
});

test("a case follows from its seed and number alone", () => {
  const draw = (seed: number, index: number) => mutateText("Once upon a time", randomOf(seed, index));
  expect(draw(3, 7)).toBe(draw(3, 7));
  expect(new Set(Array.from({ length: 50 }, (_, index) => draw(3, index))).size).toBeGreaterThan(40);
  expect(draw(4, 7)).not.toBe(draw(3, 7));
});

test("what is no typed error, or one of the wrong form, is a finding", () => {
  expect(() => assertTyped(new RangeError("stack"))).toThrow("stack");
  expect(() => assertTyped(new PhiError("internal", "a bug"))).toThrow("a bug");
  expect(() => assertTyped(new PhiError("checkpoint", "two\nlines"))).toThrow(/wrong form/);
  expect(() => assertTyped(new PhiError("checkpoint", "x", ["1", "2", "3"]))).toThrow(/wrong form/);
  expect(() => assertTyped(new PhiError("checkpoint", "x: expected 1, got 2"))).not.toThrow();
});
