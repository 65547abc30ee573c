/** The tokenizer's files beside each other: which of them says the vocabulary, the special tokens, the chat template. */
import { type ChatTemplate, parseChatTemplate } from "./chat.ts";
import { type Definition, readDefinition } from "./definition.ts";
import { printable, TokenizerError } from "./error.ts";
import { decodeTextFile, parseJsonFile } from "./json.ts";
import { ranksFile, readRanks } from "./ranks.ts";

/** The contents of a checkpoint's tokenizer files; absent ones are left out. */
export interface TokenizerFiles {
  readonly tokenizerJson?: Uint8Array;
  /** `cl100k_base.tiktoken`, which phi-3-small has in place of tokenizer.json. */
  readonly ranks?: Uint8Array;
  readonly tokenizerConfigJson?: Uint8Array;
  readonly chatTemplateJinja?: Uint8Array;
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

/** The chat template, why it cannot be read, or null where there is none. A template of its own file wins. */
export function readChatTemplate(
  files: TokenizerFiles,
  config: Readonly<Record<string, unknown>>,
): ChatTemplate | TokenizerError | null {
  try {
    if (files.chatTemplateJinja !== undefined) {
      const name = "chat_template.jinja";
      return parseChatTemplate(decodeTextFile(name, files.chatTemplateJinja), name);
    }
    const name = "tokenizer_config.json";
    const value = config.chat_template ?? null;
    if (value === null) return null;
    if (typeof value === "string") return parseChatTemplate(value, name);
    if (!Array.isArray(value)) throw new TokenizerError(`${name}: chat_template: expected a string or a list`);
    const named = new Map<string, string>();
    for (const [i, entry] of value.entries()) {
      const { name: key, template } = Object(entry) as { name?: unknown; template?: unknown };
      if (typeof key !== "string" || typeof template !== "string") {
        throw new TokenizerError(`${name}: chat_template[${i}]: expected { "name", "template" }, both strings`);
      }
      named.set(key, template);
    }
    const chosen = named.get("default");
    if (chosen === undefined) {
      const names = [...named.keys()].map((key) => `"${printable(key)}"`).join(", ");
      throw new TokenizerError(`${name}: chat_template: expected one named "default", got ${names || "none"}`);
    }
    return parseChatTemplate(chosen, name);
  } catch (error) {
    // A model without a usable template still takes plain text, so the error waits until a template is asked for.
    if (error instanceof TokenizerError) return error;
    throw error;
  }
}
