/**
 * The components of a tokenizer.json (normalizer, pre-tokenizer, decoder, post-processor), each read into a list of steps
 * that are known, and bounded in what they can make of a text.
 */

import { printable } from "./error.ts";
import { countAt, fail, file, flagAt, type Json, listAt, objectAt, stringAt } from "./json.ts";
import { compilePattern, literalPattern, type Pattern, type SplitBehavior } from "./pattern.ts";

export type NormalizerStep =
  | { readonly type: "Prepend"; readonly content: string }
  | { readonly type: "Replace"; readonly pattern: Pattern | string; readonly content: string }
  | { readonly type: "Unicode"; readonly form: "NFC" | "NFD" | "NFKC" | "NFKD" }
  | { readonly type: "Strip"; readonly left: boolean; readonly right: boolean }
  | { readonly type: "Lowercase" }
  | { readonly type: "StripAccents" };

export type PreTokenizerStep =
  | { readonly type: "ByteLevel"; readonly prefixSpace: boolean; readonly useRegex: boolean }
  | { readonly type: "Split"; readonly pattern: Pattern; readonly behavior: SplitBehavior; readonly invert: boolean }
  | { readonly type: "Digits"; readonly individual: boolean }
  | { readonly type: "Punctuation"; readonly behavior: SplitBehavior }
  | { readonly type: "Whitespace" }
  | { readonly type: "WhitespaceSplit" }
  | {
      readonly type: "Metaspace";
      readonly replacement: string;
      readonly scheme: "always" | "first" | "never";
      readonly split: boolean;
    };

export type DecoderStep =
  | { readonly type: "ByteLevel" }
  | { readonly type: "ByteFallback" }
  | { readonly type: "Fuse" }
  | { readonly type: "Replace"; readonly pattern: Pattern | string; readonly content: string }
  | { readonly type: "Strip"; readonly content: string; readonly start: number; readonly stop: number }
  | { readonly type: "Metaspace"; readonly replacement: string; readonly scheme: "always" | "first" | "never" };

const deepestNesting = 64;
const mostSteps = 100;
const longestInsertion = 64;

/** Components may stand in nested Sequences; the steps are listed one after the other, with their paths. */
function flatten(
  value: unknown,
  listName: string,
  path: string,
  depth: number,
): readonly { readonly json: Json; readonly path: string }[] {
  if (depth > deepestNesting) fail(path, `a Sequence nested at most ${deepestNesting} deep`, "a deeper one");
  if (value === null || value === undefined) return [];
  const json = objectAt(value, path);
  if (json.type !== "Sequence") return [{ json, path }];
  const list = listAt(json[listName], `${path}.${listName}`);
  const steps = list
    .slice(0, mostSteps + 1)
    .flatMap((step, i) => flatten(step, listName, `${path}.${listName}[${i}]`, depth + 1));
  return steps.length > mostSteps ? fail(path, `at most ${mostSteps} steps`, "more") : steps;
}

/** A text that a step puts in: bounded, so that a few steps cannot blow a short prompt up to gigabytes. */
function insertionAt(value: unknown, path: string): string {
  const text = stringAt(value, path);
  if (text.length > longestInsertion) {
    fail(path, `at most ${longestInsertion} characters`, `${text.length} characters`);
  }
  return text;
}

/** `{ "String": "x" }` gives the string itself, `{ "Regex": "x" }` a judged pattern. */
function patternAt(value: unknown, path: string): Pattern | string {
  const json = objectAt(value, path);
  if (json.Regex !== undefined) {
    return compilePattern(stringAt(json.Regex, `${path}.Regex`), `${file}: ${path}.Regex`);
  }
  const text = stringAt(json.String, `${path}.String`);
  return text === "" ? fail(`${path}.String`, "at least one character", text) : text;
}

export function readNormalizer(value: unknown, root: string, depth: number): readonly NormalizerStep[] {
  return flatten(value, "normalizers", root, depth).map(({ json, path }): NormalizerStep => {
    switch (json.type) {
      case "Prepend":
        return { type: "Prepend", content: insertionAt(json.prepend, `${path}.prepend`) };
      case "Replace":
        return {
          type: "Replace",
          pattern: patternAt(json.pattern, `${path}.pattern`),
          content: insertionAt(json.content, `${path}.content`),
        };
      case "NFC":
      case "NFD":
      case "NFKC":
      case "NFKD":
        return { type: "Unicode", form: json.type };
      case "Strip":
        return {
          type: "Strip",
          left: flagAt(json, "strip_left", path, false),
          right: flagAt(json, "strip_right", path, false),
        };
      case "Lowercase":
      case "StripAccents":
        return { type: json.type };
      default:
        return fail(
          `${path}.type`,
          "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, Strip, Lowercase or StripAccents",
          json.type,
        );
    }
  });
}

const behaviors: readonly SplitBehavior[] = [
  "Removed",
  "Isolated",
  "MergedWithPrevious",
  "MergedWithNext",
  "Contiguous",
];

function behaviorAt(value: unknown, path: string): SplitBehavior {
  return behaviors.find((name) => name === value) ?? fail(path, behaviors.join(", "), value);
}

export function readPreTokenizer(value: unknown): readonly PreTokenizerStep[] {
  const parts = flatten(value, "pretokenizers", "pre_tokenizer", 0);
  return parts.map(({ json, path }, i): PreTokenizerStep => {
    switch (json.type) {
      case "ByteLevel":
        // After it the text is written in stand-ins for bytes, which no other step here expects.
        if (i + 1 < parts.length) fail(path, "ByteLevel as the last step", "another step after it");
        return {
          type: "ByteLevel",
          prefixSpace: flagAt(json, "add_prefix_space", path, true),
          useRegex: flagAt(json, "use_regex", path, true),
        };
      case "Split": {
        const pattern = patternAt(json.pattern, `${path}.pattern`);
        return {
          type: "Split",
          pattern: typeof pattern === "string" ? literalPattern(pattern) : pattern,
          behavior: behaviorAt(json.behavior, `${path}.behavior`),
          invert: flagAt(json, "invert", path, false),
        };
      }
      case "Digits":
        return { type: "Digits", individual: flagAt(json, "individual_digits", path, false) };
      case "Punctuation":
        return { type: "Punctuation", behavior: behaviorAt(json.behavior ?? "Isolated", `${path}.behavior`) };
      case "Whitespace":
      case "WhitespaceSplit":
        return { type: json.type };
      case "Metaspace":
        return { type: "Metaspace", ...metaspaceAt(json, path), split: flagAt(json, "split", path, true) };
      default:
        return fail(
          `${path}.type`,
          "Sequence, ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit or Metaspace",
          json.type,
        );
    }
  });
}

function metaspaceAt(
  json: Json,
  path: string,
): { readonly replacement: string; readonly scheme: "always" | "first" | "never" } {
  const replacement = stringAt(json.replacement ?? "\u2581", `${path}.replacement`);
  if ([...replacement].length !== 1) fail(`${path}.replacement`, "one character", replacement);
  const scheme = json.prepend_scheme ?? (json.add_prefix_space === false ? "never" : "always");
  if (scheme !== "always" && scheme !== "first" && scheme !== "never") {
    fail(`${path}.prepend_scheme`, '"always", "first" or "never"', scheme);
  }
  return { replacement, scheme };
}

export function readDecoder(value: unknown): readonly DecoderStep[] | null {
  if (value === null || value === undefined) return null;
  let fused = false;
  return flatten(value, "decoders", "decoder", 0).map(({ json, path }): DecoderStep => {
    switch (json.type) {
      case "ByteLevel":
      case "Fuse": {
        // Both make one text of all tokens.
        if (fused && json.type === "ByteLevel") fail(path, "ByteLevel before Fuse", "it after");
        fused = true;
        return { type: json.type };
      }
      case "ByteFallback":
        if (fused) fail(path, "ByteFallback before Fuse", "it after");
        return { type: "ByteFallback" };
      case "Replace":
        // A match could lie across two tokens, so it could not be told before the last one.
        if (fused) fail(path, "Replace before Fuse", "it after");
        return {
          type: "Replace",
          pattern: patternAt(json.pattern, `${path}.pattern`),
          content: insertionAt(json.content, `${path}.content`),
        };
      case "Strip": {
        const content = stringAt(json.content, `${path}.content`);
        if ([...content].length !== 1) fail(`${path}.content`, "one character", content);
        return {
          type: "Strip",
          content,
          start: countAt(json.start ?? 0, `${path}.start`, 1000),
          stop: countAt(json.stop ?? 0, `${path}.stop`, 1000),
        };
      }
      case "Metaspace":
        if (fused) fail(path, "Metaspace before Fuse", "it after");
        return { type: "Metaspace", ...metaspaceAt(json, path) };
      default:
        return fail(`${path}.type`, "Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip or Metaspace", json.type);
    }
  });
}

export function readPostProcessor(
  value: unknown,
  tokenOf: readonly (string | undefined)[],
): { readonly prefixIds: readonly number[]; readonly suffixIds: readonly number[] } {
  const prefixIds: number[] = [];
  const suffixIds: number[] = [];
  for (const { json, path } of flatten(value, "processors", "post_processor", 0)) {
    if (json.type === "ByteLevel") continue;
    if (json.type === "BertProcessing" || json.type === "RobertaProcessing") {
      prefixIds.unshift(idOfPair(json.cls, `${path}.cls`));
      suffixIds.push(idOfPair(json.sep, `${path}.sep`));
      continue;
    }
    if (json.type !== "TemplateProcessing") {
      const types = "Sequence, ByteLevel, TemplateProcessing, BertProcessing or RobertaProcessing";
      fail(`${path}.type`, types, json.type);
    }
    const specials = objectAt(json.special_tokens ?? {}, `${path}.special_tokens`);
    const before: number[] = [];
    let sequenceSeen = false;
    for (const [i, entry] of listAt(json.single, `${path}.single`).entries()) {
      const where = `${path}.single[${i}]`;
      const part = objectAt(entry, where);
      if (part.Sequence !== undefined) {
        if (sequenceSeen) fail(where, "one Sequence", "another");
        sequenceSeen = true;
        continue;
      }
      const name = stringAt(objectAt(part.SpecialToken, `${where}.SpecialToken`).id, `${where}.SpecialToken.id`);
      const special = objectAt(
        Object.hasOwn(specials, name) ? specials[name] : undefined,
        `${path}.special_tokens["${printable(name)}"]`,
      );
      for (const id of listAt(special.ids, `${path}.special_tokens["${printable(name)}"].ids`)) {
        if (typeof id !== "number" || tokenOf[id] === undefined) {
          fail(`${path}.special_tokens["${printable(name)}"].ids`, "ids of the vocabulary", id);
        }
        if (sequenceSeen) suffixIds.push(id);
        else before.push(id);
      }
    }
    if (!sequenceSeen) fail(`${path}.single`, "a Sequence", "none");
    // A later processor wraps what the earlier ones made.
    prefixIds.unshift(...before);
  }
  return { prefixIds, suffixIds };
}

/** The id in `["</s>", 2]`. */
function idOfPair(value: unknown, path: string): number {
  const [, id] = listAt(value, path);
  return countAt(id, `${path}[1]`, 2 ** 32 - 1);
}
