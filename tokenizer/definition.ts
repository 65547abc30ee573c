/**
 * tokenizer.json (Hugging Face `tokenizers`, version 1.0), read and checked before any of it is used: every component
 * type is known, every id is an integer in range and stands for one token, every merge joins known tokens into a known
 * one. Only byte-pair encoding is supported: all of Microsoft's Phi tokenizers are of that kind.
 */
import { createMergeTable, type MergeRanks, type MergeTable } from "./bpe.ts";
import {
  type DecoderStep,
  type NormalizerStep,
  type PreTokenizerStep,
  readDecoder,
  readNormalizer,
  readPostProcessor,
  readPreTokenizer,
} from "./components.ts";
import { printable, TokenizerError } from "./error.ts";
import { countAt, fail, file, flagAt, type Json, listAt, objectAt, stringAt } from "./json.ts";

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

/** Ids are kept in arrays, so a stray id of four billion must not size one. */
const largestId = 2 ** 22 - 1;
/** The heap of the encoder keeps ranks in 21 bits. */
const mostMerges = 2 ** 21;
/** Looking for added tokens may try the whole of the longest at each character; the longest of Phi's has 31. */
const longestAddedToken = 256;

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
