/**
 * phi-3-small's tokenizer, which comes as a tiktoken rank file: a line for each token, its bytes in base64 and its rank.
 * The rank is the token's id and says how early two neighbours join into it, whichever two they are (OpenAI's tiktoken,
 * `_byte_pair_merge`). Splitting and special tokens stand in the checkpoint's tokenization_phi3_small.py, so they stand
 * here; what the other tokenizers read from tokenizer.json is put together from both.
 */

import { addedTokenList } from "./added.ts";
import { createMergeTable } from "./bpe.ts";
import { characterOfByte } from "./decode.ts";
import { type Definition, noteMissingRows } from "./definition.ts";
import { printable, TokenizerError } from "./error.ts";
import { decodeTextFile, gitLfsPointer } from "./json.ts";
import { compilePattern } from "./pattern.ts";

export const ranksFile = "cl100k_base.tiktoken";

const tokenCount = 100_256;
const mostBytes = 2 ** 25;
const longestTokenBytes = 256; // the longest of cl100k has 128

/** `pat_str` of cl100k, as phi-4's tokenizer.json writes it. */
const words =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

const dummies = (first: number, last: number): string[] =>
  Array.from({ length: last - first + 1 }, (_, i) => `<|dummy_id_${first + i}|>`);

/** The special tokens, from id 100256 on. */
const specialTokens: readonly string[] = [
  "<|dummy_id_2|>",
  "<|endoftext|>",
  "<|fim_prefix|>",
  "<|fim_middle|>",
  "<|fim_suffix|>",
  "<|system|>",
  "<|user|>",
  "<|assistant|>",
  ...dummies(0, 1),
  "<|end|>",
  ...dummies(3, 11),
  "<|endofprompt|>",
  ...dummies(12, 86),
];

/**
 * Read and check a rank file. `embeddingRows` is the number of rows of the model's embedding. Throws TokenizerError with
 * the number of the line: no "base64 rank", bad base64, a rank that is no integer or too large, a rank or token that
 * stood before, a rank that is missing.
 */
export function readRanks(bytes: Uint8Array, embeddingRows?: number): Definition {
  const tokenOf: (string | undefined)[] = readTokens(bytes);
  const idOf = new Map(tokenOf.map((token, id) => [token ?? "", id]));
  characterOfByte.forEach((character, byte) => {
    if (!idOf.has(character)) fail(undefined, "a token for every byte", `none for 0x${byte.toString(16)}`);
  });
  // Every way to put a token together from two others; all of them join at the token's own rank.
  const triples: number[] = [];
  for (const [token, id] of idOf) {
    for (let cut = 1; cut < token.length; cut++) {
      const left = idOf.get(token.slice(0, cut));
      const right = left === undefined ? undefined : idOf.get(token.slice(cut));
      if (left !== undefined && right !== undefined) triples.push(left, right, id);
    }
  }
  const vocabulary = new Map(idOf);
  const list = addedTokenList(vocabulary);
  for (const content of specialTokens) {
    const id = list.add({
      content,
      singleWord: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    });
    tokenOf[id] = content;
    idOf.set(content, id);
  }
  const added = list.done();
  const notes: string[] = [];
  noteMissingRows(ranksFile, tokenOf, added, embeddingRows, notes);
  const merges = Int32Array.from(triples);
  return {
    vocabulary,
    idOf,
    tokenOf,
    decoded: [],
    added,
    normalizer: [],
    preTokenizer: [
      { type: "Split", pattern: compilePattern(words, ranksFile), behavior: "Removed", invert: true },
      { type: "ByteLevel", prefixSpace: false, useRegex: false },
    ],
    decoder: [{ type: "ByteLevel" }],
    prefixIds: [],
    suffixIds: [],
    merges: { triples: merges, ranks: "results", table: createMergeTable(merges, "results") },
    unknownId: null,
    fuseUnknown: false,
    byteFallback: false,
    ignoreMerges: true,
    subwordPrefix: "",
    wordSuffix: "",
    notes,
  };
}

function fail(line: number | undefined, expected: string, got: string, advice: readonly string[] = []): never {
  const where = line === undefined ? ranksFile : `${ranksFile}: line ${line}`;
  throw new TokenizerError(`${where}: expected ${expected}, got ${got}`, advice);
}

/** The tokens by rank, each byte as the character that stands for it. */
function readTokens(bytes: Uint8Array): string[] {
  if (bytes.length === 0) fail(undefined, "a tiktoken rank file", "an empty file");
  if (bytes.length > mostBytes) fail(undefined, `at most ${mostBytes} bytes`, `${bytes.length}`);
  const text = decodeTextFile(ranksFile, bytes);
  if (text.startsWith(gitLfsPointer.start))
    fail(undefined, "a tiktoken rank file", "a Git LFS pointer", gitLfsPointer.advice);
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  const tokens: string[] = [];
  const lineOfRank = new Int32Array(tokenCount);
  const lineOfToken = new Map<string, number>();
  lines.forEach((text, index) => {
    const line = index + 1;
    const [, base64 = "", written = ""] =
      /^(\S+) (\S+)\r?$/.exec(text) ?? fail(line, "a token in base64, a blank and its rank", quoted(text));
    const token = readToken(base64, line);
    const rank = /^\d+$/.test(written) ? Number(written) : Number.NaN;
    if (!(rank < tokenCount)) fail(line, `a rank from 0 to ${tokenCount - 1}`, quoted(written));
    const before = lineOfRank[rank];
    if (before !== 0) fail(line, "a rank of its own", `${rank}, the rank of line ${before}`);
    const same = lineOfToken.get(token);
    if (same !== undefined) fail(line, "a token of its own", `${quoted(base64)}, the token of line ${same}`);
    tokens[rank] = token;
    lineOfRank[rank] = line;
    lineOfToken.set(token, line);
  });
  const missing = lineOfRank.indexOf(0);
  if (missing >= 0) {
    const line = missing === 0 ? 1 : (lineOfRank[missing - 1] ?? 0) + 1;
    const got = lines[line - 1];
    fail(line, `rank ${missing}`, got === undefined ? "the end of the file" : quoted(got), [
      "Is the download complete?",
    ]);
  }
  return tokens;
}

function quoted(text: string): string {
  return `"${printable(text.length > 60 ? `${text.slice(0, 60)}…` : text)}"`;
}

function readToken(base64: string, line: number): string {
  const refuse = (): never => fail(line, `base64 of 1 to ${longestTokenBytes} bytes`, quoted(base64));
  if (base64.length > 2 * longestTokenBytes || !/^[A-Za-z0-9+/]+={0,2}$/.test(base64)) return refuse();
  let binary: string;
  try {
    binary = atob(base64);
  } catch {
    return refuse();
  }
  if (binary.length === 0 || binary.length > longestTokenBytes || btoa(binary) !== base64) return refuse();
  let token = "";
  for (let i = 0; i < binary.length; i++) token += characterOfByte[binary.charCodeAt(i)] ?? "";
  return token;
}
