/** Which candidate replaces the default, by made-up times. */
import { describe, expect, test } from "vitest";
import { chooseCandidate } from "../../../engine/check/tune.ts";

describe("a candidate replaces the default", () => {
  const base = [10, 11, 10, 12, 10, 10, 11];
  const times = (factor: number) => base.map((seconds) => seconds * factor);

  test("if it is faster by more than the noise; of several the fastest", () => {
    expect(chooseCandidate(base, [times(0.9)])).toBe(0);
    expect(chooseCandidate(base, [times(0.95), times(0.7), times(0.8)])).toBe(1);
    expect(chooseCandidate(base, [times(1.2), times(1), times(0.96)])).toBe(2);
  });

  test("not if it is slower, as fast, or gains less than 3 %", () => {
    expect(chooseCandidate(base, [])).toBeUndefined();
    expect(chooseCandidate(base, [times(1), times(1.5), times(0.98)])).toBeUndefined();
  });

  test("by what each round says, so that what disturbs a round disturbs no choice", () => {
    const disturbed = [10, 50, 10, 11, 90, 10, 10];
    expect(chooseCandidate(disturbed, [disturbed.map((seconds) => 0.9 * seconds)])).toBe(0);
    expect(chooseCandidate(disturbed, [disturbed.map((seconds) => 1.01 * seconds)])).toBeUndefined();
  });

  test("not if it was faster in some rounds only", () => {
    // Faster by half in four of seven rounds: a median would take it.
    expect(chooseCandidate(base, [base.map((seconds, i) => seconds * (i % 2 === 0 ? 0.5 : 1.1))])).toBeUndefined();
    // One bad round of seven is forgiven.
    expect(chooseCandidate(base, [base.map((seconds, i) => seconds * (i === 3 ? 2 : 0.9))])).toBe(0);
  });

  test("not if it was given up before the last round, or there were too few", () => {
    expect(chooseCandidate(base, [times(0.5).slice(0, 3)])).toBeUndefined();
    expect(chooseCandidate([10, 10], [[5, 5]])).toBeUndefined();
    expect(chooseCandidate([10, 10, 10], [[5, 5, 5]])).toBe(0);
  });

  test("not by times that are no numbers", () => {
    expect(chooseCandidate(base, [times(Number.NaN)])).toBeUndefined();
    expect(chooseCandidate(times(0), [times(0)])).toBeUndefined();
  });
});
