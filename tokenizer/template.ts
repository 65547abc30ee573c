/** Which chat template a checkpoint has: one of its own file, one in tokenizer_config.json, or several with names. */
import { type ChatTemplate, parseChatTemplate } from "./chat.ts";
import { printable, TokenizerError } from "./error.ts";
import { decodeTextFile, parseJsonFile } from "./json.ts";

/** Files that may hold templates; absent ones are left out. */
export interface TemplateFiles {
  readonly chatTemplateJinja?: Uint8Array;
  /** additional_chat_templates/NAME.jinja, by NAME. */
  readonly additionalTemplates?: Readonly<Record<string, Uint8Array>>;
  /** chat_template.json, an older form that `transformers` reads for processors. It counts where there is no other. */
  readonly chatTemplateJson?: Uint8Array;
}

/** The template for a conversation without tools, and the one with. */
export interface ChatTemplates {
  /** The template, why it cannot be used, or null where there is none. */
  choose(hasTools: boolean): ChatTemplate | TokenizerError | null;
}

interface Source {
  readonly file: string;
  readonly text: string;
}

/**
 * The templates as `transformers` 5.23 finds them: those of files win over tokenizer_config.json, a folder's over
 * chat_template.jinja; of several the one named `tool_use` is for conversations with tools, else `default`.
 */
export function readChatTemplates(files: TemplateFiles, config: Readonly<Record<string, unknown>>): ChatTemplates {
  // A model without a usable template still takes plain text, so an error waits until a template is asked for.
  const attempt = <T>(read: () => T): T | TokenizerError => {
    try {
      return read();
    } catch (error) {
      if (error instanceof TokenizerError) return error;
      throw error;
    }
  };
  const named = attempt(() => namedSources(files, config));
  const parsed = new Map<string, ChatTemplate | TokenizerError>();
  const templateOf = (name: string, { text, file }: Source): ChatTemplate | TokenizerError => {
    const template = parsed.get(name) ?? attempt(() => parseChatTemplate(text, file));
    parsed.set(name, template);
    return template;
  };
  return {
    choose(hasTools) {
      if (named instanceof TokenizerError) return named;
      const [first] = named.values();
      if (first === undefined) return null;
      for (const name of hasTools ? ["tool_use", "default"] : ["default"]) {
        const source = named.get(name);
        if (source !== undefined) return templateOf(name, source);
      }
      const names = [...named.keys()].map((key) => `"${printable(key)}"`).join(", ");
      return new TokenizerError(`${first.file}: chat_template: expected one named "default", got ${names}`);
    },
  };
}

function namedSources(files: TemplateFiles, config: Readonly<Record<string, unknown>>): ReadonlyMap<string, Source> {
  const named = new Map<string, Source>();
  const add = (name: string, file: string, bytes: Uint8Array): void => {
    named.set(name, { file, text: decodeTextFile(file, bytes) });
  };
  if (files.chatTemplateJinja !== undefined) add("default", "chat_template.jinja", files.chatTemplateJinja);
  for (const [name, bytes] of Object.entries(files.additionalTemplates ?? {})) {
    add(name, `additional_chat_templates/${name}.jinja`, bytes);
  }
  if (named.size > 0) return named;
  const file = "tokenizer_config.json";
  const value = config.chat_template ?? null;
  if (typeof value === "string") return new Map([["default", { file, text: value }]]);
  if (value !== null) return namedInConfig(file, value);
  if (files.chatTemplateJson === undefined) return named;
  const older = "chat_template.json";
  const { chat_template: text } = parseJsonFile(older, files.chatTemplateJson);
  if (typeof text !== "string") throw new TokenizerError(`${older}: chat_template: expected a string`);
  return new Map([["default", { file: older, text }]]);
}

function namedInConfig(file: string, value: unknown): ReadonlyMap<string, Source> {
  const named = new Map<string, Source>();
  // `transformers` also keeps them by name in an object.
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    for (const [name, text] of Object.entries(value)) {
      if (typeof text !== "string")
        throw new TokenizerError(`${file}: chat_template.${printable(name)}: expected a string`);
      named.set(name, { file, text });
    }
    return named;
  }
  if (!Array.isArray(value)) throw new TokenizerError(`${file}: chat_template: expected a string or a list`);
  for (const [i, entry] of value.entries()) {
    const { name, template } = Object(entry) as { name?: unknown; template?: unknown };
    if (typeof name !== "string" || typeof template !== "string") {
      throw new TokenizerError(`${file}: chat_template[${i}]: expected { "name", "template" }, both strings`);
    }
    named.set(name, { file, text: template });
  }
  if (named.size === 0) throw new TokenizerError(`${file}: chat_template: expected one named "default", got none`);
  return named;
}
