/** JSON that keeps the form of its numbers and the order of its keys. */
import { expect, test } from "vitest";
import { Float, parseExactJson, writeExactJson } from "../../tokenizer/index.ts";

test.each([
  ["7", 7],
  ["-0", 0],
  ["9007199254740991", 9007199254740991],
  ["9007199254740993", 9007199254740993n],
  ["-12345678901234567890", -12345678901234567890n],
  ["0.1", 0.1],
  ["2.0", new Float(2)],
  ["1e5", new Float(100000)],
  ["-0.0", new Float(-0)],
  ["1e400", new Float(Number.POSITIVE_INFINITY)],
  ['"a\\u00e9\\n{,"', "aé\n{,"],
  ["[ 1 , [ ] , { } , null , true ]", [1, [], {}, null, true]],
  ['{"a": {"b": [1.0]}, "a": 2}', { a: 2 }],
])("%s", (text, value) => {
  expect(parseExactJson(text)).toEqual(value);
});

test("what is no JSON is refused as JSON.parse does", () => {
  for (const text of ["", "[1,]", "{'a': 1}", "01", "1 2", "NaN"])
    expect(() => parseExactJson(text)).toThrow(SyntaxError);
});

test("written again it is the same, keys that are numbers in their order too", () => {
  const text = '{"z":1,"10":2.0,"2":[9007199254740993,1e999,-0.0,1e-7],"__proto__":{"1":{},"0":[]}}';
  expect(writeExactJson(parseExactJson(text)).replace(/\s/g, "")).toBe(text);
  const copied = { ...(parseExactJson(text) as object) };
  expect(writeExactJson(copied).replace(/\s/g, "")).toBe(text);
});
