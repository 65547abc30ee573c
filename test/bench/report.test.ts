/** Figures: summed up, refused where they cannot be, and as a table. */
import { describe, expect, test } from "vitest";
import {
  type BenchTable,
  type Environment,
  refuseImpossible,
  spread,
  tableJson,
  tableText,
} from "../../bench/report.ts";
import { PhiError } from "../../engine/errors.ts";

const environment: Environment = {
  adapter: "a card",
  backend: "vulkan",
  driver: "a driver 1.2",
  software: false,
  commit: "abc",
  date: "2026-01-02T03:04:05.000Z",
  versions: "phi 0",
  processor: "2 × a processor",
  loadAverage: 0,
};

const table = (samples: readonly number[], unit = "tokens/s"): BenchTable => ({
  command: "decode",
  model: "a model",
  settings: "f16 cache",
  figures: [
    { name: "decode at depth 0", unit, samples },
    { name: "dispatches", unit: "a token", samples: [230] },
  ],
});

describe("spread", () => {
  test.each([
    [[3, 1, 2], { median: 2, min: 1, max: 3 }],
    [[10, 2, 9, 1], { median: 5.5, min: 1, max: 10 }],
    [[7], { median: 7, min: 7, max: 7 }],
  ])("%j", (samples, expected) => expect(spread(samples)).toEqual(expected));
});

describe("figures that cannot be are refused", () => {
  test.each<[readonly number[], string, string]>([
    [[], "tokens/s", "got none"],
    [[3, 0], "tokens/s", "got 0"],
    [[Number.NaN, 3], "tokens/s", "got NaN"],
    [[3, Number.POSITIVE_INFINITY], "µs/token", "got Infinity"],
    [[-1], "MiB", "got -1"],
    [[70, 101], "%", "expected above 0 and at most 100 %, got 101"],
  ])("%j %s", (samples, unit, message) => {
    const { figures } = table(samples, unit);
    expect(() => refuseImpossible(figures)).toThrow(PhiError);
    expect(() => refuseImpossible(figures)).toThrow(message);
    expect(() => tableText([table(samples, unit)], environment)).toThrow(message);
    expect(() => tableJson([table(samples, unit)], environment)).toThrow(message);
  });

  test("others are not", () => {
    refuseImpossible(table([1e-9, 1e12]).figures);
    refuseImpossible(table([0.1, 100], "%").figures);
  });
});

test("a table names adapter, driver and commit, and gives the median and the extremes", () => {
  expect(tableText([table([12.5, 3, 1234.4])], environment)).toBe(
    [
      "adapter a card (vulkan, a driver 1.2)",
      "phi 0, commit abc, 2 × a processor, 2026-01-02T03:04:05.000Z",
      "",
      "decode: a model; f16 cache",
      "  decode at depth 0  12.50  3.000–1234  tokens/s",
      "  dispatches           230              a token",
      "",
    ].join("\n"),
  );
});

test("the JSON holds every sample", () => {
  const read = JSON.parse(tableJson([table([12.5, 3])], environment));
  expect(read).toMatchObject({ ...environment, results: [{ command: "decode", model: "a model" }] });
  expect(read.results[0].figures[0]).toEqual({
    name: "decode at depth 0",
    unit: "tokens/s",
    samples: [12.5, 3],
    median: 7.75,
    min: 3,
    max: 12.5,
  });
});
