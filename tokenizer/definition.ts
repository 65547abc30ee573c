/**
 * tokenizer.json (Hugging Face `tokenizers`, version 1.0), read and checked before any of it is used: every component
 * type is known, every id is an integer in range and stands for one token, every merge joins known tokens into a known
 * one. Only byte-pair encoding is supported: all of Microsoft's Phi tokenizers are of that kind.
 */
import { type AddedToken, type AddedTokenList, type AddedTokens, addedTokenList } from "./added.ts";
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
import { normalize } from "./normalize.ts";

export interface Merges {
  /** [left, right, result] ids of each merge. */
  readonly triples: Int32Array;
  readonly ranks: MergeRanks;
  readonly table: MergeTable;
}

/** A checked tokenizer.json. */
export interface Definition {
  /** Id of every token of the model's own vocabulary, which alone its merges and its unknown token know. */
  readonly vocabulary: ReadonlyMap<string, number>;
  /** Id of every token, added tokens included. */
  readonly idOf: ReadonlyMap<string, number>;
  /** Token of every id; a hole where no token has the id. */
  readonly tokenOf: readonly (string | undefined)[];
  /** What is decoded in a token's place, where that is other text: a normalized one's. */
  readonly decoded: readonly (string | undefined)[];
  readonly added: AddedTokens;
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
  /** Written before every symbol of a piece but its first, and after its last; mostly "". */
  readonly subwordPrefix: string;
  readonly wordSuffix: string;
  /** Oddities that are no errors, one line each. */
  readonly notes: readonly string[];
}

/** Ids are kept in arrays, so a stray id of four billion must not size one. */
const largestId = 2 ** 22 - 1;
/** The heap of the encoder keeps ranks in 21 bits. */
const mostMerges = 2 ** 21;
/** Looking for added tokens may try the whole of the longest at each character; the longest of Phi's has 31. */
export const longestAddedToken = 256;

/** An added token as a file lists it, with the id that the file states, if it states one. */
export interface ListedToken extends Omit<AddedToken, "id"> {
  readonly id?: number;
  /** Where it stands, e.g. `tokenizer.json: added_tokens[3]`. */
  readonly place: string;
  /** Not added where its id would be this or more. */
  readonly below?: number;
}

/** What the other files of a tokenizer add to tokenizer.json's tokens, of which it is given the list. */
export type MoreTokens = (added: AddedTokenList, own: readonly ListedToken[]) => readonly ListedToken[];

/**
 * Check a parsed tokenizer.json. `embeddingRows` is the number of rows of the model's embedding: a token of the model's
 * vocabulary past it is an error, an added one is noted. Throws TokenizerError that names the field.
 */
export function readDefinition(json: Json, embeddingRows?: number, more: MoreTokens = () => []): Definition {
  const notes: string[] = [];
  if (json.version !== undefined && json.version !== "1.0") fail("version", '"1.0"', json.version);
  for (const name of ["truncation", "padding"]) {
    if ((json[name] ?? null) === null) continue;
    objectAt(json[name], name);
    notes.push(`${file}: ${name}: not done, as in transformers, which asks each call for it`);
  }
  const model = objectAt(json.model, "model");
  const type = model.type ?? (model.merges === undefined ? undefined : "BPE");
  if (type !== "BPE") {
    fail("model.type", '"BPE"', type, ["Only byte-pair encoding is supported; Phi models use no other."]);
  }
  if ((model.dropout ?? 0) !== 0) fail("model.dropout", "null or 0", model.dropout);
  const subwordPrefix = stringAt(model.continuing_subword_prefix ?? "", "model.continuing_subword_prefix");
  const wordSuffix = stringAt(model.end_of_word_suffix ?? "", "model.end_of_word_suffix");

  const vocabulary = new Map<string, number>();
  const tokenOf: (string | undefined)[] = [];
  readVocabulary(model.vocab, vocabulary, tokenOf);
  const merges = readMerges(model.merges, vocabulary, subwordPrefix, notes);
  const normalizer = readNormalizer(json.normalizer, "normalizer", 0);
  const list = addedTokenList(vocabulary);
  const own = readAddedTokens(json.added_tokens, notes);
  listTokens(list, own, notes);
  listTokens(list, more(list, own), notes);
  const added = list.done();
  const idOf = new Map(vocabulary);
  const decoded: (string | undefined)[] = [];
  for (const { content, id } of added.byId.values()) {
    idOf.set(content, id);
    tokenOf[id] = content;
    if (!added.normalizedIds.has(id)) continue;
    const { text } = normalize(content, normalizer);
    if (text !== content) decoded[id] = text;
    if (text === "")
      notes.push(`${file}: added token "${printable(content)}": the normalizer leaves nothing of it to find`);
  }
  noteMissingRows(file, tokenOf, added, embeddingRows, notes);
  const decoder = readDecoder(json.decoder);
  const byteFallback = flagAt(model, "byte_fallback", "model", false);
  if (byteFallback || decoder?.some((step) => step.type === "ByteFallback")) checkByteTokens(vocabulary);

  let unknownId: number | null = null;
  if ((model.unk_token ?? null) !== null) {
    const unknown = stringAt(model.unk_token, "model.unk_token");
    unknownId = vocabulary.get(unknown) ?? fail("model.unk_token", "a token of the vocabulary", unknown);
  }
  const { prefixIds, suffixIds } = readPostProcessor(json.post_processor, tokenOf);
  return {
    vocabulary,
    idOf,
    tokenOf,
    decoded,
    added,
    normalizer,
    preTokenizer: readPreTokenizer(json.pre_tokenizer),
    decoder,
    prefixIds,
    suffixIds,
    merges,
    unknownId,
    fuseUnknown: flagAt(model, "fuse_unk", "model", false),
    byteFallback,
    ignoreMerges: flagAt(model, "ignore_merges", "model", false),
    subwordPrefix,
    wordSuffix,
    notes,
  };
}

function listTokens(list: AddedTokenList, tokens: readonly ListedToken[], notes: string[]): void {
  for (const { id: stated, place, below, ...token } of tokens) {
    if (below !== undefined && list.idFor(token.content) >= below) {
      notes.push(`${place}: "${printable(token.content)}" is no token of this model; its text stays text`);
      continue;
    }
    const id = list.add(token);
    if (id > largestId) fail("added_tokens", `ids up to ${largestId}`, id);
    if (stated !== undefined && stated !== id) {
      notes.push(`${place}: "${printable(token.content)}" has id ${id}, as tokenizers counts, not ${stated}`);
    }
  }
}

/** An added token without a row is no harm until a prompt uses it; a vocabulary that is too large is another model's. */
export function noteMissingRows(
  place: string,
  tokenOf: readonly (string | undefined)[],
  added: AddedTokens,
  embeddingRows: number | undefined,
  notes: string[],
): void {
  if (embeddingRows === undefined || tokenOf.length <= embeddingRows) return;
  const missing: number[] = [];
  for (let id = embeddingRows; id < tokenOf.length; id++) if (tokenOf[id] !== undefined) missing.push(id);
  const foreign = missing.find((id) => !added.byId.has(id));
  if (foreign !== undefined) {
    throw new TokenizerError(
      `${place}: token ${foreign} "${printable(tokenOf[foreign] ?? "")}" has no row in the embedding, which has ${embeddingRows} rows`,
      ["Are the tokenizer and config.json from the same checkpoint?"],
    );
  }
  const [first = 0] = missing;
  const others = missing.length === 1 ? "" : ` and ${missing.length - 1} more`;
  notes.push(
    `${place}: added token ${first} "${printable(tokenOf[first] ?? "")}"${others}: no row in the embedding, which has ${embeddingRows}; a prompt that uses it is refused`,
  );
}

function readVocabulary(vocab: unknown, idOf: Map<string, number>, tokenOf: (string | undefined)[]): void {
  const entries = Object.entries(objectAt(vocab, "model.vocab"));
  if (entries.length === 0) fail("model.vocab", "at least one token", vocab);
  for (const [token, value] of entries) {
    // The path is written only for a bad entry: 200,000 of them would take longer than all the rest.
    const good = typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= largestId;
    const id = good ? value : countAt(value, `model.vocab["${printable(token)}"]`, largestId);
    if (/\p{Cs}/u.test(token)) fail(`model.vocab, token of id ${id}`, "well-formed Unicode", token);
    const other = tokenOf[id];
    if (other !== undefined) {
      fail(`model.vocab["${printable(token)}"]`, `an id of its own`, `${id}, the id of "${printable(other)}"`);
    }
    tokenOf[id] = token;
    idOf.set(token, id);
  }
}

/** The merges; the right side of one is written with the prefix of a subword, which the result leaves out. */
function readMerges(value: unknown, idOf: ReadonlyMap<string, number>, subwordPrefix: string, notes: string[]): Merges {
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
    const result = left + right.slice(subwordPrefix.length);
    const resultId = idOf.get(result);
    if (leftId === undefined || rightId === undefined || resultId === undefined) {
      const missing = leftId === undefined ? left : rightId === undefined ? right : result;
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

function readAddedTokens(value: unknown, notes: string[]): readonly ListedToken[] {
  const tokens: ListedToken[] = [];
  for (const [i, entry] of listAt(value ?? [], "added_tokens").entries()) {
    const path = `added_tokens[${i}]`;
    const json = objectAt(entry, path);
    const content = stringAt(json.content, `${path}.content`);
    if (content.length > longestAddedToken) {
      fail(`${path}.content`, `at most ${longestAddedToken} characters`, `${content.length} characters`);
    }
    const id = countAt(json.id, `${path}.id`, largestId);
    if (content === "") {
      notes.push(`${file}: ${path}: an empty token is ignored`);
      continue;
    }
    const special = flagAt(json, "special", path, false);
    tokens.push({
      id,
      place: `${file}: ${path}`,
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
