/**
 * Text to token ids and back, from the files that Hugging Face checkpoints carry. Everything happens on bytes in
 * memory, in Node or a browser. The regular expressions are translated by `@huggingface/tokenizers`, splitting,
 * merging and decoding are our own, because the library takes 20 to 55 s for a million equal letters, decodes invalid
 * byte runs differently and offers no streaming. Chat templates run on an interpreter of ours (`jinja/`).
 */
import type { AddedToken } from "./added.ts";
import type { ChatMessage } from "./chat.ts";
import { createTextStream, type TextStream } from "./decode.ts";
import { controlTokens, createEncoder } from "./encode.ts";
import { printable, TokenizerError } from "./error.ts";
import { readSettings, readVocabularyFile, type SpecialTokens, type TokenizerFiles } from "./files.ts";
import { raw, type Str } from "./jinja/text.ts";
import type { Value } from "./jinja/values.ts";
import { checkMessages } from "./messages.ts";
import { readChatTemplates } from "./template.ts";
import { jsonValue, messagesValue, shielded } from "./trust.ts";

export type { ChatMessage } from "./chat.ts";
export type { TextStream } from "./decode.ts";
export { TokenizerError } from "./error.ts";
export { Float, parseExactJson, writeExactJson } from "./exact.ts";
export type { SpecialTokens, TokenizerFiles } from "./files.ts";
export { checkMessages, messageProblem } from "./messages.ts";
export { ranksFile } from "./ranks.ts";

/** How a conversation is rendered. */
export interface ChatOptions {
  /** Ends with the opening of the assistant's answer. Default true. */
  readonly addGenerationPrompt?: boolean;
  /** Further variables for the template; only the names in `templateVariables` are allowed. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

export interface Tokenizer {
  /** One more than the largest id. */
  readonly vocabularySize: number;
  readonly specialIds: SpecialTokens<number>;
  readonly specialTokens: SpecialTokens<string>;
  /**
   * Tokens that end an answer: `eos_token`, and what the chat template writes after one, where that is a control token.
   * Those without a row in the embedding are left out.
   */
  readonly endIds: readonly number[];
  /** Whether decoding may leave this id out, as `skipSpecialTokens` does. */
  isSpecial(id: number): boolean;
  /** How many rows the model's embedding has, where that is known: ids from there on cannot be run. */
  readonly embeddingRows: number | undefined;
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
  /**
   * The same text piece by piece, at a cost per id that does not grow. `after`: ids that come before, as a prompt's: the
   * text is then what goes on from theirs, with the blank of a word that would be dropped at a text's beginning.
   */
  stream(options?: { readonly skipSpecialTokens?: boolean; readonly after?: readonly number[] }): TextStream;
  readonly hasChatTemplate: boolean;
  /** Why the chat template cannot be used although there is one, else null. Rendering throws the same. */
  readonly chatTemplateError: TokenizerError | null;
  /** The conversation as the template writes it. Throws TokenizerError (no template, bad messages, template fails). */
  renderChat(messages: readonly ChatMessage[], options?: ChatOptions): string;
  /**
   * Ids of the rendered conversation. What the assistant said earlier keeps its tokens; all else in messages and
   * variables is data: text in it that looks like a control token is encoded as plain text, unless `specialInContent`
   * asks for what `transformers` does.
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

/**
 * The control token that a template writes right after an assistant's answer, or null: no template, or one that writes
 * none there. What begins another turn is not met, since none follows.
 */
function endOfTurn(
  render: (messages: readonly ChatMessage[]) => string,
  controls: readonly AddedToken[],
): number | null {
  const answer = "An answer.";
  let text: string;
  try {
    text = render([
      { role: "user", content: "A question." },
      { role: "assistant", content: answer },
    ]);
  } catch (error) {
    if (error instanceof TokenizerError) return null;
    throw error;
  }
  const at = text.lastIndexOf(answer);
  const rest = at < 0 ? "" : text.slice(at + answer.length).trimStart();
  const found = controls
    .filter(({ content }) => rest.startsWith(content))
    .sort((a, b) => b.content.length - a.content.length);
  return found[0]?.id ?? null;
}

/**
 * Read and check the tokenizer of a checkpoint. `vocabularySize` is the number of rows of the model's embedding; a
 * vocabulary with more ids is refused, added tokens past it are noted. Throws TokenizerError that names file and field.
 */
export function loadTokenizer(files: TokenizerFiles, options: { readonly vocabularySize?: number } = {}): Tokenizer {
  const settings = readSettings(files);
  const { config, specialTokens } = settings;
  const definition = readVocabularyFile(files, settings, options.vocabularySize);
  const templates = readChatTemplates(files, config);
  const template = templates.choose(false);
  const encoder = createEncoder(definition, specialTokens, settings.splitSpecial);
  const { special, byId } = definition.added;
  // As `tokenizers` does, by the text: a token that is written as a special one once it is normalized is left out too.
  const specialIds = new Set(
    [...byId.values()].filter(({ id, content }) => special.has(definition.decoded[id] ?? content)).map(({ id }) => id),
  );
  const idOf = (token: string | null): number | null => (token === null ? null : (definition.idOf.get(token) ?? null));

  const stream: Tokenizer["stream"] = ({ skipSpecialTokens = false, after = [] } = {}) =>
    createTextStream(definition, skipSpecialTokens ? specialIds : new Set(), after);

  const render = (
    messages: readonly ChatMessage[],
    { addGenerationPrompt = true, variables = {} }: ChatOptions,
  ): Str => {
    for (const name of Object.keys(variables)) {
      if (!templateVariables.includes(name)) {
        throw new TokenizerError(
          `template variable "${printable(name)}": expected one of ${templateVariables.join(", ")}`,
          [],
          2,
        );
      }
    }
    const given = Object.entries(variables).filter(([, value]) => value !== undefined);
    const chosen = templates.choose((variables.tools ?? null) !== null);
    if (chosen instanceof TokenizerError) throw chosen;
    if (chosen === null) {
      throw new TokenizerError(`${printable(files.folderName)}: this model has no chat template`, [
        "Plain text needs none: phi generate or phi tokenize without --chat.",
      ]);
    }
    return chosen.render(
      new Map<string, Value>([
        ["tools", null],
        ["documents", null],
        // As transformers has them: every special token that has a name.
        ...[...settings.named].map(([name, { content }]) => [name, content] as const),
        ...given.map(([name, value]) => [name, jsonValue(value, false)] as const),
        ["messages", messagesValue(messages)],
        ["add_generation_prompt", addGenerationPrompt],
      ]),
    );
  };

  let endIds: readonly number[] | undefined;
  const findEndIds = (): readonly number[] => {
    const { eos } = specialTokens;
    const controls = controlTokens(definition, specialTokens);
    const ids = [idOf(eos), endOfTurn((messages) => raw(render(messages, { addGenerationPrompt: false })), controls)];
    const rows = options.vocabularySize ?? Number.POSITIVE_INFINITY;
    return [...new Set(ids.filter((id) => id !== null && id < rows))] as readonly number[];
  };

  return {
    vocabularySize: definition.tokenOf.length,
    embeddingRows: options.vocabularySize,
    get endIds() {
      endIds ??= findEndIds();
      return endIds;
    },
    isSpecial: (id) => specialIds.has(id),
    specialIds: {
      bos: idOf(specialTokens.bos),
      eos: idOf(specialTokens.eos),
      pad: idOf(specialTokens.pad),
      unk: idOf(specialTokens.unk),
    },
    specialTokens,
    notes: [...definition.notes, ...settings.notes],
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
    renderChat: (messages, chatOptions = {}) => raw(render(checkMessages(messages), chatOptions)),
    encodeChat(messages, { specialInContent = false, ...chatOptions } = {}) {
      const rendered = render(checkMessages(messages), chatOptions);
      if (specialInContent) return encoder(raw(rendered), { allowControl: true });
      // A mark inside each look-alike keeps it from matching; it is taken out again before the text is encoded.
      const { text, mark } = shielded(
        rendered,
        controlTokens(definition, specialTokens).map((token) => token.content),
      );
      return encoder(text, { allowControl: true, ...(mark !== undefined && { mark }) });
    },
  };
}
