/**
 * Regular expressions of a tokenizer.json: written for Oniguruma, run by JavaScript's engine, which backtracks and
 * cannot be interrupted. `@huggingface/tokenizers` translates the syntax; here every pattern is judged before its first
 * use. A pattern is refused where it does not translate, could match nothing, or could take more than linear time for
 * one attempt at one position. What remains (linear attempts at many positions) is stopped by a clock between attempts.
 */
import * as tokenizers from "@huggingface/tokenizers";
import { printable, TokenizerError } from "./error.ts";

/** The library's translator. Its declarations lack file extensions and do not resolve here. */
const { SplitPreTokenizer } = tokenizers as unknown as {
  readonly SplitPreTokenizer: new (config: object) => { readonly pattern: RegExp | null };
};

/** A judged pattern, compiled sticky: `exec` attempts a match exactly at `lastIndex`. */
export interface Pattern {
  readonly regex: RegExp;
  /** As the file has it, for messages. */
  readonly source: string;
}

/** What becomes of the matches when a text is split, as in Hugging Face `tokenizers`. */
export type SplitBehavior = "Removed" | "Isolated" | "MergedWithPrevious" | "MergedWithNext" | "Contiguous";

/** A text as a regular expression that matches it and nothing else. */
export function escapeRegex(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
}

/** A pattern of our own or a literal string, which needs no judging. */
export function literalPattern(text: string): Pattern {
  return { regex: new RegExp(escapeRegex(text), "uy"), source: text };
}

/** A pattern of this source code (JavaScript syntax, flag u), known to be harmless. */
export function trustedPattern(regex: RegExp): Pattern {
  return { regex: new RegExp(regex.source, "uy"), source: regex.source };
}

/**
 * Translate and judge a pattern from a file. `where` names file and field, e.g. `tokenizer.json: pre_tokenizer.pattern`.
 * Throws TokenizerError where the pattern is not supported or not safe to run.
 */
export function compilePattern(source: string, where: string): Pattern {
  const refuse = (why: string, cause?: unknown): TokenizerError =>
    new TokenizerError(
      `${where}: expected a supported regular expression, got "${printable(source)}": ${why}`,
      ["The pattern is never run: it could hang or give wrong tokens."],
      3,
      { cause },
    );
  if (source.length > 10_000) throw refuse(`it has ${source.length} characters, the limit is 10000`);
  // The translation drops these three silently, which changes what the pattern matches.
  if (hasOutsideClass(source, /[*+?]\+/y)) throw refuse("possessive quantifiers are not supported");
  if (hasOutsideClass(source, /\(\?>/y)) throw refuse("atomic groups are not supported");
  if (hasOutsideClass(source, /\\G/y)) throw refuse("\\G is not supported");
  let translated: RegExp | null;
  try {
    translated = new SplitPreTokenizer({
      type: "Split",
      pattern: { Regex: source },
      behavior: "Isolated",
      invert: false,
    }).pattern;
  } catch (error) {
    throw refuse(printable(error instanceof Error ? error.message : String(error)), error);
  }
  if (translated === null) throw refuse("it does not translate");
  let alternatives: Alternatives;
  try {
    alternatives = parseRegex(translated.source);
  } catch (error) {
    if (error instanceof UnsupportedRegex) throw refuse(error.message, error);
    throw error;
  }
  if (shortest(alternatives) === 0) throw refuse("it can match nothing");
  const danger = findDanger(alternatives);
  if (danger !== null) throw refuse(danger);
  return { regex: new RegExp(translated.source, "uy"), source };
}

/** Whether `probe` (sticky) matches anywhere outside escapes and [character classes]. */
function hasOutsideClass(source: string, probe: RegExp): boolean {
  let depth = 0;
  for (let i = 0; i < source.length; i++) {
    probe.lastIndex = i;
    if (depth === 0 && probe.test(source)) return true;
    const c = source[i];
    if (c === "\\") i++;
    else if (c === "[") depth++;
    else if (c === "]" && depth > 0) depth--;
  }
  return false;
}

/**
 * Split a text at the matches of a pattern. `invert` swaps matches and the text between them.
 * Throws TokenizerError (exit code 2) when the pattern is too slow on this very text.
 */
export function splitText(text: string, pattern: Pattern, behavior: SplitBehavior, invert: boolean): string[] {
  const pieces: string[] = [];
  let previousMatched = false;
  let first = true;
  const accept = (piece: string, matched: boolean): void => {
    const hit = matched !== invert;
    const last = pieces.length - 1;
    const mergeable = !first && last >= 0;
    switch (behavior) {
      case "Removed":
        if (!hit) pieces.push(piece);
        break;
      case "Isolated":
        pieces.push(piece);
        break;
      case "MergedWithPrevious":
        if (hit && !previousMatched && mergeable) pieces[last] += piece;
        else pieces.push(piece);
        break;
      case "MergedWithNext":
        if (!hit && previousMatched && mergeable) pieces[last] += piece;
        else pieces.push(piece);
        break;
      case "Contiguous":
        if (hit === previousMatched && mergeable) pieces[last] += piece;
        else pieces.push(piece);
        break;
    }
    previousMatched = hit;
    first = false;
  };
  let end = 0;
  for (const [from, to] of matches(text, pattern)) {
    if (from > end) accept(text.slice(end, from), false);
    accept(text.slice(from, to), true);
    end = to;
  }
  if (end < text.length) accept(text.slice(end), false);
  return pieces;
}

/** Replace every match by a fixed text, under the same clock as `splitText`. */
export function replaceMatches(text: string, pattern: Pattern, content: string): string {
  const parts: string[] = [];
  let end = 0;
  for (const [from, to] of matches(text, pattern)) {
    parts.push(text.slice(end, from));
    end = to;
  }
  parts.push(text.slice(end));
  return parts.join(content);
}

function* matches(text: string, pattern: Pattern): Generator<readonly [number, number]> {
  const budgetMs = 2000 + text.length / 500;
  const started = performance.now();
  const { regex } = pattern;
  let attempts = 0;
  let at = 0;
  while (at < text.length) {
    if ((attempts++ & 255) === 0 && performance.now() - started > budgetMs) {
      throw new TokenizerError(
        `this text of ${text.length} characters takes the tokenizer's pattern "${printable(pattern.source)}" more than ${Math.round(budgetMs / 1000)} s`,
        ["Split the text into shorter parts."],
        2,
      );
    }
    regex.lastIndex = at;
    let length: number;
    try {
      length = regex.test(text) ? regex.lastIndex - at : 0;
    } catch (error) {
      throw new TokenizerError(
        `this text of ${text.length} characters is too long for the tokenizer's pattern "${printable(pattern.source)}"`,
        ["Split the text into shorter parts."],
        2,
        { cause: error },
      );
    }
    if (length > 0) {
      yield [at, at + length];
      at += length;
    } else {
      const unit = text.charCodeAt(at);
      at += unit >= 0xd800 && unit < 0xdc00 ? 2 : 1;
    }
  }
}

// ---- judging a translated pattern ------------------------------------------------------------------------------------

type Alternatives = readonly (readonly Item[])[];

interface Item {
  /** One character's worth of pattern (`x`, `\p{L}`, `[a-z]`), or a group, or a look-around or anchor of no width. */
  readonly kind: "character" | "group" | "assertion";
  readonly source: string;
  readonly inner: Alternatives;
  readonly min: number;
  readonly max: number;
}

class UnsupportedRegex extends Error {}

/** Read a JavaScript pattern (flag u) into alternatives. It has already been compiled, so its syntax is right. */
function parseRegex(source: string): Alternatives {
  let at = 0;
  const take = (pattern: RegExp): string => {
    pattern.lastIndex = at;
    const found = pattern.exec(source)?.[0] ?? "";
    at += found.length;
    return found;
  };
  const alternatives = (depth: number): Alternatives => {
    if (depth > 64) throw new UnsupportedRegex("groups are nested more than 64 deep");
    const all: Item[][] = [[]];
    while (at < source.length && source[at] !== ")") {
      if (source[at] === "|") {
        at++;
        all.push([]);
      } else {
        all[all.length - 1]?.push(item(depth));
      }
    }
    return all;
  };
  const item = (depth: number): Item => {
    const start = at;
    let kind: Item["kind"] = "character";
    let inner: Alternatives = [];
    const opening = take(/\((?:\?(?:<?[=!]|:|<[^>]*>))?/y);
    if (opening !== "") {
      kind = /[=!]$/.test(opening) ? "assertion" : "group";
      inner = alternatives(depth + 1);
      at++;
    } else if (take(/[\^$]|\\[bB]/y) !== "") {
      kind = "assertion";
    } else if (take(/\\(?:[1-9]|k<)/y) !== "") {
      throw new UnsupportedRegex("back-references are not supported");
    } else if (
      take(
        /\[(?:\\[\s\S]|[^\]\\])*\]|\\[pP]\{[^}]*\}|\\u\{[^}]*\}|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\c[A-Za-z]|\\[\s\S]|[\s\S]/uy,
      ) === ""
    ) {
      throw new UnsupportedRegex("it could not be read");
    }
    const atom = source.slice(start, at);
    const quantifier = take(/[*+?]|\{\d+(?:,\d*)?\}/y);
    if (quantifier !== "") take(/\?/y);
    const [min, max] = bounds(quantifier);
    return { kind, source: atom, inner, min, max };
  };
  return alternatives(0);
}

function bounds(quantifier: string): readonly [number, number] {
  if (quantifier === "") return [1, 1];
  if (quantifier === "*") return [0, Infinity];
  if (quantifier === "+") return [1, Infinity];
  if (quantifier === "?") return [0, 1];
  const [low = "0", high] = quantifier.slice(1, -1).split(",");
  return [Number(low), high === undefined ? Number(low) : high === "" ? Infinity : Number(high)];
}

/** The fewest characters that the alternatives can match. */
function shortest(alternatives: Alternatives): number {
  const lengths = alternatives.map((items) =>
    items.reduce((sum, item) => sum + item.min * (item.kind === "assertion" ? 0 : itemLength(item)), 0),
  );
  return Math.min(...lengths);
}

function itemLength(item: Item): number {
  return item.kind === "group" ? shortest(item.inner) : 1;
}

/** Beyond so many repetitions a bounded quantifier counts as an unbounded one. */
const manyRepetitions = 16;

/** Why an attempt at one position could take more than linear time, or null. */
function findDanger(alternatives: Alternatives): string | null {
  for (const items of alternatives) {
    for (const item of items) {
      if (item.kind !== "character") {
        const danger = findDanger(item.inner);
        if (danger !== null) return danger;
      }
      if (item.kind === "group" && item.max > 1 && isAmbiguous(item.inner)) {
        return `"${printable(item.source)}" repeats a group that itself repeats or has alternatives, which can take exponential time`;
      }
    }
    for (const path of expand(items)) {
      const danger = findAmbiguousPair(path);
      if (danger !== null) return danger;
    }
  }
  return null;
}

/** Whether one text could be matched in more than one way. */
function isAmbiguous(alternatives: Alternatives): boolean {
  return (
    alternatives.length > 1 ||
    alternatives.some((items) =>
      items.some((item) => item.kind !== "assertion" && (item.min !== item.max || isAmbiguous(item.inner))),
    )
  );
}

/** All ways through an alternative: groups that must occur once are replaced by their alternatives. */
function expand(items: readonly Item[]): readonly (readonly Item[])[] {
  let paths: Item[][] = [[]];
  for (const item of items) {
    const ways: readonly (readonly Item[])[] =
      item.kind === "group" && item.min === 1 && item.max === 1 ? item.inner.flatMap(expand) : [[item]];
    paths = paths.flatMap((path) => ways.map((way) => [...path, ...way]));
    if (paths.length > 1000) throw new UnsupportedRegex("it has more than 1000 ways through its alternatives");
  }
  return paths;
}

/**
 * Two long repetitions that share characters, with nothing certain between them, may divide a run in many ways. That is
 * harmless only where nothing can fail after the second one, for then the first division tried is taken.
 */
function findAmbiguousPair(path: readonly Item[]): string | null {
  const long = (item: Item): boolean => item.kind !== "assertion" && item.max - item.min > manyRepetitions;
  for (const [i, first] of path.entries()) {
    if (!long(first)) continue;
    let met = 0;
    for (let j = i + 1; j < path.length; j++) {
      const second = path[j];
      if (second === undefined || second.kind === "assertion") continue;
      const shared = overlap(first, second);
      if (long(second) && shared) {
        const rest = path.slice(j + 1);
        if (++met > 1 || rest.some((item) => item.kind === "assertion" || item.min > 0)) {
          return `"${printable(first.source)}" and "${printable(second.source)}" repeat over the same characters, which can take quadratic time`;
        }
      }
      if (second.min > 0 && !shared) break;
    }
  }
  return null;
}

function overlap(a: Item, b: Item): boolean {
  // What a group may match is not worked out; it is taken to overlap with everything.
  if (a.kind === "group" || b.kind === "group") return true;
  const inA = new RegExp(`^${a.source}$`, "u");
  const inB = new RegExp(`^${b.source}$`, "u");
  for (const character of sampleCharacters()) {
    if (inA.test(character) && inB.test(character)) return true;
  }
  return false;
}

/** Every character below U+0400 and a sample of the rest: classes that overlap at all do so among these. */
function* sampleCharacters(): Generator<string> {
  for (let code = 0; code < 0x400; code++) yield String.fromCodePoint(code);
  for (let code = 0x400; code < 0x30000; code += code < 0x3100 ? 1 : 61) {
    if (code < 0xd800 || code > 0xdfff) yield String.fromCodePoint(code);
  }
}
