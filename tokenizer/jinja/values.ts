/**
 * The values of a template, as Python has them: an int is a bigint, a float a number, a string a `Str`, None null.
 * What they print, how they compare, and how they are written as JSON.
 */
import { characters, compareText, concat, isStr, lengthOf, raw, replacing, type Str, type Text } from "./text.ts";

export type Value =
  | null
  | boolean
  | bigint
  | number
  | string
  | Text
  | Undefined
  | Markup
  | List
  | Dict
  | Namespace
  | Range
  | Iter
  | Host;

/** A failure of the template or of what it was given. Whoever runs it knows the place. */
export class Fault extends Error {}

/** What is not there. Printing it gives nothing, nearly everything else fails. */
export class Undefined {
  readonly why: string;
  constructor(why: string) {
    this.why = why;
  }
}

/** A text made by `safe` or `escape`: it can be printed, and what else it would do is refused. */
export class Markup {
  readonly text: Str;
  constructor(text: Str) {
    this.text = text;
  }
}

export class List {
  readonly items: readonly Value[];
  readonly isTuple: boolean;
  constructor(items: readonly Value[], isTuple = false) {
    this.items = items;
    this.isTuple = isTuple;
  }
}

export class Dict {
  readonly #entries = new Map<string, readonly [Value, Value]>();

  constructor(entries: Iterable<readonly [Value, Value]> = []) {
    for (const [key, value] of entries) this.set(key, value);
  }
  get size(): number {
    return this.#entries.size;
  }
  /** Only for building: a template cannot change a dict. */
  set(key: Value, value: Value): void {
    const hash = hashOf(key);
    this.#entries.set(hash, [this.#entries.get(hash)?.[0] ?? key, value]);
  }
  get(key: Value): Value | undefined {
    return this.#entries.get(hashOf(key))?.[1];
  }
  entries(): readonly (readonly [Value, Value])[] {
    return [...this.#entries.values()];
  }
  keys(): readonly Value[] {
    return this.entries().map(([key]) => key);
  }
}

/** The one value that changes. */
export class Namespace {
  readonly attributes = new Map<string, Value>();
}

export class Range {
  readonly start: bigint;
  readonly stop: bigint;
  readonly step: bigint;
  readonly length: number;
  constructor(start: bigint, stop: bigint, step: bigint) {
    if (step === 0n) throw new Fault("range() takes a step other than 0");
    this.start = start;
    this.stop = stop;
    this.step = step;
    const span = step > 0n ? stop - start : start - stop;
    const size = step > 0n ? step : -step;
    const length = span <= 0n ? 0n : (span + size - 1n) / size;
    if (length > BigInt(budget.range)) throw new Fault(`range() makes at most ${budget.range} numbers, not ${length}`);
    this.length = Number(length);
  }
  at(index: number): bigint {
    return this.start + BigInt(index) * this.step;
  }
}

/** What can be gone through once, as Python's generators. */
export class Iter {
  readonly typeName: string;
  readonly #source: Iterator<Value>;
  constructor(typeName: string, source: Iterable<Value>) {
    this.typeName = typeName;
    this.#source = source[Symbol.iterator]();
  }
  /** The next value, or undefined at the end. */
  next(): Value | undefined {
    const { done, value } = this.#source.next();
    return done === true ? undefined : value;
  }
}

export type Arguments = { readonly positional: readonly Value[]; readonly named: ReadonlyMap<string, Value> };

/** A function, a method, a macro, a dict's view, `loop`: known by what can be done with it. */
export interface HostParts {
  readonly call?: (given: Arguments) => Value;
  readonly attribute?: (name: string) => Value | undefined;
  /** What it is made of, where it can be gone through again and again. */
  readonly items?: () => readonly Value[];
  /** How it prints; without, printing is refused. */
  readonly shown?: (meter: Meter, depth: number) => Str;
}
export class Host {
  readonly typeName: string;
  readonly parts: HostParts;
  constructor(typeName: string, parts: HostParts) {
    this.typeName = typeName;
    this.parts = parts;
  }
}

export function func(name: string, call: (given: Arguments) => Value): Host {
  return new Host("function", { call, attribute: (wanted) => (wanted === "__name__" ? name : undefined) });
}

// ---- what a template may cost ----------------------------------------------------------------------------------------

export const budget = {
  steps: 1_000_000,
  milliseconds: 2000,
  depth: 200,
  /** Characters of the rendering, and of any value on the way. */
  characters: 10_000_000,
  /** As in Jinja's own sandbox. */
  range: 100_000,
  templateCharacters: 2 ** 20,
} as const;

/** Counts what a rendering costs. */
export class Meter {
  #steps = 0;
  #checked = 0;
  readonly #started = performance.now();

  charge(steps: number): void {
    this.#steps += steps;
    if (this.#steps > budget.steps) throw exceeded(`${budget.steps} steps`);
    if (this.#steps - this.#checked < 64) return;
    this.#checked = this.#steps;
    if (performance.now() - this.#started > budget.milliseconds) throw exceeded(`${budget.milliseconds / 1000} s`);
  }
  /** Before a value of as many characters, or a list of as many items, is made. */
  size(characters: number): void {
    if (!(characters <= budget.characters)) throw exceeded(`${budget.characters} characters in one value`);
    this.charge(characters / 1000);
  }
  depth(depth: number): void {
    if (depth > budget.depth) throw exceeded(`nesting of ${budget.depth}`);
  }
}

function exceeded(what: string): Fault {
  return new Fault(`the template takes more than its budget of ${what}`);
}

/** A value, or another where there is none: None is one. */
export function orElse(value: Value | undefined, otherwise: () => Value): Value {
  return value === undefined ? otherwise() : value;
}

// ---- kinds -----------------------------------------------------------------------------------------------------------

export function typeName(value: Value): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "bigint") return "int";
  if (typeof value === "number") return "float";
  if (isStr(value)) return "str";
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof Markup) return "Markup";
  if (value instanceof List) return value.isTuple ? "tuple" : "list";
  if (value instanceof Dict) return "dict";
  if (value instanceof Namespace) return "Namespace";
  if (value instanceof Range) return "range";
  return value.typeName;
}

/** What an operation says of a value that is not there. */
export function missing(value: Undefined): Fault {
  return new Fault(value.why);
}

export function unsupported(what: string): Fault {
  return new Fault(`${what} is not supported`);
}

export function truth(value: Value): boolean {
  if (typeof value === "bigint") return value !== 0n;
  if (typeof value === "number") return value !== 0;
  if (typeof value === "boolean") return value;
  if (value === null || value instanceof Undefined) return false;
  if (isStr(value)) return raw(value) !== "";
  if (value instanceof Markup) return raw(value.text) !== "";
  if (value instanceof List) return value.items.length > 0;
  if (value instanceof Dict) return value.size > 0;
  if (value instanceof Range) return value.length > 0;
  if (value instanceof Host && value.parts.items) return value.parts.items().length > 0;
  return true;
}

/** The value as a number of Python's: bool is an int. */
export function numeric(value: Value): bigint | number | undefined {
  if (typeof value === "boolean") return value ? 1n : 0n;
  return typeof value === "bigint" || typeof value === "number" ? value : undefined;
}

/** An int that fits in a JavaScript number, for lengths and offsets. */
export function small(value: Value, what: string): number {
  const number = numeric(value);
  if (typeof number !== "bigint") {
    if (value instanceof Undefined) throw missing(value);
    throw new Fault(`${what}: expected an int, got ${typeName(value)}`);
  }
  const limit = 2n ** 53n;
  return Number(number > limit ? limit : number < -limit ? -limit : number);
}

export function text(value: Value, what: string): Str {
  if (isStr(value)) return value;
  if (value instanceof Markup) throw unsupported(`${what} of a text made by safe or escape`);
  if (value instanceof Undefined) throw missing(value);
  throw new Fault(`${what}: expected a string, got ${typeName(value)}`);
}

/** Goes through a value as `for` does. */
export function* iterate(value: Value): Generator<Value, void, undefined> {
  if (value instanceof Undefined) return;
  if (value instanceof List) yield* value.items;
  else if (typeof value === "string") yield* value;
  else if (isStr(value)) yield* characters(value);
  else if (value instanceof Dict) yield* value.keys();
  else if (value instanceof Range) for (let i = 0; i < value.length; i++) yield value.at(i);
  else if (value instanceof Iter) {
    for (let next = value.next(); next !== undefined; next = value.next()) yield next;
  } else if (value instanceof Host && value.parts.items) yield* value.parts.items();
  else if (value instanceof Markup) throw unsupported("going through a text made by safe or escape");
  else throw new Fault(`'${typeName(value) === "None" ? "NoneType" : typeName(value)}' object is not iterable`);
}

export function isIterable(value: Value): boolean {
  return (
    value instanceof Undefined ||
    value instanceof List ||
    value instanceof Dict ||
    value instanceof Range ||
    value instanceof Iter ||
    value instanceof Markup ||
    isStr(value) ||
    (value instanceof Host && value.parts.items !== undefined)
  );
}

/** All values of an iterable, at the cost of their number. */
export function listOf(value: Value, meter: Meter): readonly Value[] {
  const items: Value[] = [];
  for (const item of iterate(value)) {
    meter.charge(1);
    items.push(item);
  }
  return items;
}

/** `len()`, or undefined where a value has none. */
export function length(value: Value): number | undefined {
  if (isStr(value)) return lengthOf(value);
  if (value instanceof Markup) return lengthOf(value.text);
  if (value instanceof Undefined) return 0;
  if (value instanceof List) return value.items.length;
  if (value instanceof Dict) return value.size;
  if (value instanceof Range) return value.length;
  if (value instanceof Host && value.parts.items) return value.parts.items().length;
  return undefined;
}

// ---- equality and order ----------------------------------------------------------------------------------------------

function hashOf(value: Value): string {
  if (isStr(value)) return `s${raw(value)}`;
  if (value === null) return "none";
  const number = numeric(value);
  if (typeof number === "bigint") return `n${number}`;
  if (typeof number === "number") return Number.isInteger(number) ? `n${BigInt(number)}` : `n${number}`;
  if (value instanceof Undefined) return "undefined";
  if (value instanceof List && value.isTuple) {
    return `t${value.items.map((item) => ((hash) => `${hash.length}:${hash}`)(hashOf(item))).join("")}`;
  }
  throw new Fault(`unhashable type: '${typeName(value)}'`);
}

export function hash(value: Value): string {
  return hashOf(value);
}

export function equal(a: Value, b: Value, meter: Meter, depth = 0): boolean {
  meter.charge(1);
  meter.depth(depth);
  if (a instanceof Markup) return equal(a.text, b, meter, depth);
  if (b instanceof Markup) return equal(a, b.text, meter, depth);
  if (isStr(a)) return isStr(b) && raw(a) === raw(b);
  const [left, right] = [numeric(a), numeric(b)];
  // A bigint and a number are equal when their values are, as an int and a float.
  // biome-ignore lint/suspicious/noDoubleEquals: compares an int with a float by value
  if (left !== undefined && right !== undefined) return left == right;
  if (a instanceof Undefined) return b instanceof Undefined;
  if (a instanceof List && b instanceof List) {
    return (
      a.isTuple === b.isTuple &&
      a.items.length === b.items.length &&
      a.items.every((item, i) => equal(item, b.items[i] ?? null, meter, depth + 1))
    );
  }
  if (a instanceof Dict && b instanceof Dict) {
    return (
      a.size === b.size &&
      a.entries().every(([key, value]) => {
        const other = b.get(key);
        return other !== undefined && equal(value, other, meter, depth + 1);
      })
    );
  }
  if (a instanceof Range && b instanceof Range) {
    return a.length === b.length && (a.length === 0 || (a.start === b.start && (a.length === 1 || a.step === b.step)));
  }
  if (a instanceof Host && b instanceof Host && a !== b && (a.parts.items || b.parts.items)) {
    throw unsupported(`comparing ${a.typeName} and ${b.typeName}`);
  }
  return a === b;
}

/** Below, equal (0) or above, undefined where a NaN is among them. Throws for values without an order. */
export function compare(a: Value, b: Value, sign: string, meter: Meter, depth = 0): number | undefined {
  meter.charge(1);
  meter.depth(depth);
  if (isStr(a) && isStr(b)) return compareText(raw(a), raw(b));
  const [left, right] = [numeric(a), numeric(b)];
  if (left !== undefined && right !== undefined) {
    return left < right ? -1 : left > right ? 1 : Number.isNaN(left) || Number.isNaN(right) ? undefined : 0;
  }
  if (a instanceof List && b instanceof List && a.isTuple === b.isTuple) {
    const shorter = Math.min(a.items.length, b.items.length);
    for (let i = 0; i < shorter; i++) {
      const [x, y] = [a.items[i] ?? null, b.items[i] ?? null];
      if (!equal(x, y, meter, depth + 1)) return compare(x, y, sign, meter, depth + 1);
    }
    return a.items.length - b.items.length;
  }
  if (a instanceof Undefined) throw missing(a);
  if (b instanceof Undefined) throw missing(b);
  const kind = (value: Value): string => (value === null ? "NoneType" : typeName(value));
  throw new Fault(`'${sign}' not supported between instances of '${kind(a)}' and '${kind(b)}'`);
}

/** `item in container`. */
export function contains(container: Value, item: Value, meter: Meter): boolean {
  if (isStr(container)) {
    if (!isStr(item)) {
      throw new Fault(
        `'in <string>' requires string as left operand, not ${item === null ? "NoneType" : typeName(item)}`,
      );
    }
    meter.charge(raw(container).length / 1000);
    return raw(container).includes(raw(item));
  }
  if (container instanceof Dict) return container.get(item) !== undefined;
  if (container instanceof Markup) throw unsupported("a text made by safe or escape beside `in`");
  if (!isIterable(container)) throw new Fault(`argument of type '${typeName(container)}' is not iterable`);
  for (const other of iterate(container)) if (equal(other, item, meter)) return true;
  return false;
}

// ---- printing --------------------------------------------------------------------------------------------------------

/** `repr` of a float: the shortest digits that mean it, as Python arranges them. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Object.is(value, -0)) return "-0.0";
  if (value === 0) return "0.0";
  const [mantissa = "", exponentText = "0"] = Math.abs(value).toExponential().split("e");
  const digits = mantissa.replace(".", "");
  const exponent = Number(exponentText);
  const sign = value < 0 ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    const size = String(Math.abs(exponent)).padStart(2, "0");
    const rest = digits.length > 1 ? `.${digits.slice(1)}` : "";
    return `${sign}${digits[0]}${rest}e${exponent < 0 ? "-" : "+"}${size}`;
  }
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${digits.slice(exponent + 1) || "0"}`;
}

const shortEscapes: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\" };

function stringRepr(value: Str): Str {
  const characters = raw(value);
  const quote = characters.includes("'") && !characters.includes('"') ? '"' : "'";
  const escaped = replacing(value, /[\\']|[^\P{C}]|[^\P{Z} ]/gu, (c) => {
    if (c === "'") return quote === "'" ? "\\'" : c;
    const short = shortEscapes[c];
    if (short !== undefined) return short;
    const code = c.codePointAt(0) ?? 0;
    if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
    return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
  });
  return concat([quote, escaped, quote]);
}

/** A list of written parts that keeps count of their size. */
function written(parts: Str[], part: Str, meter: Meter, total: { size: number }): void {
  total.size += raw(part).length;
  if (total.size > budget.characters) meter.size(total.size);
  meter.charge(1);
  parts.push(part);
}

export function repr(value: Value, meter: Meter, depth = 0): Str {
  const parts: Str[] = [];
  writeRepr(value, meter, depth, parts, { size: 0 });
  return concat(parts);
}

function writeRepr(value: Value, meter: Meter, depth: number, parts: Str[], total: { size: number }): void {
  meter.depth(depth);
  const put = (part: Str): void => written(parts, part, meter, total);
  const between = (items: readonly Value[]): void => {
    for (const [i, item] of items.entries()) {
      if (i > 0) put(", ");
      writeRepr(item, meter, depth + 1, parts, total);
    }
  };
  const entries = (pairs: readonly (readonly [Value, Value])[]): void => {
    put("{");
    for (const [i, [key, item]] of pairs.entries()) {
      if (i > 0) put(", ");
      writeRepr(key, meter, depth + 1, parts, total);
      put(": ");
      writeRepr(item, meter, depth + 1, parts, total);
    }
    put("}");
  };
  if (isStr(value)) put(stringRepr(value));
  else if (value instanceof Undefined) put("Undefined");
  else if (value instanceof List) {
    put(value.isTuple ? "(" : "[");
    between(value.items);
    put(value.isTuple ? (value.items.length === 1 ? ",)" : ")") : "]");
  } else if (value instanceof Dict) entries(value.entries());
  else if (value instanceof Namespace) {
    put("<Namespace ");
    entries([...value.attributes]);
    put(">");
  } else if (value instanceof Range) {
    put(`range(${value.start}, ${value.stop}${value.step === 1n ? "" : `, ${value.step}`})`);
  } else if (value instanceof Markup) throw unsupported("repr of a text made by safe or escape");
  else if (value instanceof Host && value.parts.shown) put(value.parts.shown(meter, depth));
  else if (value instanceof Host || value instanceof Iter) {
    // Python prints an address.
    throw new Fault(`a ${value.typeName} cannot be printed`);
  } else put(plainText(value));
}

function plainText(value: null | boolean | bigint | number): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") return floatText(value);
  return digitsOf(value);
}

/** Python refuses to write an int of more digits. */
export function digitsOf(value: bigint): string {
  const digits = value.toString();
  if (digits.length > 4301) throw new Fault("expected an int of at most 4300 digits to print");
  return digits;
}

/** `str()`. */
export function str(value: Value, meter: Meter): Str {
  if (isStr(value)) return value;
  if (value instanceof Undefined) return "";
  if (value instanceof Markup) return value.text;
  return repr(value, meter);
}

// ---- JSON ------------------------------------------------------------------------------------------------------------

export interface JsonOptions {
  readonly ascii: boolean;
  readonly indent: Str | null;
  readonly itemSeparator: Str;
  readonly keySeparator: Str;
  readonly sortKeys: boolean;
}

const jsonEscapes: Readonly<Record<string, string>> = {
  "\\": "\\\\",
  '"': '\\"',
  "\b": "\\b",
  "\f": "\\f",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
};

function jsonString(value: Str, ascii: boolean): Str {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: JSON escapes control characters
  const pattern = ascii ? /[\\"]|[^ -~]/g : /[\\"\x00-\x1f]/g;
  const escaped = replacing(
    value,
    pattern,
    (c) => jsonEscapes[c] ?? `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return concat(['"', escaped, '"']);
}

function jsonNumber(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "Infinity" : "-Infinity";
  return floatText(value);
}

function jsonKey(key: Value): Str {
  if (isStr(key)) return key;
  if (key === null) return "null";
  if (typeof key === "boolean") return key ? "true" : "false";
  if (typeof key === "number") return jsonNumber(key);
  if (typeof key === "bigint") return digitsOf(key);
  throw new Fault(`keys must be str, int, float, bool or None, not ${typeName(key)}`);
}

/** `json.dumps`. */
export function json(value: Value, options: JsonOptions, meter: Meter): Str {
  const parts: Str[] = [];
  const total = { size: 0 };
  const put = (part: Str): void => written(parts, part, meter, total);
  const { ascii, indent, itemSeparator, keySeparator, sortKeys } = options;
  const lineBreak = (depth: number): void => {
    if (indent === null) return;
    if (depth * raw(indent).length > budget.characters) meter.size(Number.POSITIVE_INFINITY);
    put(concat(["\n", ...Array.from({ length: depth }, () => indent)]));
  };
  const write = (item: Value, depth: number): void => {
    meter.depth(depth);
    if (item === null) put("null");
    else if (typeof item === "boolean") put(item ? "true" : "false");
    else if (typeof item === "bigint") put(digitsOf(item));
    else if (typeof item === "number") put(jsonNumber(item));
    else if (isStr(item)) put(jsonString(item, ascii));
    else if (item instanceof Markup) put(jsonString(item.text, ascii));
    else if (item instanceof List) {
      if (item.items.length === 0) {
        put("[]");
        return;
      }
      put("[");
      for (const [i, inner] of item.items.entries()) {
        if (i > 0) put(itemSeparator);
        lineBreak(depth + 1);
        write(inner, depth + 1);
      }
      lineBreak(depth);
      put("]");
    } else if (item instanceof Dict) {
      if (item.size === 0) {
        put("{}");
        return;
      }
      const entries = sortKeys ? sorted(item.entries(), ([key]) => key, false, meter) : item.entries();
      put("{");
      for (const [i, [key, inner]] of entries.entries()) {
        if (i > 0) put(itemSeparator);
        lineBreak(depth + 1);
        put(jsonString(jsonKey(key), ascii));
        put(keySeparator);
        write(inner, depth + 1);
      }
      lineBreak(depth);
      put("}");
    } else throw new Fault(`Object of type ${typeName(item)} is not JSON serializable`);
  };
  write(value, 0);
  return concat(parts);
}

/** `sorted()`: stable, and in reverse still stable. */
export function sorted<T>(items: readonly T[], key: (item: T) => Value, reverse: boolean, meter: Meter): readonly T[] {
  meter.charge(items.length);
  const keyed = items.map((item) => ({ item, key: key(item) }));
  const order = (a: { key: Value }, b: { key: Value }): number => {
    const result = compare(a.key, b.key, "<", meter);
    if (result === undefined) throw unsupported("sorting NaN");
    return reverse ? -result : result;
  };
  if (keyed.length === 1) return items;
  return keyed.sort(order).map(({ item }) => item);
}
