import { expect, test } from "vitest";
import { formatBytes, jsonLine } from "../../cli/format.ts";
import { terminalSafe } from "../../cli/output.ts";

test("a terminal gets no control characters but newline and tab (faults.md P6)", () => {
  expect(terminalSafe("a\tb\nc")).toBe("a\tb\nc");
  expect(terminalSafe("\u001b]0;title\u0007\r\u009b2J\u007f")).toBe("\\x1b]0;title\\x07\\x0d\\x9b2J\\x7f");
  expect(terminalSafe("é 語 😀 \u2028")).toBe("é 語 😀 \u2028");
});

test("JSON is one line without raw controls", () => {
  const value = { text: "\u001b[31m\u009b2J\u007f\n" };
  const line = jsonLine(value);
  expect(line).toBe('{"text":"\\u001b[31m\\u009b2J\\u007f\\n"}\n');
  expect(JSON.parse(line)).toEqual(value);
});

test("bytes", () => {
  expect([0, 1023, 1024, 134217728, 4294967295].map(formatBytes)).toEqual([
    "0 bytes",
    "1023 bytes",
    "1 KiB",
    "128 MiB",
    "4.0 GiB",
  ]);
});
