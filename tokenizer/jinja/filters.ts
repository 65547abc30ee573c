/** Jinja's filters and tests, with the `tojson` of `transformers`. */

import { padded, percent } from "./format.ts";
import { attribute, bind, capitalized, Group, isLower, isUpper, item, join, replaced, splitLines } from "./methods.ts";
import { calculate, fixed, parseFloatText, parseInteger, round, toFloat } from "./numbers.ts";
import {
  concat,
  cut,
  cutCharacters,
  isStr,
  joined,
  lengthOf,
  madeOf,
  raw,
  recased,
  replacing,
  type Str,
  stripped,
} from "./text.ts";
import {
  type Arguments,
  compare,
  contains,
  Dict,
  equal,
  Fault,
  Host,
  hash,
  Iter,
  isIterable,
  iterate,
  json,
  List,
  length,
  listOf,
  Markup,
  type Meter,
  missing,
  numeric,
  orElse,
  small,
  sorted,
  str,
  text,
  truth,
  typeName,
  Undefined,
  unsupported,
  type Value,
} from "./values.ts";

export type Filter = (value: Value, given: Arguments, meter: Meter) => Value;
export type Test = (value: Value, given: Arguments, meter: Meter) => boolean;

/** A filter of Python's with named arguments, the first `required` of which must be given. */
function filter(
  names: readonly string[],
  required: number,
  run: (value: Value, meter: Meter, ...given: readonly (Value | undefined)[]) => Value,
): (name: string) => Filter {
  return (name) => (value, given, meter) => run(value, meter, ...bind(name, given, names, required));
}

/** `str()` of what a filter works on, which must not be a text of `safe` or `escape`. */
function soft(value: Value, meter: Meter): Str {
  if (value instanceof Markup) throw unsupported("a filter on a text made by safe or escape");
  return str(value, meter);
}

function lowered(value: Value): Value {
  return isStr(value) ? recased(value, raw(value).toLowerCase()) : value;
}

/** `a.0.b` as a chain of items. */
function pathOf(path: Value): readonly Value[] {
  if (path === null) return [];
  if (!isStr(path)) return [path];
  return raw(path)
    .split(".")
    .map((part) => (/^\p{Nd}+$/u.test(part) ? BigInt(part) : part));
}

function getter(path: Value, meter: Meter, otherwise: Value = null): (value: Value) => Value {
  const parts = pathOf(path);
  return (value) => {
    let found = value;
    for (const part of parts) {
      found = item(found, part, meter);
      if (otherwise !== null && found instanceof Undefined) found = otherwise;
    }
    return found;
  };
}

/** What sorting and grouping compare: without regard to case unless asked for. */
function keyOf(path: Value, caseSensitive: Value, meter: Meter, otherwise: Value = null): (value: Value) => Value {
  const get = getter(path, meter, otherwise);
  return truth(caseSensitive) ? get : (value) => lowered(get(value));
}

function checked(value: Value): readonly Value[] | undefined {
  return value instanceof List ? value.items : undefined;
}

function extreme(sign: -1 | 1): (name: string) => Filter {
  return filter(["case_sensitive", "attribute"], 0, (value, meter, caseSensitive = false, path = null) => {
    const key = keyOf(path, caseSensitive, meter);
    let best: { readonly item: Value; readonly key: Value } | undefined;
    for (const candidate of listOf(value, meter)) {
      const candidateKey = key(candidate);
      if (best === undefined || compare(candidateKey, best.key, sign < 0 ? "<" : ">", meter) === undefined) {
        if (best !== undefined) throw unsupported("ordering NaN");
        best = { item: candidate, key: candidateKey };
      } else if (Math.sign(compare(candidateKey, best.key, sign < 0 ? "<" : ">", meter) ?? 0) === sign) {
        best = { item: candidate, key: candidateKey };
      }
    }
    return orElse(best?.item, () => new Undefined("No aggregated item, sequence was empty."));
  });
}

export function add(a: Value, b: Value, meter: Meter): Value {
  const [x, y] = [numeric(a), numeric(b)];
  if (x !== undefined && y !== undefined) return calculate("+", x, y, meter);
  if (isStr(a) && isStr(b)) {
    meter.size(raw(a).length + raw(b).length);
    return concat([a, b]);
  }
  if (a instanceof List && b instanceof List && a.isTuple === b.isTuple) {
    meter.size(a.items.length + b.items.length);
    meter.charge(a.items.length + b.items.length);
    return new List([...a.items, ...b.items], a.isTuple);
  }
  if (a instanceof Undefined) throw missing(a);
  if (b instanceof Undefined) throw missing(b);
  if (a instanceof Markup || b instanceof Markup) throw unsupported("+ with a text made by safe or escape");
  throw new Fault(`unsupported operand types for +: '${typeName(a)}' and '${typeName(b)}'`);
}

const escapes: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&#34;",
  "'": "&#39;",
};

function escaped(value: Value, meter: Meter): Str {
  if (value instanceof Markup) return value.text;
  return replacing(str(value, meter), /[&<>"']/g, (character) => escapes[character] ?? character);
}

function quoted(value: Value, meter: Meter, inQuery: boolean): Str {
  const source = str(value, meter);
  const encoder = new TextEncoder();
  const unreserved = inQuery ? /[^\w.~-]+/g : /[^\w.~/-]+/g;
  return replacing(source, unreserved, (part) =>
    Array.from(encoder.encode(part), (byte) =>
      inQuery && byte === 0x20 ? "+" : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`,
    ).join(""),
  );
}

function lazily(source: () => Generator<Value, void, undefined>): Iter {
  return new Iter("generator", source());
}

function toInt(value: Value, otherwise: Value, base: Value): Value {
  if (value instanceof Undefined) throw missing(value);
  const number = numeric(value);
  if (typeof number === "bigint") return number;
  const truncated = (float: number): Value => {
    if (Number.isNaN(float)) return otherwise;
    if (!Number.isFinite(float)) throw new Fault("cannot convert float infinity to integer");
    return BigInt(Math.trunc(float));
  };
  if (number !== undefined) return truncated(number);
  if (!isStr(value)) return otherwise;
  const radix = small(base, "int");
  if (radix !== 0 && (radix < 2 || radix > 36)) return otherwise;
  const whole = parseInteger(raw(stripped(value, null, true, true)), radix);
  if (whole !== undefined) return whole;
  const float = parseFloatText(raw(stripped(value, null, true, true)));
  return float === undefined || !Number.isFinite(float) ? otherwise : truncated(float);
}

const units = ["k", "M", "G", "T", "P", "E", "Z", "Y"];

function selecting(isReject: boolean, byAttribute: boolean): (name: string) => Filter {
  return (name) => (value, given, meter) =>
    lazily(function* () {
      if (!truth(value)) return;
      const [...rest] = given.positional;
      const path = byAttribute ? rest.shift() : null;
      if (path === undefined) throw new Fault(`${name}: expected the name of an attribute`);
      const get = getter(path, meter);
      const testName = rest.shift();
      const test = testName === undefined ? undefined : testOf(raw(text(testName, name)));
      const args = { positional: rest, named: given.named };
      if (test === undefined && given.named.size > 0) throw new Fault(`${name}: expected no named arguments`);
      for (const candidate of iterate(value)) {
        meter.charge(1);
        const attributeValue = get(candidate);
        const holds = test === undefined ? truth(attributeValue) : test(attributeValue, args, meter);
        if (holds !== isReject) yield candidate;
      }
    });
}

const mapping: (name: string) => Filter = () => (value, given, meter) =>
  lazily(function* () {
    if (!truth(value)) return;
    let apply: (candidate: Value) => Value;
    const path = given.named.get("attribute");
    if (given.positional.length === 0 && path !== undefined) {
      for (const other of given.named.keys()) {
        if (other !== "attribute" && other !== "default") throw new Fault(`map: unexpected argument "${other}"`);
      }
      apply = getter(path, meter, given.named.get("default") ?? null);
    } else {
      const [filterName, ...rest] = given.positional;
      if (filterName === undefined) throw new Fault("map: expected a filter");
      const wanted = filterOf(raw(text(filterName, "map")));
      const args = { positional: rest, named: given.named };
      apply = (candidate) => wanted(candidate, args, meter);
    }
    for (const candidate of iterate(value)) {
      meter.charge(1);
      yield apply(candidate);
    }
  });

const tojson = filter(
  ["ensure_ascii", "indent", "separators", "sort_keys"],
  0,
  (value, meter, ascii = false, indent = null, separators = null, sortKeys = false) => {
    let step: Str | null = null;
    if (isStr(indent)) step = indent;
    else if (indent !== null) {
      const width = small(indent, "tojson: indent");
      meter.size(Math.max(0, width));
      step = " ".repeat(Math.max(0, width));
    }
    let [itemSeparator, keySeparator]: [Str, Str] = [step === null ? ", " : ",", ": "];
    if (separators !== null) {
      const given = listOf(separators, meter);
      if (given.length !== 2) throw new Fault("tojson: separators: expected two");
      itemSeparator = text(given[0] ?? null, "tojson: separators");
      keySeparator = text(given[1] ?? null, "tojson: separators");
    }
    const options = { ascii: truth(ascii), indent: step, itemSeparator, keySeparator, sortKeys: truth(sortKeys) };
    return json(value, options, meter);
  },
);

const lengthFilter = filter([], 0, (value) => {
  const size = length(value);
  if (size === undefined) {
    throw new Fault(`object of type '${value === null ? "NoneType" : typeName(value)}' has no len()`);
  }
  return BigInt(size);
});

const defaultFilter = filter(["default_value", "boolean"], 0, (value, _, otherwise = "", boolean = false) =>
  value instanceof Undefined || (truth(boolean) && !truth(value)) ? otherwise : value,
);

const safe = filter([], 0, (value, meter) => new Markup(str(value, meter)));
const escapeFilter = filter([], 0, (value, meter) => new Markup(escaped(value, meter)));

function refused(name: string): Filter {
  return () => {
    throw unsupported(`the filter "${name}"`);
  };
}

const definitions: Readonly<Record<string, (name: string) => Filter>> = {
  abs: filter([], 0, (value) => {
    if (value instanceof Undefined) throw missing(value);
    const number = numeric(value);
    if (number === undefined) throw new Fault(`bad operand type for abs(): '${typeName(value)}'`);
    return typeof number === "bigint" ? (number < 0n ? -number : number) : Math.abs(number);
  }),
  attr: filter(["name"], 1, (value, meter, name = null) => {
    const wanted = raw(text(name, "attr"));
    if (value instanceof Dict) {
      // Not the key of that name.
      const own = attribute(new Dict(), wanted, meter);
      return own instanceof Undefined
        ? new Undefined(`'dict object' has no attribute '${wanted}'`)
        : attribute(value, wanted, meter);
    }
    return attribute(value, wanted, meter);
  }),
  batch: filter(["linecount", "fill_with"], 1, (value, meter, count = null, fill = null) =>
    lazily(function* () {
      const size = small(count, "batch");
      let line: Value[] = [];
      for (const next of iterate(value)) {
        meter.charge(1);
        if (line.length === size) {
          yield new List(line);
          line = [];
        }
        line.push(next);
      }
      if (line.length === 0) return;
      if (fill !== null && line.length < size) {
        meter.charge(size);
        while (line.length < size) line.push(fill);
      }
      yield new List(line);
    }),
  ),
  capitalize: filter([], 0, (value, meter) => capitalized(soft(value, meter))),
  center: filter(["width"], 0, (value, meter, width = 80n) => {
    const source = soft(value, meter);
    const wanted = small(width, "center");
    const gap = wanted - lengthOf(source);
    if (gap <= 0) return source;
    const left = Math.floor(gap / 2) + (gap & wanted & 1);
    return padded(padded(source, lengthOf(source) + left, ">", " ", meter), wanted, "<", " ", meter);
  }),
  count: lengthFilter,
  d: defaultFilter,
  default: defaultFilter,
  dictsort: filter(
    ["case_sensitive", "by", "reverse"],
    0,
    (value, meter, caseSensitive = false, by = "key", reverse = false) => {
      const part = raw(text(by, "dictsort"));
      if (part !== "key" && part !== "value") throw new Fault('dictsort: expected by to be "key" or "value"');
      if (value instanceof Undefined) throw missing(value);
      if (!(value instanceof Dict)) throw new Fault(`dictsort: expected a mapping, got ${typeName(value)}`);
      const key = ([name, content]: readonly [Value, Value]): Value => {
        const chosen = part === "key" ? name : content;
        return truth(caseSensitive) ? chosen : lowered(chosen);
      };
      return new List(sorted(value.entries(), key, truth(reverse), meter).map((pair) => new List(pair, true)));
    },
  ),
  e: escapeFilter,
  escape: escapeFilter,
  filesizeformat: filter(["binary"], 0, (value, _, binary = false) => {
    const number = isStr(value) ? parseFloatText(raw(value)) : numeric(value);
    if (number === undefined) throw new Fault(`filesizeformat: expected a number, got ${typeName(value)}`);
    const bytes = toFloat(number);
    const base = truth(binary) ? 1024 : 1000;
    if (bytes === 1) return "1 Byte";
    if (bytes < base) return `${BigInt(Math.trunc(bytes))} Bytes`;
    let unit = base;
    let prefix = "";
    for (const next of units) {
      unit *= base;
      prefix = next;
      if (bytes < unit) break;
    }
    const shown = fixed((base * bytes) / unit, 1);
    return `${shown} ${truth(binary) ? prefix.toUpperCase() : prefix}${truth(binary) ? "iB" : "B"}`;
  }),
  first: filter([], 0, (value, meter) => {
    meter.charge(1);
    for (const next of iterate(value)) return next;
    return new Undefined("No first item, sequence was empty.");
  }),
  float: filter(["default"], 0, (value, _, otherwise = 0) => {
    if (value instanceof Undefined) throw missing(value);
    const number = numeric(value);
    if (number !== undefined) return toFloat(number);
    return (isStr(value) ? parseFloatText(raw(stripped(value, null, true, true))) : undefined) ?? otherwise;
  }),
  forceescape: filter([], 0, (value, meter) =>
    value instanceof Markup ? new Markup(escaped(value.text, meter)) : new Markup(escaped(value, meter)),
  ),
  format: () => (value, given, meter) => {
    if (given.positional.length > 0 && given.named.size > 0) {
      throw new Fault("format: expected arguments by position or by name, got both");
    }
    const values = given.named.size > 0 ? new Dict(given.named) : new List(given.positional, true);
    return percent(soft(value, meter), values, meter);
  },
  groupby: filter(
    ["attribute", "default", "case_sensitive"],
    1,
    (value, meter, path = null, otherwise = null, caseSensitive = false) => {
      const key = keyOf(path, caseSensitive, meter, otherwise);
      const shown = getter(path, meter, otherwise);
      const groups: { readonly key: Value; readonly items: Value[] }[] = [];
      for (const next of sorted(listOf(value, meter), key, false, meter)) {
        const own = key(next);
        const last = groups.at(-1);
        if (last !== undefined && equal(last.key, own, meter)) last.items.push(next);
        else groups.push({ key: own, items: [next] });
      }
      return new List(
        groups.map(({ key: own, items }) => new Group(truth(caseSensitive) ? own : shown(items[0] ?? null), items)),
      );
    },
  ),
  indent: filter(["width", "first", "blank"], 0, (value, meter, width = 4n, first = false, blank = false) => {
    const source = text(value, "indent");
    const step = isStr(width) ? width : madeOf(" ".repeat(indentOf(width, meter)));
    const lines = splitLines(concat([source, "\n"]));
    meter.size(raw(source).length + lines.length * raw(step).length);
    const rest = lines.map((line, i) => (i === 0 || (!truth(blank) && raw(line) === "") ? line : concat([step, line])));
    const result = joined(rest, "\n");
    return truth(first) ? concat([step, result]) : result;
  }),
  int: filter(["default", "base"], 0, (value, _, otherwise = 0n, base = 10n) => toInt(value, otherwise, base)),
  items: filter([], 0, (value) =>
    lazily(function* () {
      if (value instanceof Undefined) return;
      if (!(value instanceof Dict)) throw new Fault("items: expected a mapping");
      for (const pair of value.entries()) yield new List(pair, true);
    }),
  ),
  join: filter(["d", "attribute"], 0, (value, meter, separator = "", path = null) => {
    let items = checked(value) ?? listOf(value, meter);
    if (path !== null) items = items.map(getter(path, meter));
    const written = items.map((next) => {
      if (next instanceof Markup) return next.text;
      return str(next, meter);
    });
    return join(soft(separator, meter), written, meter);
  }),
  last: filter([], 0, (value, meter) => {
    if (value instanceof Iter || (value instanceof Host && value.typeName === "generator")) {
      throw new Fault("'generator' object is not reversible");
    }
    const items = listOf(value, meter);
    return items.at(-1) ?? (items.length > 0 ? null : new Undefined("No last item, sequence was empty."));
  }),
  length: lengthFilter,
  list: filter([], 0, (value, meter) => new List(listOf(value, meter))),
  lower: filter([], 0, (value, meter) => lowered(soft(value, meter))),
  map: mapping,
  max: extreme(1),
  min: extreme(-1),
  pprint: refused,
  random: refused,
  reject: selecting(true, false),
  rejectattr: selecting(true, true),
  replace: filter(["old", "new", "count"], 2, (value, meter, from = null, to = null, most = null) => {
    const limit = most === null ? -1 : small(most, "replace");
    return replaced(soft(value, meter), soft(from, meter), soft(to, meter), limit, meter);
  }),
  reverse: filter([], 0, (value, meter) => {
    if (isStr(value)) return concat([...listOf(value, meter)].reverse().map((part) => text(part, "reverse")));
    const items = [...listOf(value, meter)].reverse();
    return value instanceof Iter ? new List(items) : new Iter("reverse_iterator", items);
  }),
  round: filter(["precision", "method"], 0, (value, meter, precision = 0n, method = "common") => {
    const how = raw(text(method, "round"));
    if (how !== "common" && how !== "ceil" && how !== "floor") {
      throw new Fault("round: expected the method common, ceil or floor");
    }
    if (value instanceof Undefined) throw missing(value);
    const number = numeric(value);
    if (number === undefined) throw new Fault(`round: expected a number, got ${typeName(value)}`);
    if (how === "common") return round(number, small(precision, "round"));
    const places = numeric(precision) ?? 0n;
    const scale = calculate("**", 10n, places, meter);
    const scaled = calculate("*", number, scale, meter);
    if (typeof scaled === "number" && !Number.isFinite(scaled)) throw new Fault("round: the number is not finite");
    const whole = typeof scaled === "bigint" ? scaled : BigInt(how === "ceil" ? Math.ceil(scaled) : Math.floor(scaled));
    return calculate("/", whole, scale, meter);
  }),
  safe,
  select: selecting(false, false),
  selectattr: selecting(false, true),
  slice: filter(["slices", "fill_with"], 1, (value, meter, slices = null, fill = null) =>
    lazily(function* () {
      const items = listOf(value, meter);
      const count = small(slices, "slice");
      if (count === 0) throw new Fault("division by zero");
      const each = Math.floor(items.length / count);
      const extra = items.length - each * count;
      let offset = 0;
      for (let i = 0; i < count; i++) {
        meter.charge(1);
        const start = offset + i * each;
        if (i < extra) offset += 1;
        const part = items.slice(start, offset + (i + 1) * each);
        yield new List(fill !== null && i >= extra ? [...part, fill] : part);
      }
    }),
  ),
  sort: filter(
    ["reverse", "case_sensitive", "attribute"],
    0,
    (value, meter, reverse = false, caseSensitive = false, path = null) => {
      const paths = isStr(path) ? raw(path).split(",") : [path];
      const keys = paths.map((one) => keyOf(one, caseSensitive, meter));
      const key = (next: Value): Value => new List(keys.map((get) => get(next)));
      return new List(sorted(listOf(value, meter), key, truth(reverse), meter));
    },
  ),
  string: filter([], 0, (value, meter) => (value instanceof Markup ? value : str(value, meter))),
  striptags: refused,
  sum: filter(["attribute", "start"], 0, (value, meter, path = null, start = 0n) => {
    if (isStr(start)) throw new Fault("sum() can't sum strings");
    const get = getter(path, meter);
    return listOf(value, meter).reduce((total: Value, next) => add(total, get(next), meter), start);
  }),
  title: filter([], 0, (value, meter) => {
    const source = soft(value, meter);
    const parts: Str[] = [];
    const pattern = /[-\s({[<]+|[^-\s({[<]+/gu;
    for (const match of raw(source).matchAll(pattern)) {
      const part = cut(source, match.index, match.index + match[0].length);
      const [head = ""] = match[0];
      parts.push(recased(part, head.toUpperCase() + match[0].slice(head.length).toLowerCase()));
    }
    return concat(parts);
  }),
  tojson,
  trim: filter(["chars"], 0, (value, meter, chars = null) =>
    stripped(soft(value, meter), chars === null ? null : raw(text(chars, "trim")), true, true),
  ),
  truncate: filter(
    ["length", "killwords", "end", "leeway"],
    0,
    (value, _, most = 255n, killwords = false, end = "...", leeway = null) => {
      if (value instanceof Markup) throw unsupported("truncate on a text made by safe or escape");
      const limit = small(most, "truncate");
      const tail = text(end, "truncate");
      const slack = leeway === null ? 5 : small(leeway, "truncate");
      if (limit < lengthOf(tail) || slack < 0) throw new Fault("truncate: expected a length that holds the end");
      const size = length(value);
      if (size === undefined) throw new Fault(`truncate: expected a text, got ${typeName(value)}`);
      if (size <= limit + slack) return value;
      if (!isStr(value)) throw new Fault(`truncate: expected a text, got ${typeName(value)}`);
      const kept = cutCharacters(value, 0, limit - lengthOf(tail));
      if (truth(killwords)) return concat([kept, tail]);
      const blank = raw(kept).lastIndexOf(" ");
      return concat([blank < 0 ? kept : cut(kept, 0, blank), tail]);
    },
  ),
  unique: filter(["case_sensitive", "attribute"], 0, (value, meter, caseSensitive = false, path = null) =>
    lazily(function* () {
      const key = keyOf(path, caseSensitive, meter);
      const seen = new Set<string>();
      for (const next of iterate(value)) {
        meter.charge(1);
        const own = hash(key(next));
        if (seen.has(own)) continue;
        seen.add(own);
        yield next;
      }
    }),
  ),
  upper: filter([], 0, (value, meter) => {
    const source = soft(value, meter);
    return recased(source, raw(source).toUpperCase());
  }),
  urlencode: filter([], 0, (value, meter) => {
    if (isStr(value) || !isIterable(value)) return quoted(value, meter, false);
    const pairs = value instanceof Dict ? value.entries().map((pair) => new List(pair, true)) : listOf(value, meter);
    const parts = pairs.map((pair) => {
      const [key, content, ...rest] = listOf(pair, meter);
      if (key === undefined || content === undefined || rest.length > 0) throw new Fault("urlencode: expected pairs");
      return concat([quoted(key, meter, true), "=", quoted(content, meter, true)]);
    });
    return joined(parts, "&");
  }),
  urlize: refused,
  wordcount: filter([], 0, (value, meter) => {
    const source = raw(soft(value, meter));
    return BigInt(source.match(/[\p{L}\p{N}_]+/gu)?.length ?? 0);
  }),
  wordwrap: refused,
  xmlattr: filter(["autospace"], 0, (value, meter, autospace = true) => {
    if (value instanceof Undefined) throw missing(value);
    if (!(value instanceof Dict)) throw new Fault(`xmlattr: expected a mapping, got ${typeName(value)}`);
    const parts: Str[] = [];
    for (const [key, content] of value.entries()) {
      if (content === null || content instanceof Undefined) continue;
      const name = text(key, "xmlattr");
      if (/[\t-\r /=>]/.test(raw(name))) throw new Fault("xmlattr: invalid character in the name of an attribute");
      parts.push(concat([escaped(name, meter), '="', escaped(content, meter), '"']));
    }
    const result = joined(parts, " ");
    return truth(autospace) && parts.length > 0 ? concat([" ", result]) : result;
  }),
};

function indentOf(width: Value, meter: Meter): number {
  const size = Math.max(0, small(width, "indent"));
  meter.size(size);
  return size;
}

const filters: ReadonlyMap<string, Filter> = new Map(
  Object.entries(definitions).map(([name, define]) => [name, define(name)]),
);

export function filterOf(name: string): Filter {
  const found = filters.get(name);
  if (found === undefined) throw new Fault(`no filter named "${name}"`);
  return found;
}

// ---- tests -----------------------------------------------------------------------------------------------------------

function test(names: readonly string[], run: (value: Value, meter: Meter, ...given: readonly Value[]) => boolean) {
  return (name: string): Test =>
    (value, given, meter) =>
      run(value, meter, ...bind(name, given, names, names.length).map((argument) => argument ?? null));
}

function remainder(value: Value, divisor: Value, meter: Meter): Value {
  if (value instanceof Undefined) throw missing(value);
  if (divisor instanceof Undefined) throw missing(divisor);
  const [x, y] = [numeric(value), numeric(divisor)];
  if (x === undefined || y === undefined)
    throw new Fault(`expected numbers, got ${typeName(value)} and ${typeName(divisor)}`);
  return calculate("%", x, y, meter);
}

function ordering(sign: string, holds: (order: number) => boolean) {
  return test(["other"], (value, meter, other = null) => {
    const order = compare(value, other, sign, meter);
    return order !== undefined && holds(order);
  });
}

const equality = test(["other"], (value, meter, other = null) => equal(value, other, meter));
const inequality = test(["other"], (value, meter, other = null) => !equal(value, other, meter));
const greater = ordering(">", (order) => order > 0);
const atLeast = ordering(">=", (order) => order >= 0);
const less = ordering("<", (order) => order < 0);
const atMost = ordering("<=", (order) => order <= 0);

const testDefinitions: Readonly<Record<string, (name: string) => Test>> = {
  odd: test([], (value, meter) => equal(remainder(value, 2n, meter), 1n, meter)),
  even: test([], (value, meter) => equal(remainder(value, 2n, meter), 0n, meter)),
  divisibleby: test(["num"], (value, meter, num = null) => equal(remainder(value, num, meter), 0n, meter)),
  defined: test([], (value) => !(value instanceof Undefined)),
  undefined: test([], (value) => value instanceof Undefined),
  filter: test([], (value) => isStr(value) && filters.has(raw(value))),
  test: test([], (value) => isStr(value) && tests.has(raw(value))),
  none: test([], (value) => value === null),
  boolean: test([], (value) => typeof value === "boolean"),
  false: test([], (value) => value === false),
  true: test([], (value) => value === true),
  integer: test([], (value) => typeof value === "bigint"),
  float: test([], (value) => typeof value === "number"),
  lower: test([], (value, meter) => isLower(raw(str(value, meter)))),
  upper: test([], (value, meter) => isUpper(raw(str(value, meter)))),
  string: test([], (value) => isStr(value) || value instanceof Markup),
  mapping: test([], (value) => value instanceof Dict),
  number: test([], (value) => numeric(value) !== undefined),
  sequence: test([], (value) => {
    if (value instanceof Host) return false;
    return length(value) !== undefined;
  }),
  iterable: test([], (value) => isIterable(value)),
  callable: test(
    [],
    (value) => (value instanceof Host && value.parts.call !== undefined) || value instanceof Undefined,
  ),
  sameas: test(["other"], (value, _, other = null) => {
    if (isStr(value) && isStr(other) && raw(value) === raw(other)) throw unsupported("sameas of equal strings");
    if (typeof value === "number" && value === other) throw unsupported("sameas of equal floats");
    return value === other;
  }),
  escaped: test([], (value) => value instanceof Markup),
  in: test(["seq"], (value, meter, seq = null) => contains(seq, value, meter)),
  eq: equality,
  equalto: equality,
  "==": equality,
  ne: inequality,
  "!=": inequality,
  gt: greater,
  greaterthan: greater,
  ">": greater,
  ge: atLeast,
  ">=": atLeast,
  lt: less,
  lessthan: less,
  "<": less,
  le: atMost,
  "<=": atMost,
};

const tests: ReadonlyMap<string, Test> = new Map(
  Object.entries(testDefinitions).map(([name, define]) => [name, define(name)]),
);

export function testOf(name: string): Test {
  const found = tests.get(name);
  if (found === undefined) throw new Fault(`no test named "${name}"`);
  return found;
}

export const known = { filter: new Set(filters.keys()), test: new Set(tests.keys()) } as const;
