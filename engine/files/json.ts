/**
 * Strict JSON (RFC 8259) from bytes. `JSON.parse` keeps the last of duplicate keys, rounds 2^53 + 1 and reads `2.0`,
 * `2e0` and `-0` as integers; `TextDecoder` drops a byte order mark. A checkpoint must not mean two things to two
 * readers, so here all of these can be told apart or are refused, with the place.
 */

import { PhiError, printable } from "../errors.ts";

/** A number as it was written, e.g. `2.0`, `-0`, `9007199254740993` (or `NaN` where the options allow it). */
export interface JsonNumber {
  readonly token: string;
}

export type JsonObject = ReadonlyMap<string, Json>;

/** A parsed value. Objects are Maps, so that a key `__proto__` is a key like any other. */
export type Json = null | boolean | string | JsonNumber | readonly Json[] | JsonObject;

export interface JsonOptions {
  /** What error messages name. */
  readonly file: string;
  /** Where the text begins in its file, added to the byte offsets in messages. Default 0. */
  readonly offsetBytes?: number;
  /** Accept the literals `NaN`, `Infinity` and `-Infinity`, which Python's `json` writes. Default false. */
  readonly nonFinite?: boolean;
}

/** Where `readMembers` puts what it reads; a `Map<string, Json>` is one. */
export interface Members {
  has(name: string): boolean;
  set(name: string, value: Json): unknown;
}

/** Deeper texts are refused, so that no input overflows the stack. */
const maxDepth = 100;
/** Half a million tensors have so many in a header (the published index with the most has 497,000); each takes 100 bytes. */
const maxValues = 4_000_000;

const quote = 0x22;
const backslash = 0x5c;
const escapes: Readonly<Record<string, string>> = {
  '"': '"',
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
};

/** Parses one JSON value that fills `text`. Throws a PhiError "checkpoint" that gives line, column and byte offset. */
export function parseJson(text: Uint8Array, options: JsonOptions): Json {
  const parse = parser(text, options);
  parse.start();
  const root = parse.value(0);
  parse.end();
  return root;
}

/**
 * Parses a text whose root is an object and hands over its members one by one, so that a header of 100 MB need not
 * stand in memory as a tree. `into.has` decides what is a duplicate. Errors as in `parseJson`.
 */
export function readMembers(text: Uint8Array, options: JsonOptions, into: Members): void {
  const parse = parser(text, options);
  parse.start();
  parse.object(1, into);
  parse.end();
}

export function isObject(value: Json | undefined): value is JsonObject {
  return value instanceof Map;
}

export function isList(value: Json | undefined): value is readonly Json[] {
  return Array.isArray(value);
}

export function isNumber(value: Json | undefined): value is JsonNumber {
  return typeof value === "object" && value !== null && "token" in value;
}

/** The integer that `value` is written as, or undefined: `2.0`, `2e0`, `-0` and anything beyond ±(2^53 - 1) are not one. */
export function exactInteger(value: Json | undefined): number | undefined {
  if (!isNumber(value) || !/^(?:0|-?[1-9][0-9]{0,15})$/.test(value.token)) return undefined;
  const integer = Number(value.token);
  return Number.isSafeInteger(integer) ? integer : undefined;
}

/** A value as an error message shows it: short, on one line, safe to print. */
export function describe(value: Json | undefined): string {
  if (value === undefined) return "nothing";
  if (typeof value === "string") return `"${printable(value)}"`;
  if (isNumber(value)) return printable(value.token);
  if (isObject(value)) return "an object";
  if (isList(value)) {
    const isShort = value.length <= 8 && value.every((item) => !isList(item) && !isObject(item));
    return isShort ? printable(`[${value.map(describe).join(", ")}]`) : `a list of ${value.length}`;
  }
  return String(value);
}

function parser(text: Uint8Array, { file, offsetBytes = 0, nonFinite = false }: JsonOptions) {
  // Without ignoreBOM a U+FEFF at the start of a string would be dropped.
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  /** Names of the members that are being read, outermost first, for messages. */
  const path: string[] = [];
  let at = 0;
  let values = 0;

  function fail(expected: string, position = at, got = show(text, position)): never {
    let line = 1;
    let lineStart = 0;
    for (let end = text.indexOf(0x0a); end !== -1 && end < position; end = text.indexOf(0x0a, lineStart)) {
      line++;
      lineStart = end + 1;
    }
    let column = 1;
    for (let i = lineStart; i < position; i++) if (((text[i] ?? 0) & 0xc0) !== 0x80) column++;
    const inside = path.length > 0 ? `, in ${path.map((name) => `"${printable(name)}"`).join(" ")}` : "";
    const place = `line ${line}, column ${column} (byte ${offsetBytes + position})${inside.slice(0, 200)}`;
    throw new PhiError("checkpoint", `${printable(file)}: ${place}: expected ${expected}, got ${got}`);
  }

  function skipBlanks(): void {
    // A local variable: this loop may run over 100 MB.
    let next = at;
    for (;;) {
      const byte = text[next] ?? 0;
      if (byte > 0x20 || (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09)) break;
      next++;
    }
    at = next;
  }

  function start(): void {
    if (text[0] === 0xef && text[1] === 0xbb && text[2] === 0xbf) fail("JSON", 0, "a byte order mark");
    if ((text[0] === 0xff && text[1] === 0xfe) || (text[0] === 0xfe && text[1] === 0xff)) {
      fail("JSON in UTF-8", 0, "UTF-16");
    }
  }

  function end(): void {
    skipBlanks();
    if (at < text.length) fail("the end of the JSON text");
  }

  function value(depth: number): Json {
    skipBlanks();
    if (++values > maxValues) fail(`at most ${maxValues} values`, at, "more");
    switch (text[at]) {
      case 0x7b: {
        const members = new Map<string, Json>();
        object(depth + 1, members);
        return members;
      }
      case 0x5b:
        return list(depth + 1);
      case quote:
        return string();
      default:
        return literal("true") ? true : literal("false") ? false : literal("null") ? null : number();
    }
  }

  function literal(word: string): boolean {
    for (let i = 0; i < word.length; i++) if (text[at + i] !== word.charCodeAt(i)) return false;
    at += word.length;
    return true;
  }

  function enter(depth: number): void {
    if (depth > maxDepth) fail(`at most ${maxDepth} levels`, at, "a deeper one");
    at++;
    skipBlanks();
  }

  function object(depth: number, into: Members): void {
    skipBlanks();
    if (text[at] !== 0x7b) fail('an object that begins with "{"');
    enter(depth);
    if (text[at] === 0x7d) {
      at++;
      return;
    }
    for (;;) {
      skipBlanks();
      const nameAt = at;
      if (text[at] !== quote) fail("a name in double quotes");
      const name = string();
      if (into.has(name)) fail("each name once", nameAt, `"${printable(name)}" again`);
      skipBlanks();
      if (text[at] !== 0x3a) fail(`":" after the name "${printable(name)}"`);
      at++;
      path.push(name);
      const member = value(depth);
      path.pop();
      into.set(name, member);
      skipBlanks();
      const byte = text[at];
      if (byte !== 0x2c && byte !== 0x7d) fail('"," or "}"');
      at++;
      if (byte === 0x7d) return;
    }
  }

  function list(depth: number): Json[] {
    enter(depth);
    const items: Json[] = [];
    if (text[at] === 0x5d) {
      at++;
      return items;
    }
    for (;;) {
      items.push(value(depth));
      skipBlanks();
      const byte = text[at];
      if (byte !== 0x2c && byte !== 0x5d) fail('"," or "]"');
      at++;
      if (byte === 0x5d) return items;
    }
  }

  function digits(): void {
    if (!isDigit(text[at])) fail("a digit");
    while (isDigit(text[at])) at++;
  }

  function number(): JsonNumber {
    const begin = at;
    if (nonFinite) {
      for (const word of ["NaN", "Infinity", "-Infinity"]) if (literal(word)) return { token: word };
    }
    if (text[at] === 0x2d) at++;
    else if (!isDigit(text[at])) fail("a value");
    // A zero is followed by no digit: 016 stops here and fails at the 1.
    if (text[at] === 0x30) at++;
    else digits();
    if (text[at] === 0x2e) {
      at++;
      digits();
    }
    if (text[at] === 0x65 || text[at] === 0x45) {
      at++;
      if (text[at] === 0x2b || text[at] === 0x2d) at++;
      digits();
    }
    return { token: decode(begin, true) };
  }

  function decode(begin: number, isAscii: boolean): string {
    const bytes = text.subarray(begin, at);
    // For short names this is several times faster than the decoder.
    if (isAscii && bytes.length < 256) return String.fromCharCode.apply(undefined, bytes as unknown as number[]);
    try {
      return decoder.decode(bytes);
    } catch {
      fail("UTF-8", begin + invalidUtf8(bytes));
    }
  }

  function string(): string {
    let result = "";
    let begin = ++at;
    let isAscii = true;
    for (;;) {
      const byte = text[at];
      if (byte === quote) {
        const last = decode(begin, isAscii);
        at++;
        return result === "" ? last : result + last;
      }
      if (byte === backslash) {
        result += decode(begin, isAscii) + escaped();
        begin = at;
        isAscii = true;
      } else if (byte === undefined || byte < 0x20) {
        fail(byte === undefined ? "a closing quote" : "no control character in a string");
      } else {
        if (byte >= 0x80) isAscii = false;
        at++;
      }
    }
  }

  function escaped(): string {
    const begin = at;
    const letter = String.fromCharCode(text[at + 1] ?? 0);
    if (letter !== "u") {
      const char = escapes[letter];
      if (char === undefined) fail("an escape such as \\n or \\u0041");
      at += 2;
      return char;
    }
    const unit = codeUnit();
    if (unit < 0xd800 || unit > 0xdfff) return String.fromCharCode(unit);
    if (unit < 0xdc00 && text[at] === backslash && text[at + 1] === 0x75) {
      const low = codeUnit();
      if (low >= 0xdc00 && low <= 0xdfff) return String.fromCharCode(unit, low);
    }
    fail("a pair of surrogates", begin, `\\u${unit.toString(16)} alone`);
  }

  /** Reads `\uXXXX` at the position. */
  function codeUnit(): number {
    let unit = 0;
    for (let i = 2; i < 6; i++) {
      const digit = Number.parseInt(String.fromCharCode(text[at + i] ?? 0), 16);
      if (Number.isNaN(digit)) fail("four hexadecimal digits", at + i);
      unit = unit * 16 + digit;
    }
    at += 6;
    return unit;
  }

  return { start, value, object, end };
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x30 && byte <= 0x39;
}

/** What stands at a position, for a message: a word, a character, a byte or the end. */
function show(text: Uint8Array, position: number): string {
  const first = text[position];
  if (first === undefined) return "the end";
  if (first < 0x20 || first >= 0x7f) return `byte 0x${first.toString(16).padStart(2, "0")}`;
  let end = position + 1;
  const isWord = (byte: number | undefined) => byte !== undefined && /[A-Za-z0-9_.+-]/.test(String.fromCharCode(byte));
  if (isWord(first)) while (end - position < 20 && isWord(text[end])) end++;
  return `"${String.fromCharCode(...text.subarray(position, end))}"`;
}

/** The offset of the first sequence that is not well-formed UTF-8 (Unicode 15, table 3-7). `bytes` is known to hold one. */
function invalidUtf8(bytes: Uint8Array): number {
  let at = 0;
  while (at < bytes.length) {
    const lead = bytes[at] ?? 0;
    const length = lead < 0x80 ? 1 : lead >= 0xc2 && lead < 0xe0 ? 2 : (lead & 0xf0) === 0xe0 ? 3 : 4;
    if ((lead >= 0x80 && lead < 0xc2) || lead > 0xf4) return at;
    for (let i = 1; i < length; i++) {
      const byte = bytes[at + i] ?? 0;
      // The second byte's range excludes overlong forms, surrogates and code points above U+10FFFF.
      const low = i > 1 ? 0x80 : lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
      const high = i > 1 ? 0xbf : lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
      if (byte < low || byte > high) return at;
    }
    at += length;
  }
  return at;
}
