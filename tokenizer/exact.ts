/**
 * JSON whose numbers and keys keep their form. A template may print `2.0`, an int of twenty digits, or an object in the
 * order of its keys, and JavaScript's own reader loses all three.
 */

/** A number that was written as a fraction or with an exponent and is whole: 2.0, 1e5. */
export class Float {
  readonly value: number;
  constructor(value: number) {
    this.value = value;
  }
  toJSON(): number {
    return this.value;
  }
}

/** Where an object keeps the order of its keys; only where JavaScript has another. */
const order = Symbol("order");

/** Entries in the order in which they were written, where it is known. */
export function entriesOf(value: object): readonly (readonly [string, unknown])[] {
  const known = (value as { readonly [order]?: readonly string[] })[order];
  const entries = Object.entries(value);
  if (known === undefined) return entries;
  const places = new Map(known.map((key, i) => [key, i]));
  const placeOf = ([key]: readonly [string, unknown]): number => places.get(key) ?? known.length;
  return entries.sort((a, b) => placeOf(a) - placeOf(b));
}

/**
 * As `JSON.parse`, and throws what it throws. An int that a JavaScript number does not hold is a bigint, a whole number
 * written as a fraction or with an exponent a `Float`.
 */
export function parseExactJson(text: string): unknown {
  JSON.parse(text); // says what is wrong; from here on the text is JSON
  const token = /"(?:\\.|[^"\\])*"|-?\d[\d.eE+-]*|[[\]{},:]|true|false|null/g;
  const next = (): string => token.exec(text)?.[0] ?? "";
  const read = (first: string): unknown => {
    if (first === "[") {
      const list: unknown[] = [];
      for (let part = next(); part !== "]"; part = next()) if (part !== ",") list.push(read(part));
      return list;
    }
    if (first === "{") {
      const entries = new Map<string, unknown>();
      for (let part = next(); part !== "}"; part = next()) {
        if (part === ",") continue;
        next(); // the colon
        entries.set(JSON.parse(part) as string, read(next()));
      }
      const object = Object.fromEntries(entries);
      const keys = [...entries.keys()];
      if (Object.keys(object).some((key, i) => key !== keys[i])) Object.assign(object, { [order]: keys });
      return object;
    }
    return /^[-\d]/.test(first) ? exactNumber(first) : JSON.parse(first);
  };
  return read(next());
}

function exactNumber(text: string): unknown {
  const value = Number(text);
  if (!/[.eE]/.test(text)) return Number.isSafeInteger(value) ? value + 0 : BigInt(text);
  return Number.isInteger(value) || !Number.isFinite(value) ? new Float(value) : value;
}

/** The value as JSON again, with lists and objects over several lines. */
export function writeExactJson(value: unknown, indent = ""): string {
  const inner = `${indent}  `;
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Float) {
    const text = String(value.value);
    if (!Number.isFinite(value.value)) return value.value > 0 ? "1e999" : "-1e999";
    if (Object.is(value.value, -0)) return "-0.0";
    return /[.e]/.test(text) ? text : `${text}.0`;
  }
  if (Array.isArray(value)) {
    if (value.length === 0) return "[]";
    return `[\n${value.map((item) => inner + writeExactJson(item, inner)).join(",\n")}\n${indent}]`;
  }
  if (typeof value === "object" && value !== null) {
    const entries = entriesOf(value).filter(([, item]) => item !== undefined);
    if (entries.length === 0) return "{}";
    const lines = entries.map(([key, item]) => `${inner}${JSON.stringify(key)}: ${writeExactJson(item, inner)}`);
    return `{\n${lines.join(",\n")}\n${indent}}`;
  }
  return JSON.stringify(value) ?? "null";
}
