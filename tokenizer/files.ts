/** The tokenizer's files beside each other: which of them says the vocabulary, the special tokens. */
import { type Definition, readDefinition } from "./definition.ts";
import { printable, TokenizerError } from "./error.ts";
import { parseJsonFile } from "./json.ts";
import { ranksFile, readRanks } from "./ranks.ts";
import type { TemplateFiles } from "./template.ts";

/** The contents of a checkpoint's tokenizer files; absent ones are left out. */
export interface TokenizerFiles extends TemplateFiles {
  readonly tokenizerJson?: Uint8Array;
  /** `cl100k_base.tiktoken`, which phi-3-small has in place of tokenizer.json. */
  readonly ranks?: Uint8Array;
  readonly tokenizerConfigJson?: Uint8Array;
  readonly specialTokensMapJson?: Uint8Array;
  /** For messages. */
  readonly folderName: string;
}

/** The tokens with a role of their own; null where the files name none. */
export interface SpecialTokens<T> {
  readonly bos: T | null;
  readonly eos: T | null;
  readonly pad: T | null;
  readonly unk: T | null;
}

/** The definition in tokenizer.json, or that of a rank file where there is none. */
export function readVocabularyFile(files: TokenizerFiles, vocabularySize: number | undefined): Definition {
  if (files.tokenizerJson !== undefined) {
    return readDefinition(parseJsonFile("tokenizer.json", files.tokenizerJson), vocabularySize);
  }
  if (files.ranks !== undefined) return readRanks(files.ranks, vocabularySize);
  throw new TokenizerError(`${printable(files.folderName)}: expected a tokenizer.json or ${ranksFile}, found neither`, [
    "Download the checkpoint's tokenizer files too, or give token ids instead of text.",
  ]);
}

export function readOptional(name: string, bytes: Uint8Array | undefined): Readonly<Record<string, unknown>> {
  return bytes === undefined ? {} : parseJsonFile(name, bytes);
}

export function readSpecialTokens(
  config: Readonly<Record<string, unknown>>,
  map: Readonly<Record<string, unknown>>,
): SpecialTokens<string> {
  const read = (name: string): string | null => {
    const field = `${name}_token`;
    for (const [file, json] of [
      ["tokenizer_config.json", config],
      ["special_tokens_map.json", map],
    ] as const) {
      const value = json[field] ?? null;
      if (value === null) continue;
      const text = typeof value === "object" && "content" in value ? value.content : value;
      if (typeof text !== "string") throw new TokenizerError(`${file}: ${field}: expected a string or a token object`);
      return text;
    }
    return null;
  };
  return { bos: read("bos"), eos: read("eos"), pad: read("pad"), unk: read("unk") };
}
