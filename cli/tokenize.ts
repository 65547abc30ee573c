/** `phi tokenize` and `phi detokenize`: a tokenizer without its model. */
import { PhiError, printable } from "../engine/index.ts";
import { loadTokenizer } from "../library/index.ts";
import { type ChatMessage, messageProblem, parseExactJson } from "../tokenizer/index.ts";
import { readText } from "./input.ts";
import { openModelFolder } from "./model.ts";
import { print, printUntrusted } from "./output.ts";

interface FolderOptions {
  readonly model?: string;
  readonly allowSymlinks?: boolean;
}

/** Options of `phi tokenize`. */
export interface TokenizeOptions extends FolderOptions {
  readonly special?: boolean;
  readonly chat?: boolean;
  readonly specialInContent?: boolean;
  /** Commander's form of `--no-generation-prompt`. */
  readonly generationPrompt?: boolean;
  readonly lossy?: boolean;
}

async function tokenizerOf({ model, allowSymlinks }: FolderOptions, signal: AbortSignal) {
  return loadTokenizer(await openModelFolder(model, allowSymlinks, { need: "text", signal }));
}

/** stdin → a JSON array of ids on stdout. */
export async function tokenize(options: TokenizeOptions, signal: AbortSignal): Promise<void> {
  const tokenizer = await tokenizerOf(options, signal);
  const text = await readText(process.stdin, options.lossy ?? false, signal);
  signal.throwIfAborted();
  const ids = options.chat
    ? tokenizer.encodeChat(chatMessages(parseStdin(text, parseExactJson)), {
        addGenerationPrompt: options.generationPrompt ?? true,
        specialInContent: options.specialInContent ?? false,
      })
    : tokenizer.encode(text, { addSpecialTokens: options.special ?? false });
  await print(`${JSON.stringify(ids)}\n`);
}

/** A JSON array of ids on stdin → their text on stdout, with nothing added. */
export async function detokenize(
  options: FolderOptions & { readonly skipSpecial?: boolean },
  signal: AbortSignal,
): Promise<void> {
  const tokenizer = await tokenizerOf(options, signal);
  const text = await readText(process.stdin, false, signal);
  signal.throwIfAborted();
  const ids = tokenIds(parseStdin(text));
  await printUntrusted(tokenizer.decode(ids, { skipSpecialTokens: options.skipSpecial ?? false }));
}

function parseStdin(text: string, parse: (text: string) => unknown = JSON.parse): unknown {
  try {
    return parse(text.replace(/^\ufeff/, ""));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new PhiError("usage", `stdin: expected JSON, got ${reason.replace(/\s+/g, " ")}`);
  }
}

/** A refusal of a value that came as JSON. */
function refuse(where: string, expected: string, got: unknown): never {
  const shown = Array.isArray(got)
    ? `a list of ${got.length}`
    : typeof got === "object" && got !== null
      ? "an object"
      : printable(JSON.stringify(got) ?? "nothing");
  throw new PhiError("usage", `${where}: expected ${expected}, got ${shown}`);
}

function tokenIds(value: unknown): readonly number[] {
  if (!Array.isArray(value)) return refuse("stdin", "a JSON array of token ids", value);
  for (const [index, id] of value.entries()) {
    if (!Number.isInteger(id) || id < 0 || id >= 2 ** 32) refuse(`stdin: [${index}]`, "a token id", id);
  }
  return value;
}

/** A JSON array of messages; `source` is what holds it. What else a template reads is left in. */
export function chatMessages(value: unknown, source = "stdin"): readonly ChatMessage[] {
  if (!Array.isArray(value)) return refuse(source, "a JSON array of messages { role, content }", value);
  for (const [index, message] of value.entries()) {
    const where = `${source}: [${index}]`;
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      refuse(where, "an object { role, content }", message);
    }
    const problem = messageProblem(message);
    if (problem !== undefined) refuse(`${where}.${problem.field}`, problem.expected, problem.got);
  }
  return value;
}
