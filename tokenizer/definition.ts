/**
 * tokenizer.json (Hugging Face `tokenizers`, version 1.0), read and checked before any of it is used: every component
 * type is known, every id is an integer in range and stands for one token, every merge joins known tokens into a known
 * one. Only byte-pair encoding is supported: all of Microsoft's Phi tokenizers are of that kind.
 */
import { createMergeTable, type MergeRanks, type MergeTable } from "./bpe.ts";
import { printable, TokenizerError } from "./error.ts";
import { compilePattern, literalPattern, type Pattern, type SplitBehavior } from "./pattern.ts";

/** A token that is found in the text before anything else, e.g. `<|end|>`. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Matches only between non-word characters. */
  readonly singleWord: boolean;
  /** Takes the white space before (after) it away. */
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  /** Looked for in the normalized text, not in the raw one. */
  readonly normalized: boolean;
  /** Left out of the decoded text on request. */
  readonly special: boolean;
}

export type NormalizerStep =
  | { readonly type: "Prepend"; readonly content: string }
  | { readonly type: "Replace"; readonly pattern: Pattern | string; readonly content: string }
  | { readonly type: "Unicode"; readonly form: "NFC" | "NFD" | "NFKC" | "NFKD" }
  | { readonly type: "Strip"; readonly left: boolean; readonly right: boolean }
  | { readonly type: "Lowercase" };

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

export interface Merges {
  /** [left, right, result] ids of each merge. */
  readonly triples: Int32Array;
  readonly ranks: MergeRanks;
  readonly table: MergeTable;
}

/** A checked tokenizer.json. */
export interface Definition {
  /** Id of every token, added tokens included. */
  readonly idOf: ReadonlyMap<string, number>;
  /** Token of every id; a hole where no token has the id. */
  readonly tokenOf: readonly (string | undefined)[];
  readonly addedTokens: readonly AddedToken[];
  readonly normalizer: readonly NormalizerStep[];
  readonly preTokenizer: readonly PreTokenizerStep[];
  /** null: tokens are joined with blanks. */
  readonly decoder: readonly DecoderStep[] | null;
  /** Ids that the post-processor puts before and after a single sequence. */
  readonly prefixIds: readonly number[];
  readonly suffixIds: readonly number[];
  readonly merges: Merges;
  readonly unknownId: number | null;
  readonly fuseUnknown: boolean;
  readonly byteFallback: boolean;
  readonly ignoreMerges: boolean;
  /** Oddities that are no errors, one line each. */
  readonly notes: readonly string[];
}

type Json = Readonly<Record<string, unknown>>;

/** Ids are kept in arrays, so a stray id of four billion must not size one. */
const largestId = 2 ** 22 - 1;
/** The heap of the encoder keeps ranks in 21 bits. */
const mostMerges = 2 ** 21;
const deepestNesting = 64;
const mostSteps = 100;
const longestInsertion = 64;
/** Looking for added tokens may try the whole of the longest at each character; the longest of Phi's has 31. */
const longestAddedToken = 256;
const file = "tokenizer.json";

function fail(path: string, expected: string, got: unknown, advice: readonly string[] = []): never {
  throw new TokenizerError(`${file}: ${path}: expected ${expected}, got ${describe(got)}`, advice);
}

function describe(value: unknown): string {
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  return printable(JSON.stringify(value));
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function objectAt(value: unknown, path: string): Json {
  return isObject(value) ? value : fail(path, "an object", value);
}

function listAt(value: unknown, path: string): readonly unknown[] {
  return Array.isArray(value) ? value : fail(path, "a list", value);
}

function stringAt(value: unknown, path: string): string {
  if (typeof value !== "string") fail(path, "a string", value);
  if (/\p{Cs}/u.test(value)) fail(path, "well-formed Unicode", value);
  return value;
}

/** A switch that may be absent or null. */
function flagAt(parent: Json, name: string, path: string, fallback: boolean): boolean {
  const value = parent[name] ?? fallback;
  return typeof value === "boolean" ? value : fail(`${path}.${name}`, "true or false", value);
}

function countAt(value: unknown, path: string, most: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > most) {
    fail(path, `an integer from 0 to ${most}`, value);
  }
  return value;
}

/** What stands in the place of a large file in a Git checkout without its contents. */
export const gitLfsPointer = {
  start: "version https://git-lfs",
  advice: ["Fetch the real file: git lfs pull, or download it from the model's page."],
} as const;

/**
 * Read one of the tokenizer's JSON files. Throws TokenizerError naming the file: empty, too large, a Git LFS pointer,
 * not UTF-8, not JSON, or not an object.
 */
export function parseJsonFile(name: string, bytes: Uint8Array, mostBytes = 2 ** 26): Json {
  if (bytes.length === 0) throw new TokenizerError(`${name}: expected JSON, got an empty file`);
  if (bytes.length > mostBytes) {
    throw new TokenizerError(`${name}: expected at most ${mostBytes} bytes, got ${bytes.length}`);
  }
  const text = decodeTextFile(name, bytes);
  if (text.startsWith(gitLfsPointer.start)) {
    throw new TokenizerError(`${name}: expected JSON, got a Git LFS pointer`, gitLfsPointer.advice);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new TokenizerError(`${name}: expected JSON, got a syntax error: ${printable(why)}`, [], 3, { cause: error });
  }
  if (!isObject(value)) throw new TokenizerError(`${name}: expected a JSON object, got ${describe(value)}`);
  return value;
}

/** The text of a file that must be UTF-8; a byte order mark is dropped. Throws TokenizerError naming the file. */
export function decodeTextFile(name: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new TokenizerError(`${name}: expected UTF-8 text, got invalid bytes`, [], 3, { cause: error });
  }
}

/**
 * Check a parsed tokenizer.json. `embeddingRows` is the number of rows of the model's embedding: a token past it is an
 * error. Truncation and padding settings are ignored. Throws TokenizerError that names the field.
 */
export function readDefinition(json: Json, embeddingRows?: number): Definition {
  const notes: string[] = [];
  if (json.version !== undefined && json.version !== "1.0") fail("version", '"1.0"', json.version);
  const model = objectAt(json.model, "model");
  const type = model.type ?? (model.merges === undefined ? undefined : "BPE");
  if (type !== "BPE") {
    fail("model.type", '"BPE"', type, ["Only byte-pair encoding is supported; Phi models use no other."]);
  }
  for (const affix of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if ((model[affix] ?? "") !== "") fail(`model.${affix}`, "null or an empty string", model[affix]);
  }
  if ((model.dropout ?? 0) !== 0) fail("model.dropout", "null or 0", model.dropout);

  const idOf = new Map<string, number>();
  const tokenOf: (string | undefined)[] = [];
  readVocabulary(model.vocab, idOf, tokenOf, embeddingRows);
  const merges = readMerges(model.merges, idOf, notes);
  const addedTokens = readAddedTokens(json.added_tokens, idOf, tokenOf, embeddingRows, notes);
  const decoder = readDecoder(json.decoder);
  const byteFallback = flagAt(model, "byte_fallback", "model", false);
  if (byteFallback || decoder?.some((step) => step.type === "ByteFallback")) checkByteTokens(idOf);

  let unknownId: number | null = null;
  if ((model.unk_token ?? null) !== null) {
    const unknown = stringAt(model.unk_token, "model.unk_token");
    unknownId = idOf.get(unknown) ?? fail("model.unk_token", "a token of the vocabulary", unknown);
  }
  const { prefixIds, suffixIds } = readPostProcessor(json.post_processor, tokenOf);
  return {
    idOf,
    tokenOf,
    addedTokens,
    normalizer: readNormalizer(json.normalizer, "normalizer", 0),
    preTokenizer: readPreTokenizer(json.pre_tokenizer),
    decoder,
    prefixIds,
    suffixIds,
    merges,
    unknownId,
    fuseUnknown: flagAt(model, "fuse_unk", "model", false),
    byteFallback,
    ignoreMerges: flagAt(model, "ignore_merges", "model", false),
    notes,
  };
}

function checkId(id: unknown, path: string, embeddingRows: number | undefined): number {
  const checked = countAt(id, path, largestId);
  if (embeddingRows !== undefined && checked >= embeddingRows) {
    throw new TokenizerError(
      `${file}: ${path}: token ${checked} has no row in the embedding, which has ${embeddingRows} rows`,
      ["Are the tokenizer and config.json from the same checkpoint?"],
    );
  }
  return checked;
}

function readVocabulary(
  vocab: unknown,
  idOf: Map<string, number>,
  tokenOf: (string | undefined)[],
  embeddingRows: number | undefined,
): void {
  const entries = Object.entries(objectAt(vocab, "model.vocab"));
  if (entries.length === 0) fail("model.vocab", "at least one token", vocab);
  for (const [token, value] of entries) {
    // The path is written only for a bad entry: 200,000 of them would take longer than all the rest.
    const good =
      typeof value === "number" &&
      Number.isInteger(value) &&
      value >= 0 &&
      value < Math.min(embeddingRows ?? Infinity, largestId + 1);
    const id = good ? value : checkId(value, `model.vocab["${printable(token)}"]`, embeddingRows);
    if (/\p{Cs}/u.test(token)) fail(`model.vocab, token of id ${id}`, "well-formed Unicode", token);
    const other = tokenOf[id];
    if (other !== undefined) {
      fail(`model.vocab["${printable(token)}"]`, `an id of its own`, `${id}, the id of "${printable(other)}"`);
    }
    tokenOf[id] = token;
    idOf.set(token, id);
  }
}

function readMerges(value: unknown, idOf: ReadonlyMap<string, number>, notes: string[]): Merges {
  const merges = listAt(value, "model.merges");
  if (merges.length > mostMerges) fail("model.merges", `at most ${mostMerges} merges`, merges);
  const triples = new Int32Array(merges.length * 3);
  for (const [rank, merge] of merges.entries()) {
    const pair = typeof merge === "string" ? cutInTwo(merge) : merge;
    const [left, right] = Array.isArray(pair) && pair.length === 2 ? pair : [];
    if (typeof left !== "string" || typeof right !== "string" || left === "" || right === "") {
      const got = Array.isArray(merge) ? JSON.stringify(merge) : merge;
      fail(`model.merges[${rank}]`, "two tokens", got);
    }
    const leftId = idOf.get(left);
    const rightId = idOf.get(right);
    const resultId = idOf.get(left + right);
    if (leftId === undefined || rightId === undefined || resultId === undefined) {
      const missing = leftId === undefined ? left : rightId === undefined ? right : left + right;
      fail(`model.merges[${rank}]`, "tokens of the vocabulary", missing);
    }
    triples[rank * 3] = leftId;
    triples[rank * 3 + 1] = rightId;
    triples[rank * 3 + 2] = resultId;
  }
  const table = createMergeTable(triples, "places");
  const repeated = merges.length - table.size;
  if (repeated > 0) notes.push(`${file}: model.merges: ${repeated} merges stand twice; the later one counts`);
  return { triples, ranks: "places", table };
}

/** The two sides of a merge written with one blank, or null. Faster than `split` over 200,000 of them. */
function cutInTwo(merge: string): readonly [string, string] | null {
  const at = merge.indexOf(" ");
  return at < 0 || merge.includes(" ", at + 1) ? null : [merge.slice(0, at), merge.slice(at + 1)];
}

function readAddedTokens(
  value: unknown,
  idOf: Map<string, number>,
  tokenOf: (string | undefined)[],
  embeddingRows: number | undefined,
  notes: string[],
): readonly AddedToken[] {
  const tokens: AddedToken[] = [];
  for (const [i, entry] of listAt(value ?? [], "added_tokens").entries()) {
    const path = `added_tokens[${i}]`;
    const json = objectAt(entry, path);
    const content = stringAt(json.content, `${path}.content`);
    if (content.length > longestAddedToken) {
      fail(`${path}.content`, `at most ${longestAddedToken} characters`, `${content.length} characters`);
    }
    const id = checkId(json.id, `${path}.id`, embeddingRows);
    if (content === "") {
      notes.push(`${file}: ${path}: an empty token is ignored`);
      continue;
    }
    const owner = tokenOf[id];
    if (owner !== undefined && owner !== content) {
      fail(`${path}.id`, `an id of its own for "${printable(content)}"`, `${id}, the id of "${printable(owner)}"`);
    }
    const known = idOf.get(content);
    if (known !== undefined && known !== id) fail(`${path}.id`, `${known}, the token's id elsewhere in this file`, id);
    tokenOf[id] = content;
    idOf.set(content, id);
    const special = flagAt(json, "special", path, false);
    tokens.push({
      id,
      content,
      special,
      singleWord: flagAt(json, "single_word", path, false),
      lstrip: flagAt(json, "lstrip", path, false),
      rstrip: flagAt(json, "rstrip", path, false),
      normalized: flagAt(json, "normalized", path, !special),
    });
  }
  return tokens;
}

/** With byte fallback, `<0x41>` stands for a byte; anything of that form that is no byte is a broken vocabulary. */
function checkByteTokens(idOf: ReadonlyMap<string, number>): void {
  for (const [token, id] of idOf) {
    if (token.startsWith("<0x") && token.endsWith(">") && !/^<0x[0-9A-Fa-f]{2}>$/.test(token)) {
      fail(`model.vocab, token of id ${id}`, "a byte from <0x00> to <0xFF>", token);
    }
  }
}

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

function readNormalizer(value: unknown, root: string, depth: number): readonly NormalizerStep[] {
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
        return { type: "Lowercase" };
      default:
        return fail(`${path}.type`, "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, Strip or Lowercase", json.type);
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

function readPreTokenizer(value: unknown): readonly PreTokenizerStep[] {
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

function readDecoder(value: unknown): readonly DecoderStep[] | null {
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

function readPostProcessor(
  value: unknown,
  tokenOf: readonly (string | undefined)[],
): { readonly prefixIds: readonly number[]; readonly suffixIds: readonly number[] } {
  const prefixIds: number[] = [];
  const suffixIds: number[] = [];
  for (const { json, path } of flatten(value, "processors", "post_processor", 0)) {
    if (json.type === "ByteLevel") continue;
    if (json.type !== "TemplateProcessing") {
      fail(`${path}.type`, "Sequence, ByteLevel or TemplateProcessing", json.type);
    }
    const specials = objectAt(json.special_tokens ?? {}, `${path}.special_tokens`);
    const before: number[] = [];
    let sequenceSeen = false;
    for (const [i, entry] of listAt(json.single, `${path}.single`).entries()) {
      const where = `${path}.single[${i}]`;
      const part = objectAt(entry, where);
      if (part.Sequence !== undefined) {
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
