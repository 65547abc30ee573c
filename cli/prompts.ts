/** `phi generate --prompts FILE.jsonl -o OUT.jsonl`: many prompts with one loaded model, one result a line. */
import { createReadStream } from "node:fs";
import { open, stat } from "node:fs/promises";
import { type ModelDescription, PhiError, printable } from "../engine/index.ts";
import type { TextModel, TextPrompt } from "../library/index.ts";
import { promptIds } from "../library/text.ts";
import { parseExactJson, TokenizerError } from "../tokenizer/index.ts";
import { openAdapterOrRestart } from "./adapter.ts";
import { jsonLine } from "./format.ts";
import { checkPrompt, collect, type GenerateCommandOptions, outcomeJson, samplingOf } from "./generate.ts";
import { decodeUtf8, withoutByteOrderMark } from "./input.ts";
import { checkMemory, describeModel, openModel, openModelFolder } from "./model.ts";
import { checkIds, integerOption, numberOption, stopOption } from "./options.ts";
import { note, writeAll, writing } from "./output.ts";
import { chatMessages } from "./tokenize.ts";

/** Options of `phi generate` with `--prompts`. */
export interface PromptsOptions extends GenerateCommandOptions {
  readonly prompts: string;
}

/** One line of the file of prompts. */
interface PromptLine {
  readonly id: string | number;
  readonly prompt: TextPrompt | { readonly ids: readonly number[] };
  readonly options: GenerateCommandOptions;
}

const mostLineBytes = 64 * 1024 * 1024;

/**
 * Runs every prompt that has no result yet, in the order of the file. A line that cannot be run gives `{ id, error }`,
 * and the next one follows; what ends all is a lost GPU, a full disk, Ctrl-C. Results are written line by line, so that
 * the same command goes on where an earlier one ended.
 */
export async function generatePrompts(
  prompt: string | undefined,
  options: PromptsOptions,
  signal: AbortSignal,
): Promise<void> {
  const { prompts, output } = options;
  if (prompt !== undefined) throw new PhiError("usage", "--prompts: expected no prompt beside it, got one");
  if (output === undefined) throw new PhiError("usage", "--prompts: expected -o FILE for the results, got none");
  if (options.ids !== undefined || options.explain) {
    throw new PhiError("usage", `--prompts: expected no ${options.explain ? "--explain" : "--ids"} beside it, got one`);
  }
  await checkFiles(prompts, output);
  const folder = await openModelFolder(options.model, options.allowSymlinks, { ...options, signal });
  const described = await describeModel(folder, options);
  checkIds("--logit-bias", options.logitBias.keys(), described.vocabulary);
  const results = await openResults(output);
  try {
    const adapter = await openAdapterOrRestart(options.adapter);
    if (adapter === undefined) return;
    checkMemory(described, adapter.adapter);
    const { model, dispose } = await openModel(folder, adapter, options, "optional", signal);
    const counts = { there: 0, done: 0, failed: 0, tokens: 0 };
    const startMs = performance.now();
    try {
      let number = 0;
      for await (const bytes of linesOf(prompts)) {
        number++;
        const line = number === 1 ? withoutByteOrderMark(bytes) : bytes;
        if (line.length === 0 || /^\s*$/.test(Buffer.from(line).toString("latin1"))) continue;
        const { id, read } = readLine(line, number, options);
        const earlier = results.ids[counts.there];
        if (earlier !== undefined) {
          if (earlier !== id) throw otherResults(output, counts.there + 1, earlier, id);
          counts.there++;
          continue;
        }
        const result = await answer(model, described, read, signal);
        if ("error" in result) counts.failed++;
        else counts.done++;
        counts.tokens += "token_ids" in result ? result.token_ids.length : 0;
        await results.append({ id, ...result });
      }
      if (counts.there < results.ids.length) {
        const got = `${results.ids.length} of them`;
        throw new PhiError("usage", `${printable(output)}: expected results of ${counts.there} prompts, got ${got}`, [
          "It belongs to another file of prompts: give another -o.",
        ]);
      }
    } finally {
      const seconds = (performance.now() - startMs) / 1000;
      const { there, done, failed, tokens } = counts;
      const before = there > 0 ? `, ${there} there already` : "";
      note(`${done} prompts done, ${failed} failed${before}; ${tokens} new tokens in ${seconds.toFixed(1)} s`);
      dispose();
    }
  } finally {
    await results.close();
  }
}

async function checkFiles(prompts: string, output: string): Promise<void> {
  const [input, there] = await Promise.all([prompts, output].map((path) => stat(path).catch(() => undefined)));
  // A FIFO may wait for ever, and what it held cannot be read again.
  if (input === undefined || !input.isFile()) {
    const got = input === undefined ? "none of that name" : input.isDirectory() ? "a folder" : "a pipe or a device";
    throw new PhiError("usage", `--prompts: expected a file, got ${got}: "${printable(prompts)}"`);
  }
  if (there !== undefined && there.ino === input.ino && there.dev === input.dev) {
    throw new PhiError("usage", "-o: expected another file than that of --prompts, got the same");
  }
}

/** The bytes of each line, without its end. Splitting is on LF alone: JSON may hold U+2028 as it is. */
async function* linesOf(path: string): AsyncGenerator<Uint8Array> {
  let parts: Uint8Array[] = [];
  let sizeBytes = 0;
  const add = (part: Uint8Array) => {
    parts.push(part);
    sizeBytes += part.length;
    if (sizeBytes > mostLineBytes)
      throw new PhiError("usage", `${printable(path)}: expected lines of at most 64 MiB, got more`);
  };
  for await (const chunk of createReadStream(path) as AsyncIterable<Uint8Array>) {
    let from = 0;
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
      add(chunk.subarray(from, at));
      yield Buffer.concat(parts);
      parts = [];
      sizeBytes = 0;
      from = at + 1;
    }
    add(chunk.subarray(from));
  }
  if (sizeBytes > 0) yield Buffer.concat(parts);
}

/** The results so far, and a way to add to them. What was written of a last line without its end is cut off. */
async function openResults(path: string) {
  const ids: (string | number)[] = [];
  let goodBytes = 0;
  const handle = await writing(path, () => open(path, "a+"));
  try {
    const stats = await handle.stat();
    const size = stats.isFile() ? stats.size : 0; // a device has no earlier results
    for await (const line of size > 0 ? linesOf(path) : []) {
      if (goodBytes + line.length + 1 > size) break; // without its end
      ids.push(resultId(path, ids.length + 1, line));
      goodBytes += line.length + 1;
    }
    if (goodBytes < size) await writing(path, () => handle.truncate(goodBytes));
  } catch (error) {
    await handle.close();
    throw error;
  }
  return {
    ids: ids as readonly (string | number)[],
    append: (result: object) => writing(path, () => writeAll(handle, Buffer.from(jsonLine(result)))),
    close: () => handle.close(),
  };
}

function resultId(path: string, number: number, line: Uint8Array): string | number {
  try {
    const { id } = JSON.parse(Buffer.from(line).toString("utf8")) as { readonly id?: unknown };
    if (typeof id === "string" || typeof id === "number") return id;
  } catch {
    // the same refusal
  }
  throw new PhiError(
    "usage",
    `${printable(path)}: line ${number}: expected a result of phi generate --prompts, got other text`,
    ["Give -o a new file, or one that an earlier run of the same command wrote."],
  );
}

function otherResults(path: string, number: number, got: string | number, expected: string | number): PhiError {
  const ids = `expected the result of ${printable(JSON.stringify(expected))}, got that of ${printable(JSON.stringify(got))}`;
  return new PhiError("usage", `${printable(path)}: line ${number}: ${ids}`, [
    "It belongs to another file of prompts: give another -o.",
  ]);
}

/** The numbers that a line may have, under the names of the options. */
const numberFields = {
  max_tokens: { option: "maxTokens", read: integerOption('"max_tokens"', 0, 2 ** 31 - 1) },
  temperature: { option: "temperature", read: numberOption('"temperature"', { from: 0 }) },
  top_k: { option: "topK", read: integerOption('"top_k"', 0, 2 ** 31 - 1) },
  top_p: { option: "topP", read: numberOption('"top_p"', { from: 0, to: 1 }) },
  min_p: { option: "minP", read: numberOption('"min_p"', { from: 0, to: 1 }) },
  repeat_penalty: { option: "repeatPenalty", read: numberOption('"repeat_penalty"', { from: 0, above: true }) },
  presence_penalty: {
    option: "presencePenalty",
    read: numberOption('"presence_penalty"', { from: Number.NEGATIVE_INFINITY }),
  },
  frequency_penalty: {
    option: "frequencyPenalty",
    read: numberOption('"frequency_penalty"', { from: Number.NEGATIVE_INFINITY }),
  },
} as const;
const otherFields = ["id", "prompt", "messages", "ids", "chat", "seed", "stop", "ignore_eos"];

/** The line's id, its number where it gives none, and what reads the rest of it or says what is wrong with it. */
function readLine(line: Uint8Array, number: number, options: GenerateCommandOptions) {
  const parse = (): Readonly<Record<string, unknown>> => {
    const text = decodeUtf8(line, "the line", options.lossy ?? false);
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      refuse("the line", "JSON", error instanceof Error ? error.message.replace(/\s+/g, " ") : "other text");
    }
    if (typeof value !== "object" || value === null || Array.isArray(value))
      refuse("the line", "an object", shown(value));
    const fields = value as Record<string, unknown>;
    if (fields.messages === undefined) return fields;
    // What a template prints of a message keeps its form.
    return { ...fields, messages: (parseExactJson(text) as typeof fields).messages };
  };
  let id: string | number = number;
  let parsed: ReturnType<typeof parse> | undefined;
  let problem: unknown;
  try {
    parsed = parse();
    if (typeof parsed.id === "string" || typeof parsed.id === "number") id = parsed.id;
    else if (parsed.id !== undefined) refuse('"id"', "a string or a number", shown(parsed.id));
  } catch (error) {
    problem = error;
  }
  const read = (): PromptLine => {
    if (parsed === undefined || problem !== undefined) throw problem;
    return { id, prompt: promptOf(parsed), options: optionsOf(parsed, options) };
  };
  return { id, read };
}

function refuse(field: string, expected: string, got: string): never {
  throw new PhiError("usage", `${field}: expected ${expected}, got ${printable(got)}`);
}

const shown = (value: unknown) => JSON.stringify(value) ?? "nothing";

function promptOf(line: Readonly<Record<string, unknown>>): PromptLine["prompt"] {
  const given = ["prompt", "messages", "ids"].filter((name) => line[name] !== undefined);
  if (given.length !== 1) refuse("the line", 'one of "prompt", "messages", "ids"', given.join(" and ") || "none");
  const { prompt, messages, ids } = line;
  if (messages !== undefined) return chatMessages(messages, '"messages"');
  if (prompt !== undefined) return typeof prompt === "string" ? prompt : refuse('"prompt"', "a string", shown(prompt));
  const isId = (id: unknown) => typeof id === "number" && Number.isInteger(id) && id >= 0;
  if (!Array.isArray(ids) || ids.length === 0 || !ids.every(isId)) refuse('"ids"', "a list of token ids", shown(ids));
  return { ids };
}

function optionsOf(line: Readonly<Record<string, unknown>>, options: GenerateCommandOptions): GenerateCommandOptions {
  const unknown = Object.keys(line).find((name) => !(name in numberFields) && !otherFields.includes(name));
  if (unknown !== undefined) {
    refuse("the line", `fields among ${[...otherFields, ...Object.keys(numberFields)].join(", ")}`, shown(unknown));
  }
  const own: Record<string, unknown> = {};
  for (const [name, { option, read }] of Object.entries(numberFields)) {
    const value = line[name];
    if (value === undefined) continue;
    own[option] = typeof value === "number" ? read(String(value)) : refuse(`"${name}"`, "a number", shown(value));
  }
  for (const [name, option] of [
    ["chat", "chat"],
    ["ignore_eos", "ignoreEos"],
  ] as const) {
    const value = line[name];
    if (value !== undefined)
      own[option] = typeof value === "boolean" ? value : refuse(`"${name}"`, "true or false", shown(value));
  }
  const { seed, stop } = line;
  if (seed !== undefined) {
    // What is no exact number in JSON is written as a string.
    const text = Number.isSafeInteger(seed) || typeof seed === "string" ? String(seed) : "";
    const value = /^\d{1,20}$/.test(text) ? BigInt(text) : -1n;
    own.seed =
      value >= 0n && value < 2n ** 64n ? value : refuse('"seed"', "a whole number from 0 to 2^64 - 1", shown(seed));
  }
  if (stop !== undefined) {
    const all = typeof stop === "string" ? [stop] : stop;
    if (!Array.isArray(all) || !all.every((text) => typeof text === "string"))
      refuse('"stop"', "a string or a list", shown(stop));
    own.stop = all.reduce((before: readonly string[], text: string) => stopOption(text, before), []);
  }
  return { ...options, ...own };
}

/** The result of one prompt, or why there is none; throws what would fail every other prompt too. */
async function answer(model: TextModel, described: ModelDescription, read: () => PromptLine, signal: AbortSignal) {
  try {
    const { prompt, options } = read();
    const ids = idsOf(prompt, options.chat ?? false, model);
    checkPrompt(ids, described, '"ids"');
    const sampling = samplingOf(model, options);
    return outcomeJson(await collect(model, ids, { ...options, sampling }, signal));
  } catch (error) {
    if (signal.aborted || !isOfOnePrompt(error)) throw error;
    return { error: error.message };
  }
}

/** Another prompt may well succeed where one is refused, or leads to numbers that are not finite. */
function isOfOnePrompt(error: unknown): error is Error {
  if (error instanceof TokenizerError) return true;
  if (!(error instanceof PhiError)) return false;
  return (
    error.kind === "usage" || error.kind === "checkpoint" || (error.kind === "gpu" && /finite/.test(error.message))
  );
}

function idsOf(prompt: PromptLine["prompt"], isChat: boolean, model: TextModel): readonly number[] {
  if (typeof prompt === "object" && "ids" in prompt) return prompt.ids;
  const { tokenizer } = model;
  if (tokenizer === undefined) refuse("the line", '"ids" for a model without a tokenizer', "text");
  const isMessages = typeof prompt !== "string";
  if ((isMessages || isChat) && !tokenizer.hasChatTemplate) {
    refuse("the line", "a model with a chat template", "one without");
  }
  return promptIds(isChat && !isMessages ? [{ role: "user", content: prompt }] : prompt, tokenizer, model.bosId);
}
