/** Normalizers: what is done to a text before it is cut into pieces, step by step, as tokenizer.json lists it. */
import type { NormalizerStep } from "./components.ts";
import { TokenizerError } from "./error.ts";
import { type Pattern, replaceMatches } from "./pattern.ts";

/** A normalized text. `keepsStart`: it begins with what the text began with, of which nothing was cut off. */
export interface Normalized {
  readonly text: string;
  readonly keepsStart: boolean;
}

/** Do all steps. Throws TokenizerError where they make far more of a text than normalization can. */
export function normalize(text: string, steps: readonly NormalizerStep[]): Normalized {
  let result = text;
  let keepsStart = true;
  // No normalization makes a character into more than 18 others; what grows faster is an attack.
  const most = 32 * text.length + 4096;
  for (const step of steps) {
    keepsStart &&= !cutsStart(result, step);
    result = normalizeStep(result, step);
    if (result.length > most) {
      throw new TokenizerError(
        `tokenizer.json: normalizer: expected at most ${most} characters from ${text.length}, got ${result.length}`,
      );
    }
  }
  return { text: result, keepsStart };
}

function cutsStart(text: string, step: NormalizerStep): boolean {
  switch (step.type) {
    case "Strip":
      return step.left && blanksAtStart(text, 0) > 0;
    case "StripAccents":
      return /^\p{Mn}/u.test(text);
    case "Replace": {
      // What replaces several characters stands where the last of them stood.
      const length = matchAtStart(text, step.pattern);
      return length > 0 && (step.content === "" || Array.from(text.slice(0, length)).length > 1);
    }
    default:
      return false;
  }
}

function matchAtStart(text: string, pattern: Pattern | string): number {
  if (typeof pattern === "string") return text.startsWith(pattern) ? pattern.length : 0;
  pattern.regex.lastIndex = 0;
  return pattern.regex.test(text) ? pattern.regex.lastIndex : 0;
}

function normalizeStep(text: string, step: NormalizerStep): string {
  switch (step.type) {
    case "Prepend":
      return text === "" ? "" : step.content + text;
    case "Replace":
      return typeof step.pattern === "string"
        ? text.split(step.pattern).join(step.content)
        : replaceMatches(text, step.pattern, step.content);
    case "Unicode":
      return text.normalize(step.form);
    case "Strip": {
      const left = step.left ? blanksAtStart(text, 0) : 0;
      const right = step.right ? blanksBefore(text, text.length, left) : text.length;
      return text.slice(left, right);
    }
    case "Lowercase":
      // Character by character: of a whole text JavaScript writes a sigma at a word's end in another way.
      return Array.from(text, (character) => character.toLowerCase()).join("");
    case "StripAccents":
      return text.replace(/\p{Mn}/gu, "");
  }
}

function isBlank(unit: number): boolean {
  return unit <= 0x20 || unit >= 0x7f ? /^\p{White_Space}$/u.test(String.fromCharCode(unit)) : false;
}

/** The offset after the blanks that start at `offset`. */
export function blanksAtStart(text: string, offset: number): number {
  let at = offset;
  while (at < text.length && isBlank(text.charCodeAt(at))) at++;
  return at;
}

/** The offset of the first of the blanks that end at `offset`, no earlier than `least`. */
export function blanksBefore(text: string, offset: number, least: number): number {
  let at = offset;
  while (at > least && isBlank(text.charCodeAt(at - 1))) at--;
  return at;
}
