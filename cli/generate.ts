/** `phi generate`: prompt in, text out. */
import {
  type GenerationResult,
  type Model,
  type ModelDescription,
  PhiError,
  randomSeed,
  type SamplingOptions,
} from "../engine/index.ts";
import { stopFilter } from "../library/stop.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { openAdapterOrRestart } from "./adapter.ts";
import { formatBytes, jsonLine } from "./format.ts";
import { readText } from "./input.ts";
import { describeModel, note, type OpenedModel, openModel, openModelFolder, type RunOptions } from "./model.ts";
import { checkIds } from "./options.ts";
import { print, printUntrusted } from "./output.ts";

/** Options of `phi generate`, read and checked one by one. */
export interface GenerateCommandOptions extends RunOptions {
  readonly maxTokens: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repeatPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly logitBias: ReadonlyMap<number, number>;
  readonly seed?: bigint;
  readonly stop: readonly string[];
  readonly ids?: readonly number[];
  readonly ignoreEos?: boolean;
  readonly chat?: boolean;
  readonly lossy?: boolean;
  readonly rawOutput?: boolean;
  readonly stats?: boolean;
  readonly json?: boolean;
  readonly explain?: boolean;
}

/** What a run gave: the new tokens' ids, their text up to a stop string, why it ended, and the engine's figures. */
interface Outcome {
  readonly text: string | undefined;
  readonly ids: readonly number[];
  readonly finishReason: GenerationResult["finishReason"] | "stop";
  readonly stats: Readonly<Record<string, number>>;
}

/** Runs the command. `prompt` is the argument; with none, and no `--ids`, stdin is read. */
export async function generate(
  prompt: string | undefined,
  options: GenerateCommandOptions,
  signal: AbortSignal,
): Promise<void> {
  checkCombination(prompt, options);
  const folder = await openModelFolder(options.model, options.allowSymlinks);
  const described = await describeModel(folder, options);
  checkIds("--logit-bias", options.logitBias.keys(), described.vocabulary);
  if (options.ids !== undefined) checkPrompt(options.ids, described);
  const adapter = await openAdapterOrRestart(options.adapter);
  if (adapter === undefined) return;
  const needsText = options.ids === undefined && !options.explain;
  // Before the weights: a prompt that cannot be read is said at once.
  const text = needsText ? (prompt ?? (await readText(process.stdin, options.lossy ?? false, signal))) : "";
  signal.throwIfAborted();
  const tokenizing = needsText ? "required" : options.explain ? "none" : "optional";
  let ids = options.ids ?? [];
  const opened = await openModel(folder, adapter, options, tokenizing, signal, (tokenizer) => {
    if (tokenizer === undefined && options.stop.length > 0) {
      throw new PhiError("usage", "--stop: expected a model with a tokenizer, got one without");
    }
    if (!needsText || tokenizer === undefined) return;
    ids = promptIds(text, tokenizer, described, options);
    checkPrompt(ids, described);
  });
  try {
    const { model } = opened;
    if (options.explain) return await print(`${model.explain().trimEnd()}\n`);
    const chosen = sampling(model, options);
    const outcome = await run(opened, ids, chosen, options, signal);
    if (options.json) {
      await print(
        jsonLine({
          text: outcome.text ?? null,
          token_ids: outcome.ids,
          finish_reason: outcome.finishReason,
          seed: chosen.seed === undefined ? null : jsonSeed(chosen.seed),
          stats: snakeCase(outcome.stats),
        }),
      );
    }
    if (options.stats) process.stderr.write(statsText(opened, outcome));
  } finally {
    await opened.dispose();
  }
}

/** JSON's readers take numbers for doubles: a seed that is not exact as one is written as a string. */
function jsonSeed(seed: bigint | number): number | string {
  return seed <= Number.MAX_SAFE_INTEGER ? Number(seed) : String(seed);
}

/** Refuses, from the headers alone, a prompt that the model cannot take. */
function checkPrompt(ids: readonly number[], { vocabulary, context }: ModelDescription): void {
  checkIds("--ids", ids, vocabulary);
  if (ids.length <= context) return;
  throw new PhiError("usage", `prompt is ${ids.length} tokens, context is ${context}`, [
    "Shorten the prompt, or give a greater --context where the model and memory allow it.",
  ]);
}

function checkCombination(prompt: string | undefined, options: GenerateCommandOptions): void {
  if (options.ids !== undefined && prompt !== undefined) {
    throw new PhiError("usage", "--ids: expected no prompt beside it, got one");
  }
  if (options.ids !== undefined && options.chat) {
    throw new PhiError("usage", "--chat: expected a prompt, got --ids");
  }
  if (options.ids === undefined && prompt === undefined && !options.explain && process.stdin.isTTY) {
    throw new PhiError("usage", "expected a prompt, got none", [
      'Give it as an argument, phi "Once upon a time", or on stdin; phi --help lists the options.',
    ]);
  }
}

/** The ids of the prompt: plain text, or a user's message in the chat template. */
function promptIds(
  text: string,
  tokenizer: Tokenizer,
  { generationDefaults: { bosId } }: ModelDescription,
  options: GenerateCommandOptions,
): readonly number[] {
  if (options.chat) {
    if (!tokenizer.hasChatTemplate) {
      throw new PhiError("usage", "--chat: expected a model with a chat template, got one without", [
        "Use --raw, with the prompt written as the model's card shows it.",
      ]);
    }
    return tokenizer.encodeChat([{ role: "user", content: text }], { addGenerationPrompt: true });
  }
  const ids = tokenizer.encode(text, { addSpecialTokens: true });
  if (ids.length > 0) return ids;
  if (bosId === undefined) {
    throw new PhiError("usage", "expected a prompt, got an empty one", [
      "This model has no token that begins a text, so it needs a first word.",
    ]);
  }
  return [bosId];
}

/** The options of the draw: the model's own defaults under what the command line says. */
function sampling(model: Model, options: GenerateCommandOptions): SamplingOptions {
  const { doSample, bosId, eosIds, notes, ...modelDefaults } = model.generationDefaults;
  const chosen: SamplingOptions = {
    ...(doSample && { temperature: 1, ...modelDefaults }),
    ...(options.temperature !== undefined && { temperature: options.temperature }),
    ...(options.topK !== undefined && { topK: options.topK }),
    ...(options.topP !== undefined && { topP: options.topP }),
    ...(options.minP !== undefined && { minP: options.minP }),
    ...(options.repeatPenalty !== undefined && { repetitionPenalty: options.repeatPenalty }),
    ...(options.presencePenalty !== undefined && { presencePenalty: options.presencePenalty }),
    ...(options.frequencyPenalty !== undefined && { frequencyPenalty: options.frequencyPenalty }),
    ...(options.logitBias.size > 0 && { logitBias: options.logitBias }),
  };
  if (options.seed !== undefined) return { ...chosen, seed: options.seed };
  if ((chosen.temperature ?? 0) === 0) return chosen;
  const seed = randomSeed();
  process.stderr.write(`seed: ${seed}\n`);
  return { ...chosen, seed };
}

async function run(
  opened: OpenedModel,
  ids: readonly number[],
  chosen: SamplingOptions,
  options: GenerateCommandOptions,
  signal: AbortSignal,
): Promise<Outcome> {
  const { model, tokenizer } = opened;
  const filter = stopFilter(options.stop);
  const stream = tokenizer?.stream({ skipSpecialTokens: true });
  const newIds: number[] = [];
  let text = "";
  const emit = async (piece: string) => {
    text += piece;
    if (!options.json) await printUntrusted(piece, options.rawOutput);
  };
  const startMs = performance.now();
  let firstTokenMs = 0;
  const tokens = model.generate(ids, {
    maxTokens: options.maxTokens,
    sampling: chosen,
    ignoreEos: options.ignoreEos ?? false,
    signal,
  });
  const ended: { result?: GenerationResult } = {};
  const untilEnd = async function* () {
    ended.result = yield* tokens;
  };
  try {
    for await (const { id } of untilEnd()) {
      if (newIds.length === 0) firstTokenMs = performance.now() - startMs;
      newIds.push(id);
      // Without a tokenizer the ids themselves are the text.
      await emit(stream === undefined ? `${id}\n` : filter.push(stream.push(id)));
      if (filter.stopped) break;
    }
  } finally {
    // What was held back belongs to the text, also when the run failed or was stopped.
    if (stream !== undefined) await emit(filter.push(stream.flush()) + filter.flush());
    if (!options.json && text !== "" && !text.endsWith("\n")) await print("\n");
  }
  const shown = stream === undefined ? undefined : text;
  if (ended.result !== undefined && !filter.stopped) {
    const { finishReason, stats } = ended.result;
    if (finishReason === "context") note(`the context of ${model.context} tokens is full`);
    return { text: shown, ids: newIds, finishReason, stats: numbers(stats) };
  }
  const decodeMs = performance.now() - startMs - firstTokenMs;
  const stats = { promptTokens: ids.length, newTokens: newIds.length, prefillMs: firstTokenMs, decodeMs, firstTokenMs };
  return { text: shown, ids: newIds, finishReason: "stop", stats };
}

function snakeCase(stats: Outcome["stats"]): Outcome["stats"] {
  const renamed = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return Object.fromEntries(Object.entries(stats).map(([name, value]) => [renamed(name), value]));
}

function numbers(stats: object): Readonly<Record<string, number>> {
  return Object.fromEntries(Object.entries(stats).filter((entry) => typeof entry[1] === "number"));
}

function statsText({ model, adapter }: OpenedModel, { ids, stats, finishReason }: Outcome): string {
  const { promptTokens = 0, prefillMs = 0, decodeMs = 0, firstTokenMs = 0, dispatchesPerToken } = stats;
  const rate = (tokens: number, ms: number) => (ms > 0 ? `${((tokens * 1000) / ms).toFixed(1)} tokens/s` : "no time");
  const { weightsBytes, kvBytes, arenaBytes } = model.memory();
  const decoded = Math.max(0, ids.length - 1);
  return [
    `model    ${model.architecture}, context ${model.context}, on ${adapter.name} (${adapter.backend})`,
    `prefill  ${promptTokens} tokens in ${prefillMs.toFixed(1)} ms, ${rate(promptTokens, prefillMs)}; first token after ${firstTokenMs.toFixed(1)} ms`,
    `decode   ${decoded} tokens in ${decodeMs.toFixed(1)} ms, ${rate(decoded, decodeMs)}${dispatchesPerToken === undefined ? "" : `; ${dispatchesPerToken} dispatches a token`}`,
    `ended    ${finishReason} after ${ids.length} new tokens`,
    `memory   weights ${formatBytes(weightsBytes)}, cache ${formatBytes(kvBytes)}, activations ${formatBytes(arenaBytes)}; host ${formatBytes(process.memoryUsage().rss)}`,
    "",
  ].join("\n");
}
