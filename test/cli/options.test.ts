import { describe, expect, test } from "vitest";
import {
  checkIds,
  choiceOption,
  idsOption,
  integerOption,
  logitBiasOption,
  nameOption,
  numberOption,
  seedOption,
  stopOption,
} from "../../cli/options.ts";
import { PhiError } from "../../engine/errors.ts";

/** The message of the usage error that `read` must throw. */
function refusal(read: () => unknown): string {
  try {
    read();
  } catch (error) {
    if (error instanceof PhiError && error.kind === "usage") return error.message;
    throw error;
  }
  throw new Error("nothing was refused");
}

describe("option values (faults.md G)", () => {
  const temperature = numberOption("--temperature", { from: 0 });
  test.each([
    ["0", 0],
    ["1e-30", 1e-30],
    ["1e30", 1e30],
    ["0.7", 0.7],
    [".5", 0.5],
    ["+2", 2],
  ])("temperature %s", (text, value) => {
    expect(temperature(text)).toBe(value);
  });
  test.each(["NaN", "-1", "Infinity", "hot", "", " 1", "0x10", "1e400", "1,5"])("temperature %j is refused", (text) => {
    expect(refusal(() => temperature(text))).toBe(`--temperature: expected a finite number >= 0, got "${text}"`);
  });

  test.each(["1.1", "-0.1", "NaN", "1.0000001"])("top-p %s is refused", (text) => {
    expect(refusal(() => numberOption("--top-p", { from: 0, to: 1 })(text))).toContain(
      "--top-p: expected a number from 0 to 1",
    );
  });
  test("top-p takes both ends", () => {
    expect(["0", "1"].map(numberOption("--top-p", { from: 0, to: 1 }))).toEqual([0, 1]);
  });

  const penalty = numberOption("--repeat-penalty", { from: 0, above: true });
  test("a repeat penalty is above 0", () => {
    expect(penalty("1.1")).toBe(1.1);
    expect(refusal(() => penalty("0"))).toBe('--repeat-penalty: expected a finite number > 0, got "0"');
    expect(refusal(() => penalty("-1"))).toContain("> 0");
  });

  const count = integerOption("--max-tokens", 0, 2 ** 31 - 1);
  test("whole numbers", () => {
    expect(["0", "256", "2147483647"].map(count)).toEqual([0, 256, 2147483647]);
    for (const text of ["-1", "2147483648", "1.5", "1e3", "", "١"]) {
      expect(refusal(() => count(text))).toBe(
        `--max-tokens: expected a whole number from 0 to 2147483647, got "${text}"`,
      );
    }
  });

  test("a name is not empty", () => {
    expect(nameOption("--adapter")("llvmpipe")).toBe("llvmpipe");
    expect(refusal(() => nameOption("--adapter")(""))).toBe('--adapter: expected at least one character, got ""');
  });

  test("seeds are exact to 64 bits", () => {
    expect(seedOption("18446744073709551615")).toBe(18446744073709551615n);
    expect(seedOption("0")).toBe(0n);
    for (const text of ["-1", "18446744073709551616", "1.5", "abc", ""]) refusal(() => seedOption(text));
  });

  test("token ids", () => {
    expect(idsOption("1,2, 3")).toEqual([1, 2, 3]);
    for (const text of ["", "1,,2", "-1", "1.5", "a", "12345678901"]) refusal(() => idsOption(text));
    expect(refusal(() => checkIds("--ids", [5, 256], 256))).toBe(
      '--ids: expected token ids below this model\'s vocabulary of 256, got "256"',
    );
    checkIds("--ids", [0, 255], 256);
  });

  test("logit biases gather, the last of an id counts", () => {
    const first = logitBiasOption("5=-100", new Map());
    expect([...logitBiasOption("5=2.5", logitBiasOption("6=1", first))]).toEqual([
      [5, 2.5],
      [6, 1],
    ]);
    expect([...first]).toEqual([[5, -100]]);
    for (const text of ["5", "5=", "=1", "5=NaN", "5=Infinity", "a=1", "-1=1", "5=1x"])
      refusal(() => logitBiasOption(text, new Map()));
  });

  test("stop strings", () => {
    expect(stopOption("b", ["a"])).toEqual(["a", "b"]);
    expect(refusal(() => stopOption("", []))).toBe('--stop: expected at least one character, got ""');
  });

  test("choices, and control characters in what was given", () => {
    expect(choiceOption("--kv", ["f16", "f32"])("f32")).toBe("f32");
    expect(refusal(() => choiceOption("--kv", ["f16", "f32"])("f\u001b[31m"))).toBe(
      '--kv: expected f16 or f32, got "f\\u001b[31m"',
    );
  });
});
