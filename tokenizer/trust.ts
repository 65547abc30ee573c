/**
 * Who wrote what in a conversation, and what follows from it. What the assistant said earlier came from the model, and a
 * control token's text in it is that token. Everything else in messages and variables is data: there it stays text. A
 * template sees the strings as they are; which of the rendered characters are data, the strings themselves know.
 */
import type { ChatMessage } from "./chat.ts";
import { printable, TokenizerError } from "./error.ts";
import { entriesOf, Float } from "./exact.ts";
import { type Str, Text, untrusted } from "./jinja/text.ts";
import { Dict, List, type Value } from "./jinja/values.ts";

/** Names under which a message's reasoning is given; the first is the one that templates read. */
const reasoningFields = ["reasoning_content", "thinking", "reasoning"];

/**
 * The messages as a template sees them, which is how `transformers` 5.23 hands them over: fields that are null are left
 * out, and a message's reasoning has all the names that templates read it under.
 */
export function messagesValue(messages: readonly ChatMessage[]): Value {
  return new List(
    messages.map((message) => {
      const isTrusted = message.role === "assistant";
      const given = new Map<string, Value>();
      for (const [key, value] of entriesOf(message)) {
        if (value === null || value === undefined || !isJson(value)) continue;
        // A role is part of the conversation's form, unless it is written like more than a name.
        given.set(key, jsonValue(value, isTrusted || (key === "role" && /^[\w-]+$/.test(message.role))));
      }
      const named = reasoningFields.find((name) => given.has(name));
      const reasoning = named === undefined ? undefined : given.get(named);
      if (reasoning === undefined) return new Dict(given);
      return new Dict([["thinking", reasoning], ...given, ["reasoning_content", reasoning]]);
    }),
  );
}

/** Whether JSON has a form for it; the rest is left out, as `JSON.stringify` does. */
function isJson(value: unknown): boolean {
  return value !== undefined && typeof value !== "function" && typeof value !== "symbol";
}

/** Plain JSON as a template's value: nothing of the host is in it. Data unless `isTrusted`. */
export function jsonValue(value: unknown, isTrusted: boolean, depth = 0): Value {
  if (depth > 1000) throw notJson("values nested too deeply");
  if (typeof value === "string") return isTrusted ? value : untrusted(value);
  if (typeof value === "boolean" || value === null || typeof value === "bigint") return value;
  if (typeof value === "number") return Number.isInteger(value) ? BigInt(value) : value;
  if (value instanceof Float) return value.value;
  if (typeof value !== "object") return null;
  const plain = "toJSON" in value && typeof value.toJSON === "function" ? (value.toJSON() as unknown) : value;
  if (plain !== value) return jsonValue(plain, isTrusted, depth + 1);
  if (Array.isArray(value)) return new List(value.map((item) => jsonValue(item, isTrusted, depth + 1)));
  const entries = entriesOf(value).filter(([, item]) => isJson(item));
  return new Dict(
    entries.map(([key, item]) => [isTrusted ? key : untrusted(key), jsonValue(item, isTrusted, depth + 1)] as const),
  );
}

function notJson(why: string): TokenizerError {
  return new TokenizerError(
    `messages and template variables: expected plain JSON values, got ${printable(why)}`,
    [],
    2,
  );
}

/** A rendered text in which no control token's text is left that data has a part in, and the mark that was put in it. */
export interface Shielded {
  readonly text: string;
  /** A character to take out again once tokens were found; undefined where no character is data. */
  readonly mark: string | undefined;
}

/** Put a mark into each occurrence of a token of which a character is data. Other occurrences stay whole. */
export function shielded(rendered: Str, tokens: readonly string[]): Shielded {
  if (!(rendered instanceof Text)) return { text: rendered, mark: undefined };
  const { text, spans } = rendered;
  const mark = unusedCharacter(text);
  const places = new Set<number>();
  for (const token of tokens) {
    if (token.length < 2) continue;
    for (let at = text.indexOf(token); at >= 0; at = text.indexOf(token, at + 1)) {
      const first = firstAfter(spans, at);
      if (first === undefined || first >= at + token.length) continue;
      // Beside a character that is data, so that no token of the template's own is cut.
      const pair = first === at && token.length > 2 && (text.codePointAt(at) ?? 0) > 0xffff;
      places.add(first > at ? first : at + (pair ? 2 : 1));
    }
  }
  const parts: string[] = [];
  let done = 0;
  for (const place of [...places].sort((a, b) => a - b)) {
    parts.push(text.slice(done, place), mark);
    done = place;
  }
  return { text: parts.join("") + text.slice(done), mark };
}

/** The first character at `offset` or later that lies in a span. */
function firstAfter(spans: readonly number[], offset: number): number | undefined {
  let [low, high] = [0, spans.length / 2];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((spans[2 * middle + 1] ?? 0) > offset) high = middle;
    else low = middle + 1;
  }
  const start = spans[2 * low];
  return start === undefined ? undefined : Math.max(start, offset);
}

/** A non-character of Unicode that does not occur in the text. */
function unusedCharacter(text: string): string {
  for (let code = 0xfdd0; code <= 0xfdef; code++) {
    const character = String.fromCharCode(code);
    if (!text.includes(character)) return character;
  }
  throw new TokenizerError("messages: expected text, got all 32 of Unicode's non-characters U+FDD0 to U+FDEF", [], 2);
}
