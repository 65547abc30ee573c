/** Python's two ways to put values into a text, `%` and `str.format`, and `strftime`. */
import { floatDigits, integerDigits, type NumberFormat, toFloat } from "./numbers.ts";
import { concat, cut, cutCharacters, isStr, lengthOf, madeOf, raw, replacing, type Str } from "./text.ts";
import {
  type Arguments,
  budget,
  Dict,
  Fault,
  isIterable,
  List,
  Markup,
  type Meter,
  missing,
  numeric,
  repr,
  small,
  str,
  typeName,
  Undefined,
  unsupported,
  type Value,
} from "./values.ts";

interface Layout extends NumberFormat {
  readonly fill: Str;
  readonly align: "<" | ">" | "^" | "=" | "";
  readonly sign: string;
  readonly width: number;
  readonly grouping: string;
}

/** Filled up to a width: `<`, `>` or `^`. */
export function padded(value: Str, width: number, align: "<" | ">" | "^", fill: Str, meter: Meter): Str {
  const missingCharacters = width - lengthOf(value);
  if (missingCharacters <= 0) return value;
  meter.size(width * raw(fill).length);
  const left = align === "<" ? 0 : align === ">" ? missingCharacters : Math.floor(missingCharacters / 2);
  const run = (count: number): Str => madeOf(raw(fill).repeat(count), fill);
  return concat([run(left), value, run(missingCharacters - left)]);
}

function laidOut(isNegative: boolean, digits: string, layout: Layout, meter: Meter): Str {
  const { sign, grouping, width, align, fill } = layout;
  const mark = isNegative ? "-" : sign === "+" || sign === " " ? sign : "";
  const [, prefix = "", whole = "", rest = ""] = /^(0[bBoOxX])?([\da-fA-F]+)?([\s\S]*)$/.exec(digits) ?? [];
  const every = /[boxX]/.test(layout.type) ? 4 : 3;
  const group = (text: string): string =>
    grouping === "" ? text : text.replace(new RegExp(`(?<=.)(?=(?:.{${every}})+$)`, "g"), grouping);
  let body = group(whole);
  if (align === "=" && raw(fill) === "0" && grouping !== "") {
    // Zeros take part in the grouping.
    let longer = whole;
    while (mark.length + prefix.length + group(longer).length + rest.length < width) longer = `0${longer}`;
    body = group(longer);
  }
  const head = mark + prefix;
  const tail = body + rest;
  if (align === "=") {
    const zeros = Math.max(0, width - head.length - tail.length);
    meter.size(zeros);
    return concat([head, madeOf(raw(fill).repeat(zeros), fill), tail]);
  }
  return padded(head + tail, width, align === "" ? ">" : align, fill, meter);
}

function isNegative(value: bigint | number): boolean {
  return value < 0 || Object.is(value, -0);
}

/** `format(value, specification)`. */
export function formatValue(value: Value, specification: Str, meter: Meter): Str {
  if (value instanceof Markup) throw unsupported("formatting a text made by safe or escape");
  if (raw(specification) === "") return str(value, meter);
  const number = numeric(value);
  if (!isStr(value) && number === undefined) {
    if (value instanceof Undefined) throw unsupported("formatting an undefined value");
    throw new Fault(`unsupported format string passed to ${typeName(value)}.__format__`);
  }
  const match = /^(?:(.)?([<>=^]))?([+\- ])?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?([a-zA-Z%])?$/su.exec(raw(specification));
  if (match === null) throw new Fault(`invalid format specifier "${raw(specification)}"`);
  const [, fill, align, sign = "", alternate, zero, width, grouping = "", precision, type = ""] = match;
  const layout: Layout = {
    fill: fill ?? (zero === undefined ? " " : "0"),
    align: (align ?? (zero !== undefined && number !== undefined && !isStr(value) ? "=" : "")) as Layout["align"],
    sign,
    alternate: alternate !== undefined,
    width: Math.min(Number(width ?? 0), budget.characters + 1),
    grouping,
    precision: precision === undefined ? null : Number(precision),
    type,
  };
  meter.size(layout.width);
  if (isStr(value)) {
    if (type !== "" && type !== "s") throw new Fault(`unknown format code "${type}" for a string`);
    if (sign !== "" || grouping !== "" || layout.alternate || layout.align === "=") {
      throw new Fault("sign, grouping, # and = do not go with a string");
    }
    const text = layout.precision === null ? value : cutCharacters(value, 0, layout.precision);
    return padded(text, layout.width, layout.align === "" ? "<" : layout.align, layout.fill, meter);
  }
  if (number === undefined) throw new Fault("expected a number");
  if (typeof number === "bigint" && /^[bdoxXc]?$/.test(type)) {
    if (layout.precision !== null) throw new Fault("a precision does not go with an int");
    if (type === "c")
      return padded(
        character(number),
        layout.width,
        layout.align === "" ? "<" : (layout.align as "<"),
        layout.fill,
        meter,
      );
    return laidOut(number < 0n, integerDigits(number, layout), layout, meter);
  }
  if (!/^[eEfFgG%]?$/.test(type)) throw new Fault(`unknown format code "${type}" for a ${typeName(value)}`);
  const float = toFloat(number);
  return laidOut(isNegative(float), floatDigits(float, layout), layout, meter);
}

function character(code: bigint): string {
  if (code < 0n || code > 0x10ffffn) throw new Fault("%c: expected a character's code");
  return String.fromCodePoint(Number(code));
}

/** `format % values`. */
export function percent(format: Str, values: Value, meter: Meter): Str {
  const isTuple = values instanceof List && values.isTuple;
  const queue: readonly Value[] = isTuple ? values.items : [values];
  const isMapping = !isTuple && !isStr(values) && isIterable(values);
  let next = 0;
  const take = (): Value => {
    const value = queue[next++];
    if (value === undefined) throw new Fault("not enough arguments for format string");
    return value;
  };
  const text = raw(format);
  const parts: Str[] = [];
  let done = 0;
  const pattern = /%(?:\(([^)]*)\))?([#0\- +]*)(\*|\d+)?(?:\.(\*|\d+)?)?[hlL]?([\s\S]?)/g;
  for (const match of text.matchAll(pattern)) {
    parts.push(cut(format, done, match.index));
    done = match.index + match[0].length;
    const [whole, key, flags = "", widthText, precisionText, type = ""] = match;
    if (type === "%" && whole === "%%") {
      parts.push(cut(format, match.index, match.index + 1));
      continue;
    }
    let value: Value | undefined;
    if (key !== undefined) {
      if (!(values instanceof Dict)) throw new Fault("format requires a mapping");
      value = values.get(madeOf(key));
      if (value === undefined) throw new Fault(`format: no value for "${key}"`);
    }
    let width = widthText === "*" ? small(take(), "%*") : Number(widthText ?? 0);
    const hasPrecision = /\.(?:\*|\d*)[hlL]?[\s\S]?$/.test(whole);
    const precision = !hasPrecision ? null : precisionText === "*" ? small(take(), "%.*") : Number(precisionText ?? 0);
    const isLeft = flags.includes("-") || width < 0;
    width = Math.abs(width);
    meter.size(width);
    if (type === "%") {
      parts.push("%");
      continue;
    }
    if (!/[srdiuoxXeEfFgGca]/.test(type)) throw new Fault(`unsupported format character "${type}"`);
    if (value === undefined) value = take();
    const zero = flags.includes("0") && !isLeft;
    const align = isLeft ? "<" : ">";
    if (type === "s" || type === "r" || type === "a") {
      let shown = type === "s" ? str(value, meter) : repr(value, meter);
      if (type === "a") shown = asciiEscaped(shown);
      parts.push(padded(precision === null ? shown : cutCharacters(shown, 0, precision), width, align, " ", meter));
      continue;
    }
    if (type === "c") {
      const shown = isStr(value) && lengthOf(value) === 1 ? value : character(whole ? BigInt(small(value, "%c")) : 0n);
      parts.push(padded(shown, width, align, " ", meter));
      continue;
    }
    if (value instanceof Undefined) throw missing(value);
    let number = numeric(value);
    if (number === undefined) throw new Fault(`%${type} format: a number is required, not ${typeName(value)}`);
    const layout: Layout = {
      type: /[diu]/.test(type) ? "d" : type,
      precision,
      alternate: flags.includes("#"),
      fill: zero ? "0" : " ",
      align: zero ? "=" : align,
      sign: flags.includes("+") ? "+" : flags.includes(" ") ? " " : "",
      width,
      grouping: "",
    };
    if (/[diuoxX]/.test(type)) {
      if (typeof number === "number") {
        if (!/[diu]/.test(type)) throw new Fault(`%${type} format: an integer is required, not float`);
        if (!Number.isFinite(number)) throw new Fault("cannot convert this float to an int");
        number = BigInt(Math.trunc(number));
      }
      let digits = integerDigits(number, layout);
      if (precision !== null) {
        meter.size(precision);
        digits = digits.replace(/^(0[oxX])?/, (prefix) => prefix).padStart(precision, "0");
        if (layout.alternate && layout.type !== "d") throw unsupported("# together with a precision");
      }
      parts.push(laidOut(number < 0n, digits, layout, meter));
    } else {
      const float = toFloat(number);
      const finite = Number.isFinite(float) ? layout : { ...layout, fill: " ", align: align as Layout["align"] };
      parts.push(laidOut(isNegative(float), floatDigits(float, layout), finite, meter));
    }
  }
  parts.push(cut(format, done));
  if (next < queue.length && !isMapping) throw new Fault("not all arguments converted during string formatting");
  return concat(parts);
}

function asciiEscaped(text: Str): Str {
  return replacing(text, /[^ -~]/gu, (c) => {
    const code = c.codePointAt(0) ?? 0;
    if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
    return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
  });
}

/** How a field of `str.format` finds its value: as `.name` and `[index]` do in a template. */
export interface Lookup {
  attribute(object: Value, name: string): Value;
  item(object: Value, index: Value): Value;
}

/** `format.format(*positional, **named)`. */
export function formatFields(format: Str, given: Arguments, lookup: Lookup, meter: Meter, depth = 0): Str {
  if (depth > 1) throw new Fault("max string recursion exceeded");
  const text = raw(format);
  const parts: Str[] = [];
  let automatic = 0;
  let isNumbered = false;
  let at = 0;
  while (at < text.length) {
    const brace = /[{}]/.exec(text.slice(at));
    if (brace === null) {
      parts.push(cut(format, at));
      break;
    }
    const open = at + brace.index;
    parts.push(cut(format, at, open));
    if (text[open + 1] === text[open]) {
      parts.push(cut(format, open, open + 1));
      at = open + 2;
      continue;
    }
    if (brace[0] === "}") throw new Fault("single '}' encountered in format string");
    let level = 1;
    let end = open + 1;
    for (; end < text.length && level > 0; end++) level += text[end] === "{" ? 1 : text[end] === "}" ? -1 : 0;
    if (level > 0) throw new Fault("expected '}' before end of string");
    const field = text.slice(open + 1, end - 1);
    const [, path = "", conversion, , specificationText] =
      /^((?:[^[!:]|\[[^\]]*\])*)(?:!([\s\S]))?(:([\s\S]*))?$/.exec(field) ?? [];
    if (path === "" && conversion === undefined && specificationText === undefined && field !== "") {
      throw new Fault(`invalid format field "${field}"`);
    }
    const [, first = "", rest = ""] = /^([^.[]*)([\s\S]*)$/.exec(path) ?? [];
    let value: Value | undefined;
    if (first === "" || /^\d+$/.test(first)) {
      if (first !== "") isNumbered = true;
      if (isNumbered && (first === "" || automatic > 0))
        throw new Fault("format: numbered and unnumbered fields together");
      value = given.positional[first === "" ? automatic++ : Number(first)];
      if (value === undefined) throw new Fault("format: not enough positional arguments");
    } else {
      value = given.named.get(first);
      if (value === undefined) throw new Fault(`format: no value for "${first}"`);
    }
    for (const [, attribute, index] of rest.matchAll(/\.([^.[]*)|\[([^\]]*)\]/g)) {
      value =
        attribute !== undefined
          ? lookup.attribute(value, attribute)
          : lookup.item(value, /^\d+$/.test(index ?? "") ? BigInt(index ?? "0") : (index ?? ""));
    }
    if (conversion === "r") value = repr(value, meter);
    else if (conversion === "s") value = str(value, meter);
    else if (conversion === "a") value = asciiEscaped(repr(value, meter));
    else if (conversion !== undefined) throw new Fault(`unknown conversion "${conversion}" in a format`);
    const specification = specificationText ?? "";
    const filled: Str = specification.includes("{")
      ? formatFields(cut(format, end - 1 - specification.length, end - 1), given, lookup, meter, depth + 1)
      : specification;
    parts.push(formatValue(value, filled, meter));
    at = end;
  }
  return concat(parts);
}

// ---- time ------------------------------------------------------------------------------------------------------------

const days = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const months = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
];

/** `datetime.now().strftime(format)` in English. */
export function strftime(format: string, now: Date): string {
  const pad = (value: number, width = 2, fill = "0"): string => String(value).padStart(width, fill);
  const hour = now.getHours() % 12 === 0 ? 12 : now.getHours() % 12;
  const dayOfYear =
    Math.round(
      (Date.UTC(now.getFullYear(), now.getMonth(), now.getDate()) - Date.UTC(now.getFullYear(), 0, 1)) / 864e5,
    ) + 1;
  const day = days[now.getDay()] ?? "";
  const month = months[now.getMonth()] ?? "";
  const codes: Readonly<Record<string, () => string>> = {
    a: () => day.slice(0, 3),
    A: () => day,
    b: () => month.slice(0, 3),
    h: () => month.slice(0, 3),
    B: () => month,
    c: () => strftime("%a %b %e %H:%M:%S %Y", now),
    d: () => pad(now.getDate()),
    D: () => strftime("%m/%d/%y", now),
    e: () => pad(now.getDate(), 2, " "),
    f: () => pad(now.getMilliseconds() * 1000, 6),
    F: () => strftime("%Y-%m-%d", now),
    H: () => pad(now.getHours()),
    I: () => pad(hour),
    j: () => pad(dayOfYear, 3),
    m: () => pad(now.getMonth() + 1),
    M: () => pad(now.getMinutes()),
    n: () => "\n",
    p: () => (now.getHours() < 12 ? "AM" : "PM"),
    R: () => strftime("%H:%M", now),
    S: () => pad(now.getSeconds()),
    t: () => "\t",
    T: () => strftime("%H:%M:%S", now),
    u: () => String(now.getDay() === 0 ? 7 : now.getDay()),
    w: () => String(now.getDay()),
    x: () => strftime("%m/%d/%y", now),
    X: () => strftime("%H:%M:%S", now),
    y: () => pad(now.getFullYear() % 100),
    Y: () => String(now.getFullYear()),
    z: () => "",
    Z: () => "",
    "%": () => "%",
  };
  return format.replace(/%(-?)([\s\S]?)/g, (whole, plain: string, code: string) => {
    const write = codes[code];
    if (write === undefined) throw unsupported(`"${whole}" of strftime`);
    const text = write();
    return plain === "" ? text : text.replace(/^[0 ]+(?=.)/, "");
  });
}
