/** A conversation's messages as data: checked before a template sees them, and kept from writing control tokens. */
import type { ChatMessage } from "./chat.ts";
import { printable, TokenizerError } from "./error.ts";

const roles: readonly string[] = ["system", "developer", "user", "assistant", "tool"];

/**
 * Check a conversation, e.g. one parsed from a user's JSON. Throws TokenizerError (exit code 2) that names the field:
 * not a list, an unknown role, content that is no string. Returns a copy in plain JSON.
 */
export function checkMessages(messages: unknown): readonly ChatMessage[] {
  const refuse = (path: string, expected: string, got: unknown): never => {
    const shown =
      got === undefined ? "nothing" : got === null || typeof got !== "object" ? JSON.stringify(got) : "another value";
    throw new TokenizerError(`${path}: expected ${expected}, got ${printable(shown)}`, [], 2);
  };
  if (!Array.isArray(messages)) return refuse("messages", "a list of { role, content }", messages);
  if (messages.length === 0) return refuse("messages", "at least one message", "an empty list");
  return messages.map((message: unknown, i) => {
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      return refuse(`messages[${i}]`, "{ role, content }", message);
    }
    const { role, content } = message as { role?: unknown; content?: unknown };
    if (typeof role !== "string" || !roles.includes(role)) {
      return refuse(`messages[${i}].role`, roles.join(", "), role);
    }
    if (typeof content !== "string") return refuse(`messages[${i}].content`, "a string", content);
    return { ...plainJson(message), role, content };
  });
}

/** A copy that holds nothing but JSON: no functions, accessors or objects of the host for a template to reach. */
export function plainJson(value: object): Record<string, unknown> {
  try {
    return JSON.parse(JSON.stringify(value)) as Record<string, unknown>;
  } catch (error) {
    const why = error instanceof RangeError ? "values nested too deeply" : "something else";
    throw new TokenizerError(`messages and template variables: expected plain JSON values, got ${why}`, [], 2, {
      cause: error,
    });
  }
}

/** A non-character of Unicode that does not occur in the text. */
export function unusedCharacter(text: string): string {
  for (let code = 0xfdd0; code <= 0xfdef; code++) {
    const character = String.fromCharCode(code);
    if (!text.includes(character)) return character;
  }
  throw new TokenizerError("messages: expected text, got all 32 of Unicode's non-characters U+FDD0 to U+FDEF", [], 2);
}

/** Put the mark into every control token in the strings of a value, after the token's first character. */
export function markStrings<T extends object>(value: T, controls: readonly string[], mark: string): T {
  const breakable = controls.filter((token) => token.length > 1);
  if (breakable.length === 0) return value;
  const find = new Map(breakable.map((token) => [token, [...token][0] ?? ""]));
  const starts = new Set([...find.values()]);
  const markText = (text: string): string => {
    let result = text;
    for (const [token, head] of find) {
      if (result.includes(token)) result = result.replaceAll(token, () => head + mark + token.slice(head.length));
    }
    // The beginning of a token at the very end could be completed by the text that follows in the template.
    for (let at = Math.max(0, result.length - 64); at < result.length; at++) {
      const tail = result.slice(at);
      const head = [...tail][0] ?? "";
      if (starts.has(head) && breakable.some((token) => token.startsWith(tail))) {
        return result.slice(0, at) + head + mark + tail.slice(head.length);
      }
    }
    return result;
  };
  const walk = (part: unknown): unknown => {
    if (typeof part === "string") return markText(part);
    if (Array.isArray(part)) return part.map(walk);
    if (typeof part === "object" && part !== null) {
      return Object.fromEntries(Object.entries(part).map(([key, inner]) => [key, walk(inner)]));
    }
    return part;
  };
  return walk(value) as T;
}
