/**
 * Strings that know which of their characters came from outside. A template's own text may hold control tokens; what a
 * user wrote may not, and it has to be found again after a template has cut, joined and replaced it. A plain JavaScript
 * string is trusted as a whole; a `Text` has untrusted spans. A template sees the characters alone: both look the same.
 */

/** A string with untrusted spans. */
export class Text {
  readonly text: string;
  /** Start and end of each untrusted span, in UTF-16 units, ascending, none empty. */
  readonly spans: readonly number[];

  constructor(text: string, spans: readonly number[]) {
    this.text = text;
    this.spans = spans;
  }
}

export type Str = string | Text;

export function isStr(value: unknown): value is Str {
  return typeof value === "string" || value instanceof Text;
}

/** The characters. */
export function raw(value: Str): string {
  return typeof value === "string" ? value : value.text;
}

/** A string that came from outside as a whole. */
export function untrusted(text: string): Str {
  return text === "" ? "" : new Text(text, [0, text.length]);
}

/** A text made of others in a way that does not say which character is whose: untrusted as soon as one of them is. */
export function madeOf(text: string, ...sources: readonly Str[]): Str {
  return sources.some((source) => source instanceof Text) ? untrusted(text) : text;
}

/** The units from `start` to `end`, as `String.slice` takes non-negative offsets. */
export function cut(value: Str, start: number, end = raw(value).length): Str {
  if (typeof value === "string") return value.slice(start, end);
  const spans: number[] = [];
  for (let i = 0; i < value.spans.length; i += 2) {
    const from = Math.max(value.spans[i] ?? 0, start);
    const to = Math.min(value.spans[i + 1] ?? 0, end);
    if (from < to) spans.push(from - start, to - start);
  }
  const text = value.text.slice(start, end);
  return spans.length === 0 ? text : new Text(text, spans);
}

export function concat(parts: readonly Str[]): Str {
  if (parts.every((part) => typeof part === "string")) return parts.join("");
  const spans: number[] = [];
  let length = 0;
  for (const part of parts) {
    if (part instanceof Text) {
      for (let i = 0; i < part.spans.length; i += 2) {
        const from = length + (part.spans[i] ?? 0);
        const to = length + (part.spans[i + 1] ?? 0);
        if (spans.at(-1) === from) spans[spans.length - 1] = to;
        else spans.push(from, to);
      }
    }
    length += raw(part).length;
  }
  return new Text(parts.map(raw).join(""), spans);
}

/** The string in another case: each character stays where it was, unless the length changes. */
export function recased(value: Str, text: string): Str {
  if (typeof value === "string") return text;
  return text.length === value.text.length ? new Text(text, value.spans) : untrusted(text);
}

/** Every match of `pattern` (with flag g) replaced by what `replace` makes of its characters. */
export function replacing(value: Str, pattern: RegExp, replace: (match: string) => string): Str {
  if (typeof value === "string") return value.replace(pattern, replace);
  if (value.spans[0] === 0 && value.spans[1] === value.text.length)
    return untrusted(value.text.replace(pattern, replace));
  const parts: Str[] = [];
  let done = 0;
  for (const match of value.text.matchAll(pattern)) {
    const end = match.index + match[0].length;
    parts.push(cut(value, done, match.index), madeOf(replace(match[0]), cut(value, match.index, end)));
    done = end;
  }
  parts.push(cut(value, done));
  return concat(parts);
}

/** `value` cut at each occurrence of `separator`, at most `most` times. */
export function splitAt(value: Str, separator: string, most = Number.POSITIVE_INFINITY): Str[] {
  const text = raw(value);
  const parts: Str[] = [];
  let done = 0;
  while (parts.length < most) {
    const at = text.indexOf(separator, done);
    if (at < 0) break;
    parts.push(cut(value, done, at));
    done = at + separator.length;
  }
  parts.push(cut(value, done));
  return parts;
}

/** Parts with `separator` between them. */
export function joined(parts: readonly Str[], separator: Str): Str {
  return concat(parts.flatMap((part, i) => (i === 0 || separator === "" ? [part] : [separator, part])));
}

const surrogate = /[\ud800-\udfff]/;

/** Characters as Python counts them: code points. */
export function lengthOf(value: Str): number {
  const text = raw(value);
  if (!surrogate.test(text)) return text.length;
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** Each character as a string. */
export function characters(value: Str): Str[] {
  const parts: Str[] = [];
  let at = 0;
  for (const character of raw(value)) {
    parts.push(cut(value, at, at + character.length));
    at += character.length;
  }
  return parts;
}

/** The UTF-16 offset of a character counted in code points. */
export function offsetOf(text: string, character: number): number {
  if (!surrogate.test(text)) return Math.min(character, text.length);
  let at = 0;
  for (let i = 0; i < character && at < text.length; i++) at += (text.codePointAt(at) ?? 0) > 0xffff ? 2 : 1;
  return at;
}

/** The characters from `start` to `end`, counted in code points. */
export function cutCharacters(value: Str, start: number, end: number): Str {
  const text = raw(value);
  return cut(value, offsetOf(text, start), offsetOf(text, end));
}

/** What `str.isspace` of Python takes for blanks. */
const blanks = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
export const blankRun = new RegExp(`[${blanks}]+`, "g");
const isBlank = new RegExp(`^[${blanks}]$`);

/** Without the characters at its ends that are in `chars`, or blanks. */
export function stripped(value: Str, chars: string | null, left: boolean, right: boolean): Str {
  const text = raw(value);
  const set = chars === null ? null : new Set(chars);
  const goes = (character: string): boolean => (set === null ? isBlank.test(character) : set.has(character));
  let start = 0;
  let end = text.length;
  while (left && start < end) {
    const character = String.fromCodePoint(text.codePointAt(start) ?? 0);
    if (!goes(character)) break;
    start += character.length;
  }
  while (right && end > start) {
    const low = text.charCodeAt(end - 1);
    const pair = low >= 0xdc00 && low <= 0xdfff && end - 2 >= start && (text.codePointAt(end - 2) ?? 0) > 0xffff;
    const character = text.slice(end - (pair ? 2 : 1), end);
    if (!goes(character)) break;
    end -= character.length;
  }
  return cut(value, start, end);
}

/** By code points, as Python orders strings. */
export function compareText(a: string, b: string): number {
  if (a === b) return 0;
  if (!surrogate.test(a) && !surrogate.test(b)) return a < b ? -1 : 1;
  const [left, right] = [[...a], [...b]];
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const difference = (left[i]?.codePointAt(0) ?? 0) - (right[i]?.codePointAt(0) ?? 0);
    if (difference !== 0) return difference;
  }
  return left.length - right.length;
}
