import { expect, describe as suite, test } from "vitest";
import {
  describe,
  exactInteger,
  isList,
  isNumber,
  isObject,
  type Json,
  parseJson,
  readMembers,
} from "../../../engine/files/json.ts";
import { failure } from "../../tempFolder.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const parse = (text: string | Uint8Array, nonFinite = false) =>
  parseJson(typeof text === "string" ? bytes(text) : text, { file: "x.json", nonFinite });

/** The value as `JSON.parse` would give it. */
function plain(value: Json): unknown {
  if (isNumber(value)) return Number(value.token);
  if (isList(value)) return value.map(plain);
  if (isObject(value)) return Object.fromEntries([...value].map(([name, member]) => [name, plain(member)]));
  return value;
}

const refused: [text: string | Uint8Array, message: RegExp][] = [
  ["", /line 1, column 1 \(byte 0\): expected a value, got the end/],
  [" \n", /line 2, column 1 \(byte 2\): expected a value, got the end/],
  ['{"a":1,}', /column 8 .* expected a name in double quotes, got "}"/],
  ["[1,]", /column 4 .* expected a value, got "]"/],
  ["[1 2]", /expected "," or "]", got "2"/],
  ['{"a" 1}', /expected ":" after the name "a", got "1"/],
  ["{a:1}", /expected a name in double quotes, got "a"/],
  ["['a']", /expected a value, got "'"/],
  ["{}{}", /expected the end of the JSON text, got "{"/],
  ["[1]// x", /expected the end of the JSON text, got "\/"/],
  ["[1", /expected "," or "]", got the end/],
  ['"abc', /expected a closing quote, got the end/],
  ['"a\nb"', /expected no control character in a string, got byte 0x0a/],
  ['"\\x41"', /expected an escape/],
  ['"\\u12g4"', /expected four hexadecimal digits, got "g4"/],
  ['"\\u12"', /expected four hexadecimal digits, got """/],
  ['"\\ud800"', /expected a pair of surrogates, got \\ud800 alone/],
  ['"\\ud800\\u0041"', /got \\ud800 alone/],
  ['"\\ud800\\ud800"', /got \\ud800 alone/],
  ['"\\udc00"', /got \\udc00 alone/],
  ["NaN", /expected a value, got "NaN"/],
  ["[-Infinity]", /expected a digit, got "Infinity"/],
  ["+1", /expected a value, got "\+1"/],
  [".5", /expected a value, got ".5"/],
  ["[5.]", /expected a digit, got "]"/],
  ["1e", /expected a digit, got the end/],
  ["1e+", /expected a digit, got the end/],
  ["016", /expected the end of the JSON text, got "16"/],
  ["0x10", /expected the end of the JSON text, got "x10"/],
  ["-", /expected a digit, got the end/],
  ["truth", /expected a value, got "truth"/],
  ["tru", /expected a value, got "tru"/],
  ["True", /expected a value, got "True"/],
  ["[1]\0", /expected the end of the JSON text, got byte 0x00/],
  ['{"a":1,"a":1}', /column 8 .* expected each name once, got "a" again/],
  ['{"a":1,"\\u0061":1}', /expected each name once, got "a" again/],
  ['{"x":{"__proto__":1,"__proto__":2}}', /in "x": expected each name once, got "__proto__" again/],
  ["[".repeat(100_000), /expected at most 100 levels, got a deeper one/],
  ['{"a":'.repeat(100_000), /expected at most 100 levels, got a deeper one/],
  ["\ufeff{}", /expected JSON, got a byte order mark/],
  [Uint8Array.of(0xff, 0xfe, 0x7b, 0), /byte 0\): expected JSON in UTF-8, got UTF-16/],
  [Uint8Array.of(0x22, 0x61, 0xff, 0x22), /byte 2\): expected UTF-8, got byte 0xff/],
  [Uint8Array.of(0x22, 0xc0, 0x80, 0x22), /byte 1\): expected UTF-8, got byte 0xc0/],
  [Uint8Array.of(0x22, 0x61, 0xed, 0xa0, 0x80, 0x22), /byte 2\): expected UTF-8, got byte 0xed/],
  [Uint8Array.of(0x22, 0xf4, 0x90, 0x80, 0x80, 0x22), /byte 1\): expected UTF-8, got byte 0xf4/],
  [Uint8Array.of(0x22, 0xc3, 0xa9, 0xe2, 0x82, 0x22), /byte 3\): expected UTF-8, got byte 0xe2/],
];

suite("parseJson", () => {
  const labelled = refused.map(([text, message]) => [`${text}`.slice(0, 40), text, message] as const);
  test.each(labelled)("refuses %j", async (_, text, message) => {
    const error = await failure(() => parse(text));
    expect(error.message).toMatch(/^x\.json: line \d+, column \d+ \(byte \d+\)/);
    expect(error.message).toMatch(message);
  });

  test("columns count characters, offsets count bytes, both from where the text begins", async () => {
    const text = bytes('{"é":1,\r\n "日本": tru}');
    const error = await failure(() => parseJson(text, { file: "x.json", offsetBytes: 8 }));
    expect(error.message).toContain(`line 2, column 8 (byte ${8 + 21}), in "日本": expected a value, got "tru"`);
  });

  test("numbers are kept as they are written", () => {
    const tokens = ["2", "2.0", "2e0", "-0", "9007199254740993", "1E+400", "-12.5e-3"];
    expect(parse(`[${tokens.join(", ")}]`)).toEqual(tokens.map((token) => ({ token })));
  });

  test("exactInteger takes only integers that are written as such and are exact", () => {
    const integer = (token: string) => exactInteger({ token });
    expect(["0", "7", "-7", "9007199254740991", "-9007199254740991"].map(integer)).toEqual([
      0,
      7,
      -7,
      Number.MAX_SAFE_INTEGER,
      -Number.MAX_SAFE_INTEGER,
    ]);
    for (const token of [
      "-0",
      "2.0",
      "2e0",
      "9007199254740992",
      "-9007199254740993",
      "1e5",
      "NaN",
      "18446744073709551616",
    ])
      expect(integer(token), token).toBeUndefined();
    for (const value of [null, true, "2", [], new Map(), undefined]) expect(exactInteger(value)).toBeUndefined();
  });

  test("NaN and Infinity are values only where that is allowed", () => {
    expect(parse("[NaN, Infinity, -Infinity]", true)).toEqual([
      { token: "NaN" },
      { token: "Infinity" },
      { token: "-Infinity" },
    ]);
  });

  test("names of the prototype are names like any other", () => {
    const root = parse('{"__proto__": 1, "constructor": 2, "toString": 3, "": 4}');
    expect(isObject(root) && [...root.keys()]).toEqual(["__proto__", "constructor", "toString", ""]);
  });

  test("a U+FEFF inside a string is kept", () => {
    expect(parse('"\ufeffa"')).toBe("\ufeffa");
  });

  test("100 levels are read", () => {
    expect(() => parse("[".repeat(100) + "]".repeat(100))).not.toThrow();
  });

  test("readMembers hands over members in order and needs an object", async () => {
    const seen: [string, Json][] = [];
    const into = {
      has: (name: string) => seen.some(([other]) => other === name),
      set: (n: string, v: Json) => seen.push([n, v]),
    };
    readMembers(bytes(' {"b": [true], "a": null} '), { file: "x.json" }, into);
    expect(seen).toEqual([
      ["b", [true]],
      ["a", null],
    ]);
    const error = await failure(() => readMembers(bytes("[]"), { file: "x.json" }, new Map()));
    expect(error.message).toMatch(/expected an object that begins with "{", got "\["/);
  });

  test("describe is short and printable", () => {
    expect(
      [undefined, null, true, "a\u001b[31m", { token: "2e0" }, [{ token: "1" }, "x"], new Map()].map(describe),
    ).toEqual(["nothing", "null", "true", '"a\\u001b[31m"', "2e0", '[1, "x"]', "an object"]);
    expect(describe(Array.from({ length: 9 }, () => null))).toBe("a list of 9");
    expect(describe("x".repeat(10_000)).length).toBeLessThan(210);
  });

  test("agrees with JSON.parse on random texts, whole and damaged", () => {
    let state = 12345;
    const random = (below: number) => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    const pick = <T>(...items: T[]) => items[random(items.length)] as T;
    const blank = () => pick("", "", " ", "\n\t", "\r\n");
    const string = () => JSON.stringify(pick("", "a", "é日", '"\\/', "\u0000\u001f", "😀", "\u2028") + random(1000));
    const value = (depth: number): string => {
      const kind = random(depth > 4 ? 4 : 6);
      if (kind === 0) return pick("null", "true", "false");
      if (kind < 3) return pick("0", "-0", "12", "-3.25", "1e5", "2.5E-3", "1e400", "123456789012345678901");
      if (kind === 3) return string();
      const items = Array.from(
        { length: random(4) },
        () => (kind === 4 ? "" : `${string()}${blank()}:`) + blank() + value(depth + 1),
      );
      const inner = blank() + items.join(`${blank()},${blank()}`) + blank();
      return kind === 4 ? `[${inner}]` : `{${inner}}`;
    };
    const peer = (data: Uint8Array): unknown => {
      try {
        return { value: JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data)) };
      } catch {
        return undefined;
      }
    };
    let accepted = 0;
    let damaged = 0;
    for (let round = 0; round < 4000; round++) {
      const data = bytes(blank() + value(0) + blank());
      if (round % 2 === 1) {
        const at = random(data.length);
        data[at] = pick(random(256), ...bytes('{}[]",:\\u0eE+-.'));
      }
      const expected = peer(data);
      let own: unknown;
      let message = "";
      try {
        own = { value: plain(parse(data)) };
        accepted++;
      } catch (error) {
        message = error instanceof Error ? error.message : "";
      }
      // Where the two differ it is for a reason that JSON.parse does not know.
      if (expected !== undefined && own === undefined) expect(message).toMatch(/each name once|surrogates|order mark/);
      else expect(own, new TextDecoder().decode(data)).toEqual(expected);
      if (own === undefined) damaged++;
    }
    expect(accepted).toBeGreaterThan(2000);
    expect(damaged).toBeGreaterThan(500);
  });
});
