/**
 * What `value.name` and `value[index]` give: keys, items, and the methods of Python's types. A method that changes a value
 * is out of reach, as in `transformers`' sandbox; one that Python has and we have not is refused by name.
 */
import { formatFields, type Lookup, padded } from "./format.ts";
import {
  blankRun,
  characters,
  concat,
  cut,
  cutCharacters,
  isStr,
  joined,
  lengthOf,
  madeOf,
  raw,
  recased,
  type Str,
  splitAt,
  stripped,
} from "./text.ts";
import {
  type Arguments,
  Dict,
  equal,
  Fault,
  func,
  Host,
  List,
  listOf,
  Markup,
  type Meter,
  missing,
  Namespace,
  numeric,
  orElse,
  Range,
  repr,
  small,
  text,
  truth,
  typeName,
  Undefined,
  unsupported,
  type Value,
} from "./values.ts";

/** A tuple whose two items have names, of `groupby`. */
export class Group extends List {
  constructor(grouper: Value, items: readonly Value[]) {
    super([grouper, new List(items)], true);
  }
}

/**
 * Arguments by position or name. `names` are those of the function, of which the first `required` must be given.
 * With `positionalOnly` the names cannot be used.
 */
export function bind(
  what: string,
  given: Arguments,
  names: readonly string[],
  required = 0,
  positionalOnly = false,
): readonly (Value | undefined)[] {
  if (given.positional.length > names.length) {
    throw new Fault(`${what}() takes at most ${names.length} arguments, got ${given.positional.length}`);
  }
  const bound: (Value | undefined)[] = [...given.positional];
  bound.length = names.length;
  for (const [name, value] of given.named) {
    const at = positionalOnly ? -1 : names.indexOf(name);
    if (at < 0) throw new Fault(`${what}() takes no argument "${name}"`);
    if (at < given.positional.length) throw new Fault(`${what}() got "${name}" twice`);
    bound[at] = value;
  }
  for (let i = 0; i < required; i++) {
    if (bound[i] === undefined) throw new Fault(`${what}() needs ${required} arguments`);
  }
  return bound;
}

// ---- strings ---------------------------------------------------------------------------------------------------------

/** The letters that have a third case, for titles. */
const titleLetters: Readonly<Record<string, string>> = {
  Ǆ: "\u01c5",
  ǆ: "\u01c5",
  Ǉ: "\u01c8",
  ǉ: "\u01c8",
  Ǌ: "\u01cb",
  ǌ: "\u01cb",
  Ǳ: "\u01f2",
  ǳ: "\u01f2",
};

/** One character with a capital, the rest of what it becomes in small letters. */
function titled(character: string): string {
  const letter = titleLetters[character];
  if (letter !== undefined) return letter;
  const [first = "", ...rest] = character.toUpperCase();
  return first + rest.join("").toLowerCase();
}

export function capitalized(value: Str): Str {
  const [first = ""] = raw(value);
  return recased(value, titled(first) + raw(value).slice(first.length).toLowerCase());
}

function titleCased(value: Str): Str {
  let wasCased = false;
  const parts = characters(value).map((part) => {
    const character = raw(part);
    const cased = wasCased ? character.toLowerCase() : titled(character);
    wasCased = /\p{Cased}/u.test(character);
    return recased(part, cased);
  });
  return concat(parts);
}

/** How often a part occurs, at most so often. Each takes memory of its own once the text is cut there. */
function occurrences(text: string, part: string, most: number): number {
  let count = 0;
  for (let at = text.indexOf(part); at >= 0 && count < most; at = text.indexOf(part, at + part.length)) count++;
  return count;
}

/** `str.replace`, all occurrences where `most` is negative. */
export function replaced(value: Str, from: Str, to: Str, most: number, meter: Meter): Str {
  const limit = most < 0 ? Number.POSITIVE_INFINITY : most;
  if (raw(from) === "") {
    // Before each character, and at the end.
    const each = characters(value);
    const count = Math.min(limit, each.length + 1);
    meter.charge(each.length);
    meter.size(raw(value).length + count * raw(to).length);
    return concat([...each, ""].flatMap((character, i) => (i < count ? [to, character] : [character])));
  }
  const found = occurrences(raw(value), raw(from), limit);
  meter.size(raw(value).length + found * raw(to).length);
  if (typeof value === "string" && typeof to === "string" && most < 0) return value.replaceAll(raw(from), () => to);
  meter.charge(found);
  const parts = splitAt(value, raw(from), limit);
  return joined(parts, to);
}

function splitBlanks(value: Str, most: number): Str[] {
  const parts: Str[] = [];
  let rest = stripped(value, null, true, false);
  while (raw(rest) !== "" && parts.length < most) {
    blankRun.lastIndex = 0;
    const gap = blankRun.exec(raw(rest));
    if (gap === null) break;
    parts.push(cut(rest, 0, gap.index));
    rest = cut(rest, gap.index + gap[0].length);
  }
  if (raw(rest) !== "") parts.push(rest);
  return parts;
}

function rsplitBlanks(value: Str, most: number): Str[] {
  const parts: Str[] = [];
  let rest = stripped(value, null, false, true);
  const gaps = [...raw(rest).matchAll(blankRun)].reverse();
  for (const gap of gaps) {
    if (parts.length >= most || gap.index === 0) break;
    parts.unshift(cut(rest, gap.index + gap[0].length));
    rest = cut(rest, 0, gap.index);
  }
  if (parts.length < most) rest = stripped(rest, null, true, false);
  if (raw(rest) !== "") parts.unshift(rest);
  return parts;
}

function rsplitAt(value: Str, separator: string, most: number): Str[] {
  const parts: Str[] = [];
  let end = raw(value).length;
  while (parts.length < most) {
    const at = end - separator.length < 0 ? -1 : raw(value).lastIndexOf(separator, end - separator.length);
    if (at < 0) break;
    parts.unshift(cut(value, at + separator.length, end));
    end = at;
  }
  parts.unshift(cut(value, 0, end));
  return parts;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: Python ends lines at three of them
const lineEnd = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/g;

export function splitLines(value: Str, keepEnds = false): Str[] {
  const lines: Str[] = [];
  let done = 0;
  for (const match of raw(value).matchAll(lineEnd)) {
    const end = match.index + match[0].length;
    lines.push(cut(value, done, keepEnds ? end : match.index));
    done = end;
  }
  if (done < raw(value).length) lines.push(cut(value, done));
  return lines;
}

/** Every character is of this kind, and there is one. */
function all(value: string, pattern: RegExp): boolean {
  return value !== "" && [...value].every((character) => pattern.test(character));
}

export function isLower(value: string): boolean {
  return /\p{Lowercase}/u.test(value) && !/[\p{Uppercase}\p{Lt}]/u.test(value);
}
export function isUpper(value: string): boolean {
  return /\p{Uppercase}/u.test(value) && !/[\p{Lowercase}\p{Lt}]/u.test(value);
}

function isTitle(value: string): boolean {
  let [wasCased, found] = [false, false];
  for (const character of value) {
    if (/[\p{Uppercase}\p{Lt}]/u.test(character)) {
      if (wasCased) return false;
      [wasCased, found] = [true, true];
    } else if (/\p{Lowercase}/u.test(character)) {
      if (!wasCased) return false;
      found = true;
    } else wasCased = false;
  }
  return found;
}

const digitCharacter =
  /[\p{Nd}\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u2080-\u2089\u2460-\u2468\u2474-\u247c\u2488-\u2490]/u;

/** `start` and `end` of find, count and startswith, as offsets in code points. */
function bounds(value: Str, start: Value | undefined, end: Value | undefined): readonly [number, number] {
  const size = lengthOf(value);
  const bound = (given: Value | undefined, otherwise: number): number => {
    if (given === undefined || given === null) return otherwise;
    const at = small(given, "an offset");
    return at < 0 ? Math.max(0, at + size) : at;
  };
  return [bound(start, 0), Math.min(size, bound(end, size))];
}

function count(what: string, given: Value | undefined): number {
  const most = given === undefined ? -1 : small(given, what);
  return most < 0 ? Number.POSITIVE_INFINITY : most;
}

type StringMethod = (value: Str, given: Arguments, meter: Meter) => Value;

function plain(what: string, method: (value: Str) => Value): StringMethod {
  return (value, given, meter) => {
    bind(what, given, []);
    meter.charge(raw(value).length / 100);
    return method(value);
  };
}

function strip(what: string, left: boolean, right: boolean): StringMethod {
  return (value, given) => {
    const [chars] = bind(what, given, ["chars"], 0, true);
    return stripped(value, chars === undefined || chars === null ? null : raw(text(chars, what)), left, right);
  };
}

function justify(what: string, align: "<" | ">" | "^"): StringMethod {
  return (value, given, meter) => {
    const [width = null, fill = " "] = bind(what, given, ["width", "fillchar"], 1, true);
    const character = text(fill, what);
    if (lengthOf(character) !== 1) throw new Fault(`${what}(): expected one character to fill with`);
    const wanted = small(width, what);
    if (align !== "^") return padded(value, wanted, align, character, meter);
    const gap = wanted - lengthOf(value);
    if (gap <= 0) return value;
    // As CPython shares out an odd gap.
    const left = Math.floor(gap / 2) + (gap & wanted & 1);
    return padded(padded(value, lengthOf(value) + left, ">", character, meter), wanted, "<", character, meter);
  };
}

function affix(what: string, atEnd: boolean): StringMethod {
  return (value, given) => {
    const [wanted = null, start, end] = bind(what, given, [what, "start", "end"], 1, true);
    const [from, to] = bounds(value, start, end);
    const options = wanted instanceof List && wanted.isTuple ? wanted.items : [wanted];
    const part = raw(cutCharacters(value, from, to));
    return options.some((option) => {
      const affixText = raw(text(option, what));
      return from <= to && (atEnd ? part.endsWith(affixText) : part.startsWith(affixText));
    });
  };
}

function find(what: string, last: boolean, mustBeThere: boolean): StringMethod {
  return (value, given, meter) => {
    const [wanted = null, start, end] = bind(what, given, ["sub", "start", "end"], 1, true);
    const [from, to] = bounds(value, start, end);
    const sub = raw(text(wanted, what));
    const part = from <= to ? raw(cutCharacters(value, from, to)) : undefined;
    meter.charge(raw(value).length / 1000);
    const at = part === undefined ? -1 : last ? part.lastIndexOf(sub) : part.indexOf(sub);
    if (at < 0 && mustBeThere) throw new Fault("substring not found");
    return BigInt(at < 0 ? -1 : from + lengthOf((part ?? "").slice(0, at)));
  };
}

function split(what: string, fromRight: boolean): StringMethod {
  return (value, given, meter) => {
    const [separator = null, most] = bind(what, given, ["sep", "maxsplit"]);
    const limit = count(what, most);
    let parts: Str[];
    if (separator === null) {
      meter.charge(raw(value).length / 2);
      parts = fromRight ? rsplitBlanks(value, limit) : splitBlanks(value, limit);
    } else {
      const wanted = raw(text(separator, what));
      if (wanted === "") throw new Fault("empty separator");
      meter.charge(occurrences(raw(value), wanted, limit));
      parts = fromRight ? rsplitAt(value, wanted, limit) : splitAt(value, wanted, limit);
    }
    return new List(parts);
  };
}

function partition(what: string, last: boolean): StringMethod {
  return (value, given) => {
    const [separator = null] = bind(what, given, ["sep"], 1, true);
    const wanted = raw(text(separator, what));
    if (wanted === "") throw new Fault("empty separator");
    const at = last ? raw(value).lastIndexOf(wanted) : raw(value).indexOf(wanted);
    if (at < 0) return new List(last ? ["", "", value] : [value, "", ""], true);
    const end = at + wanted.length;
    return new List([cut(value, 0, at), cut(value, at, end), cut(value, end)], true);
  };
}

function removeAffix(what: string, atEnd: boolean): StringMethod {
  return (value, given) => {
    const [wanted = null] = bind(what, given, [what], 1, true);
    const part = raw(text(wanted, what));
    const whole = raw(value);
    if (part === "" || !(atEnd ? whole.endsWith(part) : whole.startsWith(part))) return value;
    return atEnd ? cut(value, 0, whole.length - part.length) : cut(value, part.length);
  };
}

const stringMethods: Readonly<Record<string, StringMethod>> = {
  upper: plain("upper", (value) => recased(value, raw(value).toUpperCase())),
  lower: plain("lower", (value) => recased(value, raw(value).toLowerCase())),
  capitalize: plain("capitalize", capitalized),
  title: plain("title", titleCased),
  swapcase: plain("swapcase", (value) =>
    concat(
      characters(value).map((part) => {
        const character = raw(part);
        return recased(part, isUpper(character) ? character.toLowerCase() : character.toUpperCase());
      }),
    ),
  ),
  isalpha: plain("isalpha", (value) => all(raw(value), /\p{L}/u)),
  isdecimal: plain("isdecimal", (value) => all(raw(value), /\p{Nd}/u)),
  isdigit: plain("isdigit", (value) => all(raw(value), digitCharacter)),
  isnumeric: plain("isnumeric", (value) => all(raw(value), /\p{N}/u)),
  isalnum: plain("isalnum", (value) => all(raw(value), /[\p{L}\p{N}]/u)),
  isspace: plain("isspace", (value) => raw(value) !== "" && raw(stripped(value, null, true, false)) === ""),
  islower: plain("islower", (value) => isLower(raw(value))),
  isupper: plain("isupper", (value) => isUpper(raw(value))),
  istitle: plain("istitle", (value) => isTitle(raw(value))),
  isascii: plain("isascii", (value) => [...raw(value)].every((character) => character <= "\x7f")),
  isidentifier: plain("isidentifier", (value) => /^[\p{ID_Start}_]\p{ID_Continue}*$/u.test(raw(value))),
  isprintable: plain("isprintable", (value) => !/[^\P{C}]|[^\P{Z} ]/u.test(raw(value))),
  strip: strip("strip", true, true),
  lstrip: strip("lstrip", true, false),
  rstrip: strip("rstrip", false, true),
  split: split("split", false),
  rsplit: split("rsplit", true),
  splitlines: (value, given) => {
    const [keepEnds = false] = bind("splitlines", given, ["keepends"]);
    return new List(splitLines(value, truth(keepEnds)));
  },
  replace: (value, given, meter) => {
    const [from = null, to = null, most] = bind("replace", given, ["old", "new", "count"], 2);
    const limit = most === undefined ? -1 : small(most, "replace");
    return replaced(value, text(from, "replace"), text(to, "replace"), limit, meter);
  },
  startswith: affix("startswith", false),
  endswith: affix("endswith", true),
  removeprefix: removeAffix("removeprefix", false),
  removesuffix: removeAffix("removesuffix", true),
  partition: partition("partition", false),
  rpartition: partition("rpartition", true),
  find: find("find", false, false),
  rfind: find("rfind", true, false),
  index: find("index", false, true),
  rindex: find("rindex", true, true),
  count: (value, given, meter) => {
    const [wanted = null, start, end] = bind("count", given, ["sub", "start", "end"], 1, true);
    const [from, to] = bounds(value, start, end);
    const sub = raw(text(wanted, "count"));
    meter.charge(raw(value).length / 1000);
    if (from > to) return 0n;
    const part = cutCharacters(value, from, to);
    return BigInt(sub === "" ? lengthOf(part) + 1 : raw(part).split(sub).length - 1);
  },
  join: (value, given, meter) => {
    const [items = null] = bind("join", given, ["iterable"], 1, true);
    return join(value, listOf(items, meter), meter);
  },
  center: justify("center", "^"),
  ljust: justify("ljust", "<"),
  rjust: justify("rjust", ">"),
  zfill: (value, given, meter) => {
    const [width = null] = bind("zfill", given, ["width"], 1, true);
    const gap = small(width, "zfill") - lengthOf(value);
    if (gap <= 0) return value;
    meter.size(gap);
    const sign = /^[+-]/.test(raw(value)) ? 1 : 0;
    return concat([cut(value, 0, sign), "0".repeat(gap), cut(value, sign)]);
  },
  expandtabs: (value, given, meter) => {
    const [size = 8n] = bind("expandtabs", given, ["tabsize"]);
    const width = small(size, "expandtabs");
    meter.size(raw(value).length * Math.max(1, width));
    let column = 0;
    return concat(
      characters(value).map((part) => {
        const character = raw(part);
        if (character === "\t") {
          const gap = width > 0 ? width - (column % width) : 0;
          column += gap;
          return madeOf(" ".repeat(gap), part);
        }
        column = character === "\n" || character === "\r" ? 0 : column + 1;
        return part;
      }),
    );
  },
  format: (value, given, meter) => formatFields(value, given, lookupWith(meter), meter),
  format_map: (value, given, meter) => {
    const [mapping = null] = bind("format_map", given, ["mapping"], 1, true);
    if (!(mapping instanceof Dict)) throw new Fault("format_map() takes a mapping");
    const named = new Map(mapping.entries().map(([key, item]) => [raw(text(key, "format_map")), item]));
    return formatFields(value, { positional: [], named }, lookupWith(meter), meter);
  },
};

/** `separator.join(items)`, where every item must be a string. */
export function join(separator: Str, items: readonly Value[], meter: Meter): Str {
  const strings = items.map((item) => text(item, "join"));
  let size = raw(separator).length * Math.max(0, strings.length - 1);
  for (const part of strings) size += raw(part).length;
  meter.size(size);
  return joined(strings, separator);
}

// ---- attributes and items --------------------------------------------------------------------------------------------

/** Names that Python's types have and templates cannot reach here: those that change a value, and those we lack. */
const changing: Readonly<Record<string, readonly string[]>> = {
  dict: ["clear", "pop", "popitem", "setdefault", "update"],
  list: ["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"],
};
const lacking: Readonly<Record<string, readonly string[]>> = {
  str: ["casefold", "encode", "maketrans", "translate"],
  dict: ["fromkeys"],
  int: ["as_integer_ratio", "bit_count", "conjugate", "from_bytes", "to_bytes"],
  bool: ["as_integer_ratio", "bit_count", "conjugate", "from_bytes", "to_bytes"],
  float: ["as_integer_ratio", "conjugate", "fromhex", "hex"],
  range: ["index", "count"],
};

/** A dict's keys, values or items: gone through again and again, without an index. */
function view(name: string, items: () => readonly Value[]): Host {
  return new Host(name, {
    items,
    shown: (meter, depth) => concat([`${name}(`, repr(new List(items()), meter, depth + 1), ")"]),
  });
}

function search(what: string, value: List, meter: Meter): Value {
  return func(what, (given) => {
    const [wanted = null, ...rest] = bind(what, given, ["value", "start", "stop"], 1, true);
    if (rest.some((bound) => bound !== undefined)) throw unsupported(`${what}() with bounds`);
    const found = value.items.map((item, i) => (equal(item, wanted, meter) ? i : -1)).filter((i) => i >= 0);
    if (what === "count") return BigInt(found.length);
    if (found[0] === undefined) throw new Fault("index(): the value is not in the list");
    return BigInt(found[0]);
  });
}

/** What Python itself has under this name, or undefined. */
function own(object: Value, name: string, meter: Meter): Value | undefined {
  const kind = typeName(object);
  if (changing[kind]?.includes(name)) {
    return new Undefined(`access to attribute "${name}" of a ${kind} is unsafe: it would change the value`);
  }
  if (lacking[kind]?.includes(name)) throw unsupported(`"${name}" of a ${kind}`);
  if (isStr(object)) {
    const method = stringMethods[name];
    if (method === undefined || !Object.hasOwn(stringMethods, name)) return undefined;
    return func(name, (given) => method(object, given, meter));
  }
  if (object instanceof Markup) throw unsupported(`"${name}" of a text made by safe or escape`);
  if (object instanceof Dict) {
    switch (name) {
      case "get":
        return func(name, (given) => {
          const [key = null, otherwise = null] = bind(name, given, ["key", "default"], 1, true);
          return orElse(object.get(key), () => otherwise);
        });
      case "keys":
        return func(name, (given) => {
          bind(name, given, []);
          return view("dict_keys", () => object.keys());
        });
      case "values":
        return func(name, (given) => {
          bind(name, given, []);
          return view("dict_values", () => object.entries().map(([, value]) => value));
        });
      case "items":
        return func(name, (given) => {
          bind(name, given, []);
          return view("dict_items", () => object.entries().map((pair) => new List(pair, true)));
        });
      case "copy":
        return func(name, (given) => {
          bind(name, given, []);
          return new Dict(object.entries());
        });
      default:
        return undefined;
    }
  }
  if (object instanceof List) {
    if (object instanceof Group && name === "grouper") return object.items[0];
    if (object instanceof Group && name === "list") return object.items[1];
    if (name === "index" || name === "count") return search(name, object, meter);
    if (name === "copy" && !object.isTuple) {
      return func(name, (given) => {
        bind(name, given, []);
        return new List(object.items);
      });
    }
    return undefined;
  }
  if (object instanceof Range && (name === "start" || name === "stop" || name === "step")) return object[name];
  const number = numeric(object);
  if (number !== undefined) {
    if (name === "real") return number;
    if (name === "imag") return typeof number === "bigint" ? 0n : 0;
    if (typeof number === "bigint") {
      if (name === "numerator") return number;
      if (name === "denominator") return 1n;
      if (name === "bit_length") {
        return func(name, () => BigInt(number === 0n ? 0 : (number < 0n ? -number : number).toString(2).length));
      }
    } else if (name === "is_integer") return func(name, () => Number.isInteger(number));
    return undefined;
  }
  if (object instanceof Host) return object.parts.attribute?.(name);
  return undefined;
}

function nothing(object: Value, name: string): Undefined {
  return new Undefined(`'${object === null ? "None" : `${typeName(object)} object`}' has no attribute '${name}'`);
}

const dunder = /^__\w+__$/;

/** `object.name`: Python's own attribute first, then the key. */
export function attribute(object: Value, name: string, meter: Meter): Value {
  if (object instanceof Undefined) throw missing(object);
  if (object instanceof Namespace) {
    return name.startsWith("_")
      ? nothing(object, name)
      : orElse(object.attributes.get(name), () => nothing(object, name));
  }
  if (!name.startsWith("_")) {
    const value = own(object, name, meter);
    if (value !== undefined) return value;
  }
  if (object instanceof Dict) {
    const value = object.get(name);
    if (value !== undefined && dunder.test(name)) throw unsupported(`the key "${name}"`);
    if (value !== undefined) return value;
  }
  return nothing(object, name);
}

/** `object[index]`: the key or item first, then Python's own attribute. */
export function item(object: Value, index: Value, meter: Meter): Value {
  if (object instanceof Undefined) throw missing(object);
  if (object instanceof Dict) {
    const isHashable = !(index instanceof List && !index.isTuple) && !(index instanceof Dict);
    const value = isHashable ? object.get(index) : undefined;
    if (value !== undefined) return value;
  } else if (isStr(object) || object instanceof List || object instanceof Range) {
    const number = numeric(index);
    if (typeof number === "bigint") {
      const size = isStr(object) ? lengthOf(object) : object instanceof List ? object.items.length : object.length;
      const at = Number(number < 0n ? number + BigInt(size) : number);
      if (at < 0 || at >= size) return new Undefined(`${typeName(object)} object has no element ${number}`);
      if (object instanceof List) return object.items[at] ?? null;
      return isStr(object) ? cutCharacters(object, at, at + 1) : object.at(at);
    }
  } else if (object instanceof Markup) throw unsupported("an item of a text made by safe or escape");
  if (!isStr(index)) return new Undefined(`${typeName(object)} object has no such element`);
  const name = raw(index);
  if (object instanceof Namespace) return attribute(object, name, meter);
  return orElse(name.startsWith("_") ? undefined : own(object, name, meter), () => nothing(object, name));
}

/** `object[start:stop:step]`. */
export function sliced(object: Value, parts: readonly (Value | null)[], meter: Meter): Value {
  if (object instanceof Undefined) throw missing(object);
  if (object instanceof Markup) throw unsupported("a slice of a text made by safe or escape");
  if (!(isStr(object) || object instanceof List || object instanceof Range)) {
    // Jinja makes nothing of it where all is constant, and fails elsewhere.
    throw unsupported(`a slice of a ${typeName(object)}`);
  }
  const size = isStr(object) ? lengthOf(object) : object instanceof List ? object.items.length : object.length;
  const [first, second, third] = parts.map((part) => (part === null ? null : small(part, "a slice")));
  const step = third ?? 1;
  if (step === 0) throw new Fault("slice step cannot be zero");
  const clamp = (given: number | null | undefined, otherwise: number): number => {
    if (given === null || given === undefined) return otherwise;
    const at = given < 0 ? given + size : given;
    return step > 0 ? Math.min(Math.max(at, 0), size) : Math.min(Math.max(at, -1), size - 1);
  };
  const start = clamp(first, step > 0 ? 0 : size - 1);
  const stop = clamp(second, step > 0 ? size : -1);
  if (isStr(object) && step === 1) return start < stop ? cutCharacters(object, start, stop) : "";
  if (object instanceof Range) {
    return new Range(
      object.start + BigInt(start) * object.step,
      object.start + BigInt(stop) * object.step,
      object.step * BigInt(step),
    );
  }
  const indices: number[] = [];
  for (let i = start; step > 0 ? i < stop : i > stop; i += step) indices.push(i);
  meter.charge(indices.length);
  if (isStr(object)) {
    const each = characters(object);
    return concat(indices.map((i) => each[i] ?? ""));
  }
  return new List(
    indices.map((i) => object.items[i] ?? null),
    object.isTuple,
  );
}

function lookupWith(meter: Meter): Lookup {
  return {
    attribute: (object, name) => attribute(object, name, meter),
    item: (object, index) => item(object, index, meter),
  };
}
