/**
 * Text to token ids and back, from the files that Hugging Face checkpoints carry. Everything happens on bytes in
 * memory, in Node or a browser. The regular expressions are translated by `@huggingface/tokenizers`, chat templates run
 * on `@huggingface/jinja`; splitting, merging and decoding are our own, because the library takes 20 to 55 s for a
 * million equal letters, decodes invalid byte runs differently and offers no streaming.
 */
import { createMergeTable, type MergeTable, mergePairs } from "./bpe.ts";
import { type ChatMessage, type ChatTemplate, parseChatTemplate } from "./chat.ts";
import { characterOfByte, createTextStream, type TextStream } from "./decode.ts";
import {
  type AddedToken,
  type Definition,
  decodeTextFile,
  type Merges,
  type NormalizerStep,
  type PreTokenizerStep,
  parseJsonFile,
  readDefinition,
} from "./definition.ts";
import { printable, TokenizerError } from "./error.ts";
import { escapeRegex, replaceMatches, splitText, trustedPattern } from "./pattern.ts";
import { ranksFile, readRanks } from "./ranks.ts";

export type { ChatMessage } from "./chat.ts";
export type { TextStream } from "./decode.ts";
export { TokenizerError } from "./error.ts";
export { ranksFile } from "./ranks.ts";

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

/** How a conversation is rendered. */
export interface ChatOptions {
  /** Ends with the opening of the assistant's answer. Default true. */
  readonly addGenerationPrompt?: boolean;
  /** Further variables for the template; only the names in `templateVariables` are allowed. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** The tokens with a role of their own; null where the files name none. */
export interface SpecialTokens<T> {
  readonly bos: T | null;
  readonly eos: T | null;
  readonly pad: T | null;
  readonly unk: T | null;
}

export interface Tokenizer {
  /** One more than the largest id. */
  readonly vocabularySize: number;
  readonly specialIds: SpecialTokens<number>;
  readonly specialTokens: SpecialTokens<string>;
  /** Oddities in the files that are no errors, one line each. */
  readonly notes: readonly string[];
  /** The id of exactly this token, or undefined. */
  idOf(token: string): number | undefined;
  /** The token of this id as the vocabulary writes it, or undefined. */
  tokenOf(id: number): string | undefined;
  /**
   * Ids of a text. `addSpecialTokens` (default false) adds what the post-processor adds, e.g. `<s>` in front.
   * With `allowSpecial` (default true) the text of a control token becomes that token; without, it stays plain text.
   */
  encode(text: string, options?: { readonly addSpecialTokens?: boolean; readonly allowSpecial?: boolean }): number[];
  /** Text of ids. Never throws: ids that are no token are skipped, bytes that are no UTF-8 become U+FFFD. */
  decode(ids: readonly number[], options?: { readonly skipSpecialTokens?: boolean }): string;
  /** The same text piece by piece, at a cost per id that does not grow. */
  stream(options?: { readonly skipSpecialTokens?: boolean }): TextStream;
  readonly hasChatTemplate: boolean;
  /** Why the chat template cannot be used although there is one, else null. Rendering throws the same. */
  readonly chatTemplateError: TokenizerError | null;
  /** The conversation as the template writes it. Throws TokenizerError (no template, bad messages, template fails). */
  renderChat(messages: readonly ChatMessage[], options?: ChatOptions): string;
  /**
   * Ids of the rendered conversation. Messages are data: text in them that looks like a control token is encoded as
   * plain text, unless `specialInContent` asks for what `transformers` does.
   */
  encodeChat(
    messages: readonly ChatMessage[],
    options?: ChatOptions & { readonly specialInContent?: boolean },
  ): number[];
}

/** Template variables that a caller may set. Messages and the tokenizer's own names cannot be shadowed. */
export const templateVariables: readonly string[] = [
  "tools",
  "documents",
  "enable_thinking",
  "thinking",
  "reasoning_effort",
  "date_string",
  "custom_tools",
];

const roles: readonly string[] = ["system", "developer", "user", "assistant", "tool"];

/** Longest prompt, in UTF-16 units. */
const longestText = 2 ** 26;

/**
 * Read and check the tokenizer of a checkpoint. `vocabularySize` is the number of rows of the model's embedding; a
 * tokenizer with more ids is refused. Throws TokenizerError that names file and field.
 */
export function loadTokenizer(files: TokenizerFiles, options: { readonly vocabularySize?: number } = {}): Tokenizer {
  const definition = readVocabularyFile(files, options.vocabularySize);
  const config = readOptional("tokenizer_config.json", files.tokenizerConfigJson);
  const specialTokens = readSpecialTokens(config, readOptional("special_tokens_map.json", files.specialTokensMapJson));
  const template = readChatTemplate(files, config);
  const encoder = createEncoder(definition, specialTokens);
  const specialIds = new Set(definition.addedTokens.filter((token) => token.special).map((token) => token.id));
  const idOf = (token: string | null): number | null => (token === null ? null : (definition.idOf.get(token) ?? null));

  const stream: Tokenizer["stream"] = ({ skipSpecialTokens = false } = {}) =>
    createTextStream(definition, skipSpecialTokens ? specialIds : new Set());

  const render = (messages: readonly ChatMessage[], { addGenerationPrompt = true, variables = {} }: ChatOptions) => {
    if (template instanceof TokenizerError) throw template;
    if (template === null) {
      throw new TokenizerError(`${printable(files.folderName)}: this model has no chat template`, [
        "Use --raw to give the prompt as plain text.",
      ]);
    }
    for (const name of Object.keys(variables)) {
      if (!templateVariables.includes(name)) {
        throw new TokenizerError(
          `template variable "${printable(name)}": expected one of ${templateVariables.join(", ")}`,
          [],
          2,
        );
      }
    }
    const tokens = Object.entries(specialTokens).filter(([, token]) => token !== null);
    return template.render({
      tools: null,
      documents: null,
      ...plainJson(variables),
      ...Object.fromEntries(tokens.map(([name, token]) => [`${name}_token`, token])),
      messages,
      add_generation_prompt: addGenerationPrompt,
    });
  };

  return {
    vocabularySize: definition.tokenOf.length,
    specialIds: {
      bos: idOf(specialTokens.bos),
      eos: idOf(specialTokens.eos),
      pad: idOf(specialTokens.pad),
      unk: idOf(specialTokens.unk),
    },
    specialTokens,
    notes: definition.notes,
    idOf: (token) => definition.idOf.get(token),
    tokenOf: (id) => definition.tokenOf[id],
    encode(text, { addSpecialTokens = false, allowSpecial = true } = {}) {
      const ids = encoder(text, { allowControl: allowSpecial });
      return addSpecialTokens ? [...definition.prefixIds, ...ids, ...definition.suffixIds] : ids;
    },
    decode(ids, decodeOptions) {
      const text = stream(decodeOptions);
      const pieces = ids.map((id) => text.push(id));
      return pieces.join("") + text.flush();
    },
    stream,
    hasChatTemplate: template !== null,
    chatTemplateError: template instanceof TokenizerError ? template : null,
    renderChat: (messages, chatOptions = {}) => render(checkMessages(messages), chatOptions),
    encodeChat(messages, { specialInContent = false, ...chatOptions } = {}) {
      const checked = checkMessages(messages);
      if (specialInContent) return encoder(render(checked, chatOptions), { allowControl: true });
      // A mark inside each look-alike keeps it from matching; it is taken out again before the text is encoded.
      const source = template instanceof TokenizerError || template === null ? "" : template.source;
      const mark = unusedCharacter(source + JSON.stringify([checked, chatOptions.variables ?? {}]));
      const controls = controlTokens(definition, specialTokens).map((token) => token.content);
      const marked = checked.map((message) => ({ ...markStrings(message, controls, mark), role: message.role }));
      const rendered = render(marked as ChatMessage[], {
        ...chatOptions,
        variables: markStrings(chatOptions.variables ?? {}, controls, mark),
      });
      return encoder(rendered, { allowControl: true, mark });
    },
  };
}

// ---- files -----------------------------------------------------------------------------------------------------------

/** The definition in tokenizer.json, or that of a rank file where there is none. */
function readVocabularyFile(files: TokenizerFiles, vocabularySize: number | undefined): Definition {
  if (files.tokenizerJson !== undefined) {
    return readDefinition(parseJsonFile("tokenizer.json", files.tokenizerJson), vocabularySize);
  }
  if (files.ranks !== undefined) return readRanks(files.ranks, vocabularySize);
  throw new TokenizerError(`${printable(files.folderName)}: expected a tokenizer.json or ${ranksFile}, found neither`, [
    "Download the checkpoint's tokenizer files too, or give token ids instead of text.",
  ]);
}

function readOptional(name: string, bytes: Uint8Array | undefined): Readonly<Record<string, unknown>> {
  return bytes === undefined ? {} : parseJsonFile(name, bytes);
}

function readSpecialTokens(
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
function readChatTemplate(
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

// ---- chat ------------------------------------------------------------------------------------------------------------

/**
 * Check a conversation, e.g. one parsed from a user's JSON. Throws TokenizerError (exit code 2) that names the field:
 * not a list, an unknown role, content that is no string. Returns a copy in plain JSON.
 */
export function checkMessages(messages: unknown): readonly ChatMessage[] {
  const refuse = (path: string, expected: string, got: unknown): never => {
    const shown =
      got === undefined ? "nothing" : got === null || typeof got !== "object" ? JSON.stringify(got) : "another value";
    throw new TokenizerError(`${path}: expected ${expected}, got ${printable(shown)}`, [], 2);
  };
  if (!Array.isArray(messages)) return refuse("messages", "a list of { role, content }", messages);
  if (messages.length === 0) return refuse("messages", "at least one message", "an empty list");
  return messages.map((message: unknown, i) => {
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      return refuse(`messages[${i}]`, "{ role, content }", message);
    }
    const { role, content } = message as { role?: unknown; content?: unknown };
    if (typeof role !== "string" || !roles.includes(role)) {
      return refuse(`messages[${i}].role`, roles.join(", "), role);
    }
    if (typeof content !== "string") return refuse(`messages[${i}].content`, "a string", content);
    return { ...plainJson(message), role, content };
  });
}

/** A copy that holds nothing but JSON: no functions, accessors or objects of the host for a template to reach. */
function plainJson(value: object): Record<string, unknown> {
  try {
    return JSON.parse(JSON.stringify(value)) as Record<string, unknown>;
  } catch (error) {
    const why = error instanceof RangeError ? "values nested too deeply" : "something else";
    throw new TokenizerError(`messages and template variables: expected plain JSON values, got ${why}`, [], 2, {
      cause: error,
    });
  }
}

/** A non-character of Unicode that does not occur in the text. */
function unusedCharacter(text: string): string {
  for (let code = 0xfdd0; code <= 0xfdef; code++) {
    const character = String.fromCharCode(code);
    if (!text.includes(character)) return character;
  }
  throw new TokenizerError("messages: expected text, got all 32 of Unicode's non-characters U+FDD0 to U+FDEF", [], 2);
}

/** Put the mark into every control token in the strings of a value, after the token's first character. */
function markStrings<T extends object>(value: T, controls: readonly string[], mark: string): T {
  const breakable = controls.filter((token) => token.length > 1);
  if (breakable.length === 0) return value;
  const find = new Map(breakable.map((token) => [token, [...token][0] ?? ""]));
  const starts = new Set([...find.values()]);
  const markText = (text: string): string => {
    let result = text;
    for (const [token, head] of find) {
      if (result.includes(token)) result = result.replaceAll(token, () => head + mark + token.slice(head.length));
    }
    // The beginning of a token at the very end could be completed by the text that follows in the template.
    for (let at = Math.max(0, result.length - 64); at < result.length; at++) {
      const tail = result.slice(at);
      const head = [...tail][0] ?? "";
      if (starts.has(head) && breakable.some((token) => token.startsWith(tail))) {
        return result.slice(0, at) + head + mark + tail.slice(head.length);
      }
    }
    return result;
  };
  const walk = (part: unknown): unknown => {
    if (typeof part === "string") return markText(part);
    if (Array.isArray(part)) return part.map(walk);
    if (typeof part === "object" && part !== null) {
      return Object.fromEntries(Object.entries(part).map(([key, inner]) => [key, walk(inner)]));
    }
    return part;
  };
  return walk(value) as T;
}

/**
 * The tokens that steer a model and must not come from data: those marked special, the end and beginning of a text, and
 * those written like one (`<|tool|>`, `</s>`). Runs of blanks (phi-2) are added tokens too, and harmless.
 */
function controlTokens(definition: Definition, specials: SpecialTokens<string>): readonly AddedToken[] {
  const named = new Set(Object.values(specials));
  return definition.addedTokens.filter(
    (token) => token.special || named.has(token.content) || /^<[^\s].*>$|^\[[A-Z_]+\]$/s.test(token.content),
  );
}

// ---- encoding --------------------------------------------------------------------------------------------------------

interface EncodeOptions {
  /** Whether the text of a control token becomes that token. */
  readonly allowControl: boolean;
  /** A character to drop once added tokens have been found. */
  readonly mark?: string;
}

/** Pieces up to this length are remembered with their ids; words come again and again. */
const cachedPiece = 32;
const cacheSize = 20_000;

function createEncoder(
  definition: Definition,
  specials: SpecialTokens<string>,
): (text: string, options: EncodeOptions) => number[] {
  const controls = new Set(controlTokens(definition, specials).map((token) => token.id));
  const raw = definition.addedTokens.filter((token) => !token.normalized || definition.normalizer.length === 0);
  const normalized = definition.addedTokens.filter((token) => !raw.includes(token));
  const findRaw = createFinder(raw.map((token) => [token.content, token]));
  const findNormalized = createFinder(
    normalized.map((token) => [normalize(token.content, definition.normalizer), token] as const),
  );
  const model = createModel(definition, controls);

  return (text, { allowControl, mark }) => {
    if (text.length > longestText) {
      throw new TokenizerError(`text: expected at most ${longestText} characters, got ${text.length}`, [], 2);
    }
    const wanted = (token: AddedToken): boolean => allowControl || !controls.has(token.id);
    const ids: number[] = [];
    for (const part of splitAtTokens(text, findRaw, wanted)) {
      if (typeof part !== "string") {
        ids.push(part.id);
        continue;
      }
      const atStart = ids.length === 0;
      for (const inner of splitAtTokens(normalize(part, definition.normalizer), findNormalized, wanted)) {
        if (typeof inner !== "string") {
          ids.push(inner.id);
          continue;
        }
        const plain = mark === undefined ? inner : inner.replaceAll(mark, "");
        for (const piece of preTokenize(plain, definition.preTokenizer, atStart)) {
          model(piece, ids, allowControl && mark === undefined);
        }
      }
    }
    return ids;
  };
}

function normalize(text: string, steps: readonly NormalizerStep[]): string {
  let result = text;
  // No normalization makes a character into more than 18 others; what grows faster is an attack.
  const most = 32 * text.length + 4096;
  for (const step of steps) {
    result = normalizeStep(result, step);
    if (result.length > most) {
      throw new TokenizerError(
        `tokenizer.json: normalizer: expected at most ${most} characters from ${text.length}, got ${result.length}`,
      );
    }
  }
  return result;
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
      return text.toLowerCase();
  }
}

/** Finds the longest string of a set that starts at an offset of a text. */
interface TokenFinder {
  readonly size: number;
  longestAt(text: string, offset: number): { readonly token: AddedToken; readonly length: number } | null;
}

interface TrieNode {
  readonly next: Map<number, TrieNode>;
  token?: AddedToken;
}

function createFinder(entries: readonly (readonly [string, AddedToken])[]): TokenFinder {
  const root: TrieNode = { next: new Map() };
  for (const [text, token] of entries) {
    let node = root;
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      let child = node.next.get(unit);
      if (child === undefined) {
        child = { next: new Map() };
        node.next.set(unit, child);
      }
      node = child;
    }
    if (node !== root) node.token ??= token;
  }
  return {
    size: entries.length,
    longestAt(text, offset) {
      let node = root.next.get(text.charCodeAt(offset));
      let best: { token: AddedToken; length: number } | null = null;
      for (let at = offset + 1; node !== undefined; at++) {
        if (node.token !== undefined) best = { token: node.token, length: at - offset };
        node = at < text.length ? node.next.get(text.charCodeAt(at)) : undefined;
      }
      return best;
    },
  };
}

/** The text cut at added tokens: leftmost match first, the longest of those at one place. */
function splitAtTokens(
  text: string,
  finder: TokenFinder,
  wanted: (token: AddedToken) => boolean,
): readonly (string | AddedToken)[] {
  if (finder.size === 0) return text === "" ? [] : [text];
  const parts: (string | AddedToken)[] = [];
  let done = 0;
  let at = 0;
  while (at < text.length) {
    const found = finder.longestAt(text, at);
    if (found === null) {
      at += 1;
      continue;
    }
    const { token, length } = found;
    let start = at;
    let end = at + length;
    at = end;
    if (!wanted(token)) continue;
    if (token.singleWord && (wordEndsAt(text, start) || wordStartsAt(text, end))) continue;
    if (token.lstrip) start = blanksBefore(text, start, done);
    if (token.rstrip) end = blanksAtStart(text, end);
    if (start > done) parts.push(text.slice(done, start));
    parts.push(token);
    done = end;
    at = end;
  }
  if (done < text.length) parts.push(text.slice(done));
  return parts;
}

function isBlank(unit: number): boolean {
  return unit <= 0x20 || unit >= 0x7f ? /^\p{White_Space}$/u.test(String.fromCharCode(unit)) : false;
}

/** The offset after the blanks that start at `offset`. */
function blanksAtStart(text: string, offset: number): number {
  let at = offset;
  while (at < text.length && isBlank(text.charCodeAt(at))) at++;
  return at;
}

/** The offset of the first of the blanks that end at `offset`, no earlier than `least`. */
function blanksBefore(text: string, offset: number, least: number): number {
  let at = offset;
  while (at > least && isBlank(text.charCodeAt(at - 1))) at--;
  return at;
}

function wordEndsAt(text: string, offset: number): boolean {
  return /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]$/u.test(text.slice(Math.max(0, offset - 2), offset));
}

function wordStartsAt(text: string, offset: number): boolean {
  return /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]/u.test(text.slice(offset, offset + 2));
}

/** GPT-2's splitting, which ByteLevel does where it is not told otherwise (`pat_str` of OpenAI's encoder.py). */
const gpt2Words = trustedPattern(
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/u,
);
const digit = trustedPattern(/\p{N}/u);
const punctuation = trustedPattern(/[!-/:-@[-`{-~\p{P}]/u);
const wordsAndSymbols = trustedPattern(
  /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{White_Space}]+/u,
);
const blank = trustedPattern(/\p{White_Space}/u);

function preTokenize(text: string, steps: readonly PreTokenizerStep[], atStart: boolean): readonly string[] {
  let pieces: readonly string[] = text === "" ? [] : [text];
  for (const step of steps) {
    pieces = pieces.flatMap((piece, i) => preTokenizeStep(piece, step, atStart && i === 0));
  }
  return pieces;
}

function preTokenizeStep(piece: string, step: PreTokenizerStep, first: boolean): readonly string[] {
  switch (step.type) {
    case "ByteLevel": {
      const text = step.prefixSpace && !piece.startsWith(" ") ? ` ${piece}` : piece;
      return step.useRegex ? splitText(text, gpt2Words, "Isolated", false) : [text];
    }
    case "Split":
      return splitText(piece, step.pattern, step.behavior, step.invert);
    case "Digits":
      return splitText(piece, digit, step.individual ? "Isolated" : "Contiguous", false);
    case "Punctuation":
      return splitText(piece, punctuation, step.behavior, false);
    case "Whitespace":
      return splitText(piece, wordsAndSymbols, "Removed", true);
    case "WhitespaceSplit":
      return splitText(piece, blank, "Removed", false);
    case "Metaspace": {
      const { replacement, scheme } = step;
      let text = piece.replaceAll(" ", replacement);
      if ((scheme === "always" || (scheme === "first" && first)) && !text.startsWith(replacement)) {
        text = replacement + text;
      }
      if (!step.split) return [text];
      // A new piece starts at each replacement character.
      return text.split(new RegExp(`(?=${escapeRegex(replacement)})`, "u"));
    }
  }
}

/** Encodes one pre-tokenized piece and appends its ids. Without `control`, no merge may end in a control token. */
type Model = (piece: string, ids: number[], control: boolean) => void;

function createModel(definition: Definition, controls: ReadonlySet<number>): Model {
  const { idOf, unknownId } = definition;
  const all = definition.merges.table;
  const plain = withoutResults(definition.merges, controls) ?? all;
  const byteLevel = definition.preTokenizer.at(-1)?.type === "ByteLevel";
  const byteIds = Array.from({ length: 256 }, (_, byte) =>
    byteLevel
      ? (idOf.get(characterOfByte[byte] ?? "") ?? unknownId)
      : (idOf.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`) ?? null),
  );
  const encoder = new TextEncoder();
  const cache = new Map<string, readonly number[]>();
  const fallbacks = new Map<string, readonly number[] | null>();

  /** Ids of a character's bytes, or null where the vocabulary lacks one. */
  const bytesOf = (character: string): readonly number[] | null => {
    if (!definition.byteFallback) return null;
    let ids = fallbacks.get(character);
    if (ids === undefined) {
      const found = Array.from(encoder.encode(character), (byte) => byteIds[byte] ?? null).filter((id) => id !== null);
      ids = found.length === encoder.encode(character).length ? found : null;
      fallbacks.set(character, ids);
    }
    return ids;
  };

  /** The first symbols of a piece: bytes in a byte-level vocabulary, else characters, else their bytes. */
  const symbolsOf = (piece: string): Int32Array => {
    const bytes = byteLevel ? encoder.encode(piece) : null;
    // A character has at most as many UTF-8 bytes as three times its UTF-16 units.
    const symbols = new Int32Array(bytes?.length ?? piece.length * 3);
    let count = 0;
    let unknownBefore = false;
    const unknown = (): void => {
      if (unknownId !== null && !(unknownBefore && definition.fuseUnknown)) symbols[count++] = unknownId;
      unknownBefore = true;
    };
    if (bytes !== null) {
      for (const byte of bytes) {
        const id = byteIds[byte] ?? null;
        if (id !== null) symbols[count++] = id;
      }
      return symbols.subarray(0, count);
    }
    for (const character of piece) {
      const id = idOf.get(character);
      if (id !== undefined) {
        symbols[count++] = id;
        unknownBefore = false;
        continue;
      }
      const bytesOfIt = bytesOf(character);
      if (bytesOfIt === null) {
        unknown();
      } else {
        for (const byte of bytesOfIt) symbols[count++] = byte;
        unknownBefore = false;
      }
    }
    return symbols.subarray(0, count);
  };

  const wholeToken = (piece: string): number | undefined => {
    if (!definition.ignoreMerges) return undefined;
    const written = byteLevel
      ? Array.from(encoder.encode(piece), (byte) => characterOfByte[byte] ?? "").join("")
      : piece;
    return idOf.get(written);
  };

  const idsOf = (piece: string, merges: MergeTable, control: boolean): Iterable<number> => {
    const whole = piece.length <= 1024 ? wholeToken(piece) : undefined;
    if (whole !== undefined && (control || !controls.has(whole))) return [whole];
    const symbols = symbolsOf(piece);
    return symbols.subarray(0, mergePairs(symbols, symbols.length, merges));
  };

  return (piece, ids, control) => {
    const merges: MergeTable = control ? all : plain;
    const remember = piece.length <= cachedPiece && merges === all;
    const known = remember ? cache.get(piece) : undefined;
    const found = known ?? idsOf(piece, merges, control);
    for (const id of found) ids.push(id);
    if (remember && known === undefined) {
      if (cache.size >= cacheSize) cache.clear();
      cache.set(piece, Array.from(found));
    }
  };
}

/** A table without the merges that make one of these ids, or null where no merge does. */
function withoutResults({ triples, ranks }: Merges, ids: ReadonlySet<number>): MergeTable | null {
  const kept: number[] = [];
  for (let at = 0; at < triples.length; at += 3) {
    if (!ids.has(triples[at + 2] ?? 0)) kept.push(triples[at] ?? 0, triples[at + 1] ?? 0, triples[at + 2] ?? 0);
  }
  return kept.length === triples.length ? null : createMergeTable(Int32Array.from(kept), ranks);
}
