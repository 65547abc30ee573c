/** `phi chat`: a conversation in a terminal, or through a pipe with a message a line. */
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { createInterface, type Interface } from "node:readline";
import { type GenerationResult, PhiError, printable, type SamplingOptions } from "../engine/index.ts";
import {
  type CachedTurn,
  type ChatForm,
  type ChatFormName,
  chatForm,
  withCachedTurn,
  withoutOldest,
} from "../library/chat.ts";
import type { TextModel } from "../library/index.ts";
import { stopsUnder } from "../library/text.ts";
import {
  type ChatMessage,
  parseExactJson,
  type Tokenizer,
  TokenizerError,
  writeExactJson,
} from "../tokenizer/index.ts";
import { openAdapterOrRestart } from "./adapter.ts";
import { type SamplingCommandOptions, samplingOf } from "./generate.ts";
import { checkMemory, describeModel, openModel, openModelFolder } from "./model.ts";
import { checkIds } from "./options.ts";
import { note, print, printUntrusted, writing } from "./output.ts";
import { reportFailure } from "./process.ts";
import type { RunOptions } from "./run.ts";
import { chatMessages } from "./tokenize.ts";

/** Options of `phi chat`. */
export interface ChatCommandOptions extends RunOptions, SamplingCommandOptions {
  readonly maxTokens: number;
  readonly system?: string;
  readonly form?: ChatFormName;
  readonly stop: readonly string[];
  readonly rawOutput?: boolean;
  readonly stats?: boolean;
  readonly debug?: boolean;
}

const help = `Write a message and press Enter. A line that ends in \\ goes on in the next one, and """ begins and ends a
message of many lines. Ctrl-C stops an answer, and leaves where none is being written; so does Ctrl-D.
  /reset          begin anew; the system prompt stays
  /system TEXT    set the system prompt (all is run again); /system alone shows it, /system "" removes it
  /save FILE      write the conversation as JSON
  /load FILE      go on with a conversation of /save, or a JSON array of messages { role, content }
  /stats          figures of the last answer, and how full the context is
  /help           this text
  /exit           leave
A message that begins with / is written with //. When the context is full, the oldest turns are left out.
`;

/** Ctrl-C can arrive twice: from the terminal, and handed on by a process that started this one. */
const echoMs = 100;

/** Runs the conversation until stdin ends, or `/exit`. */
export async function chat(options: ChatCommandOptions, signal: AbortSignal): Promise<void> {
  const folder = await openModelFolder(options.model, options.allowSymlinks, { ...options, signal });
  const described = await describeModel(folder, options);
  checkIds("--logit-bias", options.logitBias.keys(), described.vocabulary);
  const adapter = await openAdapterOrRestart(options.adapter);
  if (adapter === undefined) return;
  checkMemory(described, adapter.adapter);
  const { type, hidden, layers } = described;
  let form: ChatForm | undefined;
  const opened = await openModel(folder, adapter, options, "required", signal, (tokenizer) => {
    if (tokenizer) form = chatForm(tokenizer, { name: modelName(folder.name), type, hidden, layers }, options.form);
  });
  try {
    const { model } = opened;
    if (form === undefined || model.tokenizer === undefined)
      throw new Error("a model was opened without its tokenizer");
    await new Chat(model, model.tokenizer, form, options).run(signal);
  } finally {
    opened.dispose();
  }
}

/** `phi-2` of a folder `…/phi-2`, and of the Hugging Face cache's `…/models--microsoft--phi-2/snapshots/…`. */
function modelName(folder: string): string {
  const path = resolve(folder);
  return /models--([^/\\]+)[/\\]snapshots[/\\]/.exec(path)?.[1]?.split("--").at(-1) ?? basename(path);
}

/** The state of a conversation, and its commands. */
class Chat {
  readonly #model: TextModel;
  readonly #tokenizer: Tokenizer;
  readonly #form: ChatForm;
  readonly #options: ChatCommandOptions;
  readonly #sampling: SamplingOptions;
  /** The system prompt is not among them. */
  #messages: readonly ChatMessage[] = [];
  #system: string;
  #cached: CachedTurn = { prompt: [], generated: [] };
  #stats = "no answer yet";
  /** Answers so far: each draws with a seed of its own. */
  #turns = 0n;
  /** The answer that is being written. */
  #answering: AbortController | undefined;
  #exitCode = 0;

  constructor(model: TextModel, tokenizer: Tokenizer, form: ChatForm, options: ChatCommandOptions) {
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#form = form;
    this.#options = options;
    this.#system = options.system ?? "";
    this.#sampling = samplingOf(model, options);
  }

  async run(signal: AbortSignal): Promise<void> {
    const isTerminal = Boolean(process.stdin.isTTY && process.stderr.isTTY);
    // Answers alone go to stdout: the prompt and what is typed are shown on stderr.
    const lines = createInterface({ input: process.stdin, output: process.stderr, terminal: isTerminal });
    if (isTerminal)
      process.stderr.write(
        `${printable(this.#model.architecture)}, ${this.#form.name} form; /help lists the commands\n`,
      );
    const { seed } = this.#sampling;
    if (seed !== undefined && this.#options.seed === undefined) process.stderr.write(`seed: ${seed}\n`);
    this.#handleInterrupts(lines);
    signal.addEventListener("abort", () => lines.close(), { once: true });
    for await (const message of messagesOf(lines, isTerminal)) {
      try {
        if (message.startsWith("/") && !message.startsWith("//")) {
          if (/^\/(exit|quit)\s*$/.test(message)) break;
          await this.#command(message);
        } else await this.#answer(message.replace(/^\/\//, "/"), signal);
      } catch (error) {
        // What is wrong with one message or file is said, and the conversation goes on.
        const kind = error instanceof PhiError ? error.kind : error instanceof TokenizerError ? "usage" : undefined;
        if (signal.aborted || (kind !== "usage" && kind !== "io" && kind !== "checkpoint")) throw error;
        const code = reportFailure(error, this.#options.debug ?? false);
        if (!isTerminal) this.#exitCode ||= code;
      }
      if (signal.aborted) break;
    }
    lines.close();
    if (!signal.aborted && this.#exitCode !== 0) process.exitCode = this.#exitCode;
  }

  /** Ctrl-C stops an answer; without one it ends the process. In a terminal the line editor sees the key. */
  #handleInterrupts(lines: Interface): void {
    let lastMs = Number.NEGATIVE_INFINITY;
    const interrupt = () => {
      const nowMs = performance.now();
      if (nowMs - lastMs < echoMs) return;
      lastMs = nowMs;
      if (this.#answering !== undefined) return this.#answering.abort();
      if (lines.terminal && lines.line !== "") return lines.write(null, { ctrl: true, name: "u" }); // empties the line
      process.exitCode = 130;
      lines.close();
    };
    process.removeAllListeners("SIGINT").on("SIGINT", interrupt);
    lines.on("SIGINT", interrupt);
  }

  #all(messages = this.#messages): readonly ChatMessage[] {
    return this.#system === "" ? messages : [{ role: "system", content: this.#system }, ...messages];
  }

  async #answer(content: string, signal: AbortSignal): Promise<void> {
    const { maxTokens } = this.#options;
    const { context } = this.#model;
    const asked = [...this.#messages, { role: "user", content }];
    // Room for an answer, a quarter of the context at most, so that not every turn drops one and runs all again.
    const room = Math.min(maxTokens, Math.max(1, Math.floor(context / 4)));
    const kept = withoutOldest(this.#all(asked), (messages) => this.#form.encode(messages).length + room <= context);
    if (kept === undefined) {
      throw new PhiError(
        "usage",
        `the message does not fit: with the system prompt it is ${this.#form.encode(this.#all(asked.slice(-1))).length} tokens, the context is ${context}, and an answer takes up to ${room}`,
      );
    }
    const dropped = this.#all(asked).length - kept.length;
    if (dropped > 0)
      note(`the context of ${context} tokens is full: the oldest ${dropped} messages are left out from here on`);
    const ids = withCachedTurn(this.#form.encode(kept), this.#cached, this.#tokenizer);
    const generated: number[] = [];
    let text = "";
    const begin = answerBegin();
    let result: GenerationResult | undefined;
    const answering = new AbortController();
    this.#answering = answering;
    // By hand: Node 20 loses aborts through AbortSignal.any once one of its signals was collected.
    const stop = () => answering.abort();
    signal.addEventListener("abort", stop);
    const { seed } = this.#sampling;
    const sampling =
      seed === undefined
        ? this.#sampling
        : { ...this.#sampling, seed: BigInt.asUintN(64, BigInt(seed) + this.#turns++) };
    const ownStops = this.#options.stop.length > 0 ? this.#options.stop : undefined;
    const stops = stopsUnder(this.#model.generationDefaults, ownStops);
    const pieces = this.#model.generate(ids, {
      maxTokens,
      sampling,
      stop: [...this.#form.stops, ...stops],
      signal: answering.signal,
    });
    try {
      for (;;) {
        const next = await pieces.next();
        if (next.done) {
          result = next.value;
          break;
        }
        if (next.value.id !== undefined) generated.push(next.value.id);
        const piece = begin(next.value.text);
        text += piece;
        await printUntrusted(piece, this.#options.rawOutput);
      }
    } catch (error) {
      // A stopped answer stays as far as it was written.
      if (!answering.signal.aborted || signal.aborted) throw error;
      this.#stats = `stopped after ${generated.length} tokens`;
    } finally {
      this.#answering = undefined;
      signal.removeEventListener("abort", stop);
      await print("\n");
    }
    if (result !== undefined) this.#tell(result, ids.length + generated.length);
    const first = kept[0]?.role === "system" ? 1 : 0;
    this.#cached = { prompt: ids, generated };
    if (text.trim() !== "" || !answering.signal.aborted) {
      this.#messages = [...kept.slice(first), { role: "assistant", content: text.trimEnd() }];
    }
    if (answering.signal.aborted) note(this.#stats);
    else if (this.#options.stats) process.stderr.write(`${this.#stats}\n`);
  }

  #tell({ finishReason, stats }: GenerationResult, tokens: number): void {
    const { context } = this.#model;
    const { promptTokens, cachedTokens, newTokens, prefillMs, decodeMs, recomputeMs } = stats;
    const rate = decodeMs > 0 ? `, ${(((newTokens - 1) * 1000) / decodeMs).toFixed(1)} tokens/s` : "";
    const rope = recomputeMs > 0 ? `; run again with longrope's long factors in ${recomputeMs.toFixed(0)} ms` : "";
    this.#stats = `prompt ${promptTokens} tokens: ${cachedTokens} cached, ${promptTokens - cachedTokens} run in ${prefillMs.toFixed(0)} ms; answer ${newTokens} tokens (${finishReason})${rate}${rope}; context ${tokens} of ${context}`;
    if (finishReason === "context") note(`the context of ${context} tokens is full: the answer ends here`);
    if (finishReason === "length") note(`the answer was cut at ${newTokens} tokens (--max-tokens)`);
  }

  async #command(line: string): Promise<void> {
    const [, name = "", argument = ""] = /^\/(\S*)\s*(.*)$/s.exec(line) ?? [];
    const text = argument.trim();
    const file = () => {
      if (text !== "") return text;
      throw new PhiError("usage", `/${name}: expected a file, got none`);
    };
    switch (name) {
      case "reset":
        this.#messages = [];
        return;
      case "system":
        if (text === "")
          process.stderr.write(`${this.#system === "" ? "no system prompt" : printable(this.#system)}\n`);
        else this.#system = text === '""' ? "" : text;
        return;
      case "save":
        return save(file(), this.#all());
      case "load":
        return this.#load(file());
      case "stats":
        process.stderr.write(`${this.#stats}\n`);
        return;
      case "help":
        process.stderr.write(help);
        return;
      default:
        throw new PhiError("usage", `/${printable(name)}: expected a command, got none of that name; /help lists them`);
    }
  }

  async #load(path: string): Promise<void> {
    const messages = await load(path);
    this.#form.encode([...messages, { role: "user", content: "" }]); // refused before it replaces anything
    const { role, content, ...others } = messages[0] ?? { role: "" };
    // A system message of text alone is what /system shows; one with more to it stays as it is.
    const isPrompt = role === "system" && typeof content === "string" && Object.keys(others).length === 0;
    this.#system = isPrompt ? content : "";
    this.#messages = isPrompt ? messages.slice(1) : messages;
  }
}

/**
 * Pieces of an answer without what only parts it from what stands before: empty lines, and the blank after a colon or of a
 * word (SentencePiece). Several blanks are an indentation and stay.
 */
function answerBegin(): (piece: string) => string {
  let held: string | undefined = "";
  return (piece) => {
    if (held === undefined) return piece;
    held += piece;
    if (held.trimStart() === "") return "";
    const text = held.replace(/^\s*[\r\n]/, "").replace(/^ (?! )/, "");
    held = undefined;
    return text;
  };
}

/** Messages of an input: lines, joined where one ends in a backslash or `"""` stands around them. Empty ones are left out. */
async function* messagesOf(lines: Interface, isTerminal: boolean): AsyncGenerator<string, void, undefined> {
  let open: "no" | "line" | "block" = "no";
  let parts: string[] = [];
  const ask = () => {
    if (!isTerminal) return;
    lines.setPrompt(open === "no" ? "> " : "… ");
    lines.prompt();
  };
  ask();
  let isFirst = true;
  for await (const line of lines) {
    let piece = isFirst ? line.replace(/^\ufeff/, "") : line;
    isFirst = false;
    if (open === "no" && piece.trimStart().startsWith('"""')) {
      open = "block";
      piece = piece.trimStart().slice(3);
      if (piece === "") {
        ask();
        continue;
      }
    }
    if (open === "block") {
      const isEnd = piece.trimEnd().endsWith('"""');
      parts.push(isEnd ? piece.trimEnd().slice(0, -3) : piece);
      open = isEnd ? "no" : "block";
    } else if (piece.endsWith("\\")) {
      parts.push(piece.slice(0, -1));
      open = "line";
    } else {
      parts.push(piece);
      open = "no";
    }
    if (open === "no") {
      const message = parts.join("\n").trim();
      parts = [];
      if (message !== "") yield message;
    }
    ask();
  }
  const rest = parts.join("\n").trim();
  if (rest !== "") yield rest;
}

async function save(path: string, messages: readonly ChatMessage[]): Promise<void> {
  const partial = `${path}.${process.pid}.incomplete`;
  try {
    await writing(path, async () => {
      await writeFile(partial, `${writeExactJson({ messages })}\n`, { flag: "wx" });
      await rename(partial, path);
    });
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}

async function load(path: string): Promise<readonly ChatMessage[]> {
  let text: string;
  try {
    text = (await readFile(path, "utf8")).replace(/^\ufeff/, "");
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new PhiError("io", `${printable(path)}: cannot be read: ${printable(reason)}`);
  }
  let value: unknown;
  try {
    value = parseExactJson(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new PhiError("usage", `${printable(path)}: expected JSON, got ${printable(reason)}`);
  }
  const { messages = value } = Object(value) as { messages?: unknown };
  return chatMessages(messages, printable(path));
}
