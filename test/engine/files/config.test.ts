import { describe, expect, test } from "vitest";
import { type ConfigReader, readConfig } from "../../../engine/files/config.ts";
import { failure } from "../../tempFolder.ts";

const read = (text: string, file = "config.json"): ConfigReader => readConfig(file, new TextEncoder().encode(text));

describe("readConfig", () => {
  const refused: [text: string, message: RegExp][] = [
    ["", /line 1, column 1 \(byte 0\): expected a value/],
    ["[]", /expected an object at the root, got \[\]/],
    ['"x"', /expected an object at the root, got "x"/],
    ["{", /expected a name/],
    ['{"a": 1, "a": 2}', /expected each name once, got "a" again/],
    ['{"rope": {"a": 1, "\\u0061": 2}}', /in "rope": expected each name once/],
  ];
  test.each(refused)("%j is refused", async (text, message) => {
    expect((await failure(() => read(text))).message).toMatch(message);
  });

  test("more than 10 MB are refused", async () => {
    const error = await failure(() => readConfig("config.json", new Uint8Array(10_000_001)));
    expect(error.message).toBe("config.json: expected at most 10000000 bytes, got 10000001");
  });

  test("what no one asks for may be anything", () => {
    const config = read(
      '{"auto_map": {"AutoModel": "evil.py"}, "url": "https://example.org", "x": NaN, "__proto__": {"y": 1}}',
    );
    expect(config.keys()).toEqual(["auto_map", "url", "x", "__proto__"]);
    expect(config.has("y")).toBe(false);
    expect(config.has("toString")).toBe(false);
  });
});

type Look = (config: ConfigReader) => unknown;

describe("fields", () => {
  const text = `{
    "layers": 32, "zero": 0, "negative": -1, "huge": 1000000000, "text": "2", "half": 2.5, "two": 2.0, "nan": NaN,
    "inf": Infinity, "big": 1e400, "exact": 9007199254740993, "theta": 10000.0, "eps": 1e-05, "none": null, "yes": "yes",
    "true": true, "act": "silu", "list": [1, 2.5, 3], "holes": [1, null], "ids": [250, 251], "strings": ["a", "b"],
    "rope": {"type": "su", "factor": 0}
  }`;
  const layers = { min: 1, max: 1024 };

  const accepted: [label: string, look: Look, value: unknown][] = [
    ["an integer", (c) => c.integer("layers", layers), 32],
    ["an absent integer", (c) => c.integer("absent", { ...layers, fallback: 7 }), 7],
    ["a null integer", (c) => c.integer("none", { ...layers, fallback: 7 }), 7],
    ["a fallback outside the range", (c) => c.integer("absent", { ...layers, fallback: 0 }), 0],
    ["a number", (c) => c.number("theta", { above: 0 }), 10000],
    ["an integer as a number", (c) => c.number("layers", { min: 32, max: 32 }), 32],
    ["a small number", (c) => c.number("eps", { above: 0, max: 1 }), 1e-5],
    ["an absent number", (c) => c.number("absent", { fallback: 0.5 }), 0.5],
    ["a boolean", (c) => c.boolean("true"), true],
    ["an absent boolean", (c) => c.boolean("none", false), false],
    ["a string", (c) => c.string("act"), "silu"],
    ["an absent string", (c) => c.string("absent", "x"), "x"],
    ["one of", (c) => c.oneOf("act", ["gelu_new", "silu"]), "silu"],
    ["an absent one of", (c) => c.oneOf("absent", ["a", "b"], "b"), "b"],
    ["numbers", (c) => c.numbers("list", { length: 3, above: 0 }), [1, 2.5, 3]],
    ["integers", (c) => c.integers("ids", { min: 0, max: 255 }), [250, 251]],
    ["one integer", (c) => c.integers("layers", { min: 0, max: 255 }), [32]],
    ["no integers", (c) => c.integers("none", { min: 0, max: 255 }), []],
    ["strings", (c) => c.strings("strings"), ["a", "b"]],
    ["no strings", (c) => c.strings("absent"), []],
    ["no object", (c) => c.object("none"), undefined],
    ["a nested field", (c) => c.object("rope")?.string("type"), "su"],
    ["a present field", (c) => c.has("zero"), true],
    ["a null field", (c) => c.has("none"), false],
  ];
  test.each(accepted)("%s", (_, look, value) => {
    expect(look(read(text))).toEqual(value);
  });

  const int = "an integer from 1 to 1024";
  const refused: [look: Look, message: string][] = [
    [(c) => c.integer("zero", layers), `"zero": expected ${int}, got 0`],
    [(c) => c.integer("negative", layers), `"negative": expected ${int}, got -1`],
    [(c) => c.integer("huge", layers), `"huge": expected ${int}, got 1000000000`],
    [(c) => c.integer("text", layers), `"text": expected ${int}, got "2"`],
    [(c) => c.integer("half", layers), `"half": expected ${int}, got 2.5`],
    [(c) => c.integer("two", layers), `"two": expected ${int}, got 2.0`],
    [(c) => c.integer("nan", layers), `"nan": expected ${int}, got NaN`],
    [
      (c) => c.integer("exact", { min: 1, max: 2 ** 53 }),
      '"exact": expected an integer from 1 to 9007199254740992, got 9007199254740993',
    ],
    [(c) => c.integer("true", { ...layers, fallback: 1 }), `"true": expected ${int}, got true`],
    [(c) => c.integer("absent", layers), `"absent": expected ${int}, got no such field`],
    [(c) => c.integer("none", layers), `"none": expected ${int}, got null`],
    [(c) => c.number("nan", { above: 0, fallback: 1 }), '"nan": expected a finite number above 0, got NaN'],
    [(c) => c.number("inf", {}), '"inf": expected a finite number, got Infinity'],
    [(c) => c.number("big", { above: 0 }), '"big": expected a finite number above 0, got 1e400'],
    [(c) => c.number("zero", { above: 0 }), '"zero": expected a finite number above 0, got 0'],
    [
      (c) => c.number("negative", { min: 0, max: 1 }),
      '"negative": expected a finite number of at least 0 up to 1, got -1',
    ],
    [(c) => c.number("half", { max: 1 }), '"half": expected a finite number up to 1, got 2.5'],
    [(c) => c.number("text", {}), '"text": expected a finite number, got "2"'],
    [(c) => c.boolean("yes", false), '"yes": expected true or false, got "yes"'],
    [(c) => c.boolean("zero"), '"zero": expected true or false, got 0'],
    [(c) => c.string("zero"), '"zero": expected a string, got 0'],
    [(c) => c.oneOf("act", ["gelu", "relu"], "gelu"), '"act": expected one of "gelu", "relu", got "silu"'],
    [(c) => c.numbers("list", { length: 4 }), '"list": expected 4 finite numbers, got 3'],
    [(c) => c.numbers("list", { length: 3, above: 1 }), '"list": expected 3 finite numbers above 1, got 1 at index 0'],
    [(c) => c.numbers("holes", { length: 2 }), '"holes": expected 2 finite numbers, got null at index 1'],
    [(c) => c.numbers("zero", { length: 2 }), '"zero": expected 2 finite numbers, got 0'],
    [(c) => c.numbers("absent", { length: 2 }), '"absent": expected 2 finite numbers, got no such field'],
    [(c) => c.integers("ids", { min: 0, max: 250 }), '"ids": expected an integer from 0 to 250, got 251 at index 1'],
    [(c) => c.integers("negative", { min: 0, max: 250 }), '"negative": expected an integer from 0 to 250, got -1'],
    [(c) => c.strings("list"), '"list": expected a list of strings, got 1 at index 0'],
    [(c) => c.strings("act"), '"act": expected a list of strings, got "silu"'],
    [(c) => c.object("list"), '"list": expected an object, got [1, 2.5, 3]'],
    [
      (c) => c.object("rope")?.number("factor", { above: 0 }),
      'rope: "factor": expected a finite number above 0, got 0',
    ],
    [(c) => c.fail("a\u001b", "nothing"), '"a\\u001b": expected nothing, got no such field'],
  ];
  test.each(refused)("%s is refused", async (look, message) => {
    expect((await failure(() => look(read(text)))).message).toBe(`config.json: ${message}`);
  });
});

describe("what is said and asked", () => {
  test("a note is made once, with its file and object", () => {
    const config = read('{"rope": {"type": "x"}, "a": 1}');
    config.object("rope")?.note("type", "is not followed");
    config.object("rope")?.note("type", "is not followed");
    config.note("a\u001b", "neither");
    expect(config.notes).toEqual(['config.json: rope: "type" is not followed', 'config.json: "a\\u001b" neither']);
  });

  test("the fields that were asked for, also of a reader with another value", () => {
    const config = read('{"rope": {"type": "x"}, "a": 1, "b": 2}');
    config.object("rope")?.string("type");
    const other = config.with("a", true);
    expect(other.boolean("a")).toBe(true);
    expect(() => config.boolean("a")).toThrow("got 1");
    expect([...config.asked]).toEqual(["rope", "rope.type", "a"]);
  });

  test("integers as Python takes them", () => {
    const config = read('{"a": 50.0, "b": 5e1, "c": 50.5, "d": "50", "e": NaN, "f": -1, "g": true}');
    expect(["a", "b", "c", "d", "e", "f", "g", "h"].map((key) => config.wholeNumber(key))).toEqual([
      50,
      50,
      undefined,
      undefined,
      undefined,
      -1,
      undefined,
      undefined,
    ]);
  });
});
