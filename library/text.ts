/** From prompts to ids and from generated ids to text: what the command line and the library share. */
import {
  type Folder,
  type GeneratedToken,
  type GenerationDefaults,
  type GenerationResult,
  PhiError,
  printable,
  type SamplingOptions,
} from "../engine/index.ts";
import { type ChatMessage, loadTokenizer, ranksFile, type TextStream, type Tokenizer } from "../tokenizer/index.ts";
import { stopFilter } from "./stop.ts";

/** Files of a tokenizer are read whole, and must not be larger; a vocabulary of 200,000 pieces takes 20 MB. */
const mostTokenizerBytes = 2 ** 26;

async function readSmallFile(folder: Folder, name: string): Promise<Uint8Array | undefined> {
  const source = await folder.open(name);
  if (source === undefined) return undefined;
  try {
    if (source.sizeBytes > mostTokenizerBytes) {
      const expected = `at most ${mostTokenizerBytes} bytes`;
      throw new PhiError("checkpoint", `${name}: expected ${expected}, got ${source.sizeBytes}`);
    }
    return await source.read(0, source.sizeBytes);
  } finally {
    await source.close();
  }
}

/**
 * How many tokens the model has, for the tokenizer's own check against it; undefined in a folder with a tokenizer only.
 * The config itself is judged by the engine.
 */
async function vocabularySize(folder: Folder): Promise<number | undefined> {
  const bytes = await readSmallFile(folder, "config.json");
  if (bytes === undefined) return undefined;
  try {
    const { vocab_size } = JSON.parse(new TextDecoder().decode(bytes)) as { vocab_size?: unknown };
    return typeof vocab_size === "number" ? vocab_size : undefined;
  } catch {
    return undefined;
  }
}

/**
 * The tokenizer of a folder, or undefined where it has neither tokenizer.json nor a rank file. Throws a TokenizerError,
 * or a PhiError "io".
 */
export async function openTokenizer(folder: Folder): Promise<Tokenizer | undefined> {
  const tokenizerJson = await readSmallFile(folder, "tokenizer.json");
  const ranks = tokenizerJson === undefined ? await readSmallFile(folder, ranksFile) : undefined;
  if (tokenizerJson === undefined && ranks === undefined) return undefined;
  const rows = await vocabularySize(folder);
  const tokenizerConfigJson = await readSmallFile(folder, "tokenizer_config.json");
  const chatTemplateJinja = await readSmallFile(folder, "chat_template.jinja");
  const additionalTemplates = await readAdditionalTemplates(folder);
  const chatTemplateJson = await readSmallFile(folder, "chat_template.json");
  const specialTokensMapJson = await readSmallFile(folder, "special_tokens_map.json");
  const addedTokensJson = await readSmallFile(folder, "added_tokens.json");
  return loadTokenizer(
    {
      folderName: folder.name,
      ...(tokenizerJson && { tokenizerJson }),
      ...(ranks && { ranks }),
      ...(tokenizerConfigJson && { tokenizerConfigJson }),
      ...(chatTemplateJinja && { chatTemplateJinja }),
      additionalTemplates,
      ...(chatTemplateJson && { chatTemplateJson }),
      ...(specialTokensMapJson && { specialTokensMapJson }),
      ...(addedTokensJson && { addedTokensJson }),
    },
    rows === undefined ? {} : { vocabularySize: rows },
  );
}

/** Of additional_chat_templates/ the two that conversations are written with; the others are chosen by name alone. */
async function readAdditionalTemplates(folder: Folder): Promise<Readonly<Record<string, Uint8Array>>> {
  const found: Record<string, Uint8Array> = {};
  for (const name of ["default", "tool_use"]) {
    const bytes = await readSmallFile(folder, `additional_chat_templates/${name}.jinja`);
    if (bytes !== undefined) found[name] = bytes;
  }
  return found;
}

/** What to say of a folder without a tokenizer. */
export function noTokenizer(folderName: string): PhiError {
  return new PhiError("checkpoint", `${printable(folderName)}: expected tokenizer.json, got no such file`, [
    "Copy the tokenizer's files of the model beside its weights, or give token ids in place of text.",
  ]);
}

/** Plain text, or the messages of a conversation. */
export type TextPrompt = string | readonly ChatMessage[];

/**
 * The ids of a prompt: plain text with what the tokenizer adds around it (an empty one becomes the token that begins a
 * text), or messages in the model's chat template with the assistant's answer opened. Throws a PhiError "usage" for an
 * empty prompt without such a token, and for a token that the model has no row for.
 */
export function promptIds(prompt: TextPrompt, tokenizer: Tokenizer, bosId: number | undefined): readonly number[] {
  if (typeof prompt !== "string") {
    return withRows(tokenizer.encodeChat(prompt, { addGenerationPrompt: true }), tokenizer);
  }
  const ids = withRows(tokenizer.encode(prompt, { addSpecialTokens: true }), tokenizer);
  if (ids.length > 0) return ids;
  if (bosId !== undefined) return [bosId];
  throw new PhiError("usage", "expected a prompt, got an empty one", [
    "This model has no token that begins a text, so it needs a first word.",
  ]);
}

/** The ids of a text, refused where one is an added token past the model's embedding. */
export function withRows(ids: readonly number[], tokenizer: Tokenizer): readonly number[] {
  const rows = tokenizer.embeddingRows ?? Number.POSITIVE_INFINITY;
  const missing = ids.find((id) => id >= rows);
  if (missing === undefined) return ids;
  const token = `"${printable(tokenizer.tokenOf(missing) ?? "")}"`;
  throw new PhiError("usage", `the prompt: expected tokens of the model's ${rows}, got ${token}, token ${missing}`, [
    "The tokenizer's files add this token, and the model has no row for it: write the prompt without it.",
  ]);
}

/** Ids that end a generation: those of the model's files, and those of its tokenizer's. */
export function endIdsOf(eosIds: readonly number[], tokenizer: Tokenizer | undefined): readonly number[] {
  return [...new Set([...eosIds, ...(tokenizer?.endIds ?? [])])];
}

/**
 * The options of the draw: the model's own defaults under what was chosen. Those that say how a token is drawn count
 * where the model is meant to be sampled, those that say which may be chosen always.
 */
export function samplingUnder(defaults: GenerationDefaults, chosen: SamplingOptions): SamplingOptions {
  const { doSample, bosId, eosIds, notes, stopStrings, temperature, topK, topP, minP, ...always } = defaults;
  const drawn: SamplingOptions = {
    temperature: temperature ?? 1,
    ...(topK !== undefined && { topK }),
    ...(topP !== undefined && { topP }),
    ...(minP !== undefined && { minP }),
  };
  return { ...(doSample && drawn), ...always, ...chosen };
}

/** Stop strings: those that were asked for, or else those of generation_config.json. */
export function stopsUnder(
  { stopStrings = [] }: GenerationDefaults,
  asked: string | readonly string[] | undefined,
): readonly string[] {
  return typeof asked === "string" ? [asked] : (asked ?? stopStrings);
}

/** A piece of the answer: a new token and the text that is certain with it. */
export interface TextPiece {
  /** Never half a character, and nothing that may yet turn out to begin a stop string; may be empty. */
  readonly text: string;
  /** Undefined in a last piece, of the text that was held back until the end. */
  readonly id: number | undefined;
  /** Where it was asked for: the token's log-probability in the model's own distribution. */
  readonly logprob?: number;
}

/**
 * Tokens as text that goes on from the prompt's. Without a tokenizer the text is empty. A stop string and what follows it
 * are never given out, nor asked of the model any more. What was held back is given out also when the generation fails:
 * then it fails after it.
 */
export async function* textPieces(
  tokens: AsyncGenerator<GeneratedToken, GenerationResult, boolean | undefined>,
  tokenizer: Tokenizer | undefined,
  stops: readonly string[],
  prompt: readonly number[],
): AsyncGenerator<TextPiece, GenerationResult, undefined> {
  const filter = stopFilter(stops);
  /** Made when the first token is there: the prompt's text is worked out while the GPU goes on. */
  let stream: TextStream | undefined;
  const textOf = (id: number): string => {
    if (tokenizer === undefined) return "";
    stream ??= tokenizer.stream({ skipSpecialTokens: true, after: prompt });
    return filter.push(stream.push(id), tokenizer.isSpecial(id) ? tokenizer.tokenOf(id) : "");
  };
  const rest = () => (stream === undefined ? "" : filter.push(stream.flush()) + filter.flush());
  try {
    for (;;) {
      const next = await tokens.next(filter.stopped);
      if (next.done) {
        const text = rest();
        if (text !== "") yield { text, id: undefined };
        return next.value;
      }
      const { id, logprob } = next.value;
      yield { text: textOf(id), id, ...(logprob !== undefined && { logprob }) };
    }
  } catch (error) {
    const text = rest();
    if (text !== "") yield { text, id: undefined };
    throw error;
  } finally {
    // The engine serves the next call when this one is over, also where the consumer left it. There is no result then.
    await tokens.return(undefined as never);
  }
}
