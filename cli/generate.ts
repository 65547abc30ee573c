/** `phi generate`: prompt in, text out. */
import { writeFile } from "node:fs/promises";
import {
  type GenerationResult,
  type GenerationStats,
  type ModelDescription,
  PhiError,
  randomSeed,
  type SamplingOptions,
} from "../engine/index.ts";
import type { TextModel } from "../library/index.ts";
import { promptIds, samplingUnder } from "../library/text.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { openAdapterOrRestart } from "./adapter.ts";
import { endTokensText, formatBytes, jsonLine, tuningText } from "./format.ts";
import { readText } from "./input.ts";
import { checkMemory, describeModel, type OpenedModel, openModel, openModelFolder } from "./model.ts";
import { checkIds } from "./options.ts";
import { note, print, printUntrusted, writing } from "./output.ts";
import { chromeTrace, profileSummary } from "./profile.ts";
import type { RunOptions } from "./run.ts";

/** How tokens are drawn. */
export interface SamplingCommandOptions {
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repeatPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly logitBias: ReadonlyMap<number, number>;
  readonly seed?: bigint;
}

/** Options of `phi generate`, read and checked one by one. */
export interface GenerateCommandOptions extends RunOptions, SamplingCommandOptions {
  readonly maxTokens: number;
  readonly stop: readonly string[];
  readonly ids?: readonly number[];
  readonly ignoreEos?: boolean;
  readonly chat?: boolean;
  readonly lossy?: boolean;
  readonly rawOutput?: boolean;
  readonly stats?: boolean;
  readonly json?: boolean;
  readonly explain?: boolean;
  /** Where the results of `--prompts` go. */
  readonly output?: string;
}

/** What a run gave: the new tokens' ids, their text up to a stop string, why it ended, and the engine's figures. */
interface Outcome {
  /** Undefined without a tokenizer. */
  readonly text: string | undefined;
  readonly ids: readonly number[];
  readonly result: GenerationResult;
}

/** Runs the command. `prompt` is the argument; with none, and no `--ids`, stdin is read. */
export async function generate(
  prompt: string | undefined,
  options: GenerateCommandOptions,
  signal: AbortSignal,
): Promise<void> {
  checkCombination(prompt, options);
  const folder = await openModelFolder(options.model, options.allowSymlinks, { ...options, signal });
  const described = await describeModel(folder, options);
  checkIds("--logit-bias", options.logitBias.keys(), described.vocabulary);
  if (options.ids !== undefined) checkPrompt(options.ids, described);
  const adapter = await openAdapterOrRestart(options.adapter);
  if (adapter === undefined) return;
  checkMemory(described, adapter.adapter);
  const needsText = options.ids === undefined && !options.explain;
  // Before the weights: a prompt that cannot be read is said at once.
  const text = needsText ? (prompt ?? (await promptOnStdin(options, signal))) : "";
  signal.throwIfAborted();
  const tokenizing = needsText ? "required" : options.explain ? "none" : "optional";
  let ids = options.ids ?? [];
  const opened = await openModel(folder, adapter, options, tokenizing, signal, (tokenizer) => {
    if (tokenizer === undefined && options.stop.length > 0) {
      throw new PhiError("usage", "--stop: expected a model with a tokenizer, got one without");
    }
    if (!needsText || tokenizer === undefined) return;
    ids = idsOf(text, tokenizer, described, options);
    checkPrompt(ids, described);
  });
  try {
    const { model } = opened;
    if (options.explain) return await print(`${model.explain().trimEnd()}\n`);
    const chosen = samplingOf(model, options);
    if (options.seed === undefined && chosen.seed !== undefined) process.stderr.write(`seed: ${chosen.seed}\n`);
    const before = options.profile === undefined ? 0 : await warmUp(model, ids, signal);
    const outcome = await run(model, ids, chosen, options, signal);
    const { result } = outcome;
    if (options.profile !== undefined) {
      const dispatches = model.profile().slice(before);
      const { profile } = options;
      await writing(profile, () => writeFile(profile, chromeTrace(dispatches)));
      process.stderr.write(profileSummary(dispatches));
    }
    if (options.json) await print(jsonLine(outcomeJson(outcome)));
    if (options.stats) process.stderr.write(statsText(opened, result));
  } finally {
    opened.dispose();
  }
}

/** The text on stdin without a byte order mark, which an editor wrote and no author. */
async function promptOnStdin({ lossy = false }: GenerateCommandOptions, signal: AbortSignal): Promise<string> {
  return (await readText(process.stdin, lossy, signal)).replace(/^\ufeff/, "");
}

/**
 * Runs another prompt of the same length, of which the cache keeps nothing: software drivers compile a kernel when it is
 * first run, which a profile is not to show. Gives the number of dispatches.
 */
async function warmUp(model: TextModel, ids: readonly number[], signal: AbortSignal): Promise<number> {
  const other = ids.map((id) => (id + 1) % model.vocabularySize);
  for await (const _ of model.generate(other, { maxTokens: 2, ignoreEos: true, signal }));
  return model.profile().length;
}

/** JSON's readers take numbers for doubles: a seed that is not exact as one is written as a string. */
function jsonSeed(seed: bigint): number | string {
  return seed <= Number.MAX_SAFE_INTEGER ? Number(seed) : String(seed);
}

/** Refuses, from the headers alone, a prompt that the model cannot take. */
export function checkPrompt(
  ids: readonly number[],
  { vocabulary, context }: Pick<ModelDescription, "vocabulary" | "context">,
  name = "--ids",
): void {
  checkIds(name, ids, vocabulary);
  if (ids.length <= context) return;
  throw new PhiError("usage", `prompt is ${ids.length} tokens, context is ${context}`, [
    "Shorten the prompt, or give a greater --context where the model and memory allow it.",
  ]);
}

/** The ids of the prompt: plain text, or a user's message in the chat template. */
function idsOf(
  text: string,
  tokenizer: Tokenizer,
  { generationDefaults: { bosId } }: ModelDescription,
  { chat }: GenerateCommandOptions,
): readonly number[] {
  if (!chat) return promptIds(text, tokenizer, bosId);
  if (tokenizer.hasChatTemplate) return promptIds([{ role: "user", content: text }], tokenizer, bosId);
  throw new PhiError("usage", "--chat: expected a model with a chat template, got one without", [
    "Use --raw, with the prompt written as the model's card shows it.",
  ]);
}

function checkCombination(prompt: string | undefined, options: GenerateCommandOptions): void {
  if (options.output !== undefined) {
    throw new PhiError("usage", "--output: expected --prompts beside it, got none", [
      "The text goes to stdout: phi … > FILE.",
    ]);
  }
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

/** The options of the draw that the command line gives; with a seed wherever something is drawn. */
export function samplingOf(
  { generationDefaults }: Pick<TextModel, "generationDefaults">,
  options: SamplingCommandOptions,
): SamplingOptions {
  const chosen = samplingUnder(generationDefaults, {
    ...(options.temperature !== undefined && { temperature: options.temperature }),
    ...(options.topK !== undefined && { topK: options.topK }),
    ...(options.topP !== undefined && { topP: options.topP }),
    ...(options.minP !== undefined && { minP: options.minP }),
    ...(options.repeatPenalty !== undefined && { repetitionPenalty: options.repeatPenalty }),
    ...(options.presencePenalty !== undefined && { presencePenalty: options.presencePenalty }),
    ...(options.frequencyPenalty !== undefined && { frequencyPenalty: options.frequencyPenalty }),
    ...(options.logitBias.size > 0 && { logitBias: options.logitBias }),
    ...(options.seed !== undefined && { seed: options.seed }),
  });
  return chosen.seed !== undefined || (chosen.temperature ?? 0) === 0 ? chosen : { ...chosen, seed: randomSeed() };
}

/** `collect`, with the text on stdout as it comes. */
async function run(
  model: TextModel,
  ids: readonly number[],
  sampling: SamplingOptions,
  options: GenerateCommandOptions,
  signal: AbortSignal,
): Promise<Outcome> {
  let last = "";
  try {
    const outcome = await collect(model, ids, { ...options, sampling }, signal, async (piece) => {
      if (piece !== "") last = piece;
      if (!options.json) await printUntrusted(piece, options.rawOutput);
    });
    if (outcome.result.finishReason === "context") note(`the context of ${model.context} tokens is full`);
    return outcome;
  } finally {
    if (!options.json && last !== "" && !last.endsWith("\n")) await print("\n");
  }
}

/** Continues one prompt to its end. `onText` is given each piece; without a tokenizer the ids themselves are the text. */
export async function collect(
  model: TextModel,
  ids: readonly number[],
  options: Pick<GenerateCommandOptions, "maxTokens" | "stop" | "ignoreEos"> & { readonly sampling: SamplingOptions },
  signal: AbortSignal,
  onText: (piece: string) => Promise<void> = async () => {},
): Promise<Outcome> {
  const { maxTokens, sampling, stop, ignoreEos = false } = options;
  const newIds: number[] = [];
  let text = "";
  // Without --stop those of generation_config.json count.
  const stops = stop.length > 0 ? { stop } : {};
  const pieces = model.generate(ids, { maxTokens, sampling, ignoreEos, ...stops, signal });
  for (;;) {
    const next = await pieces.next();
    if (next.done) return { text: model.tokenizer && text, ids: newIds, result: next.value };
    const { id, text: piece } = next.value;
    if (id !== undefined) newIds.push(id);
    const shown = model.tokenizer ? piece : `${id}\n`;
    text += shown;
    await onText(shown);
  }
}

/** What `--json` prints, and a line of results holds. */
export function outcomeJson({ text, ids, result: { finishReason, seed, stats } }: Outcome) {
  return {
    text: text ?? null,
    token_ids: ids,
    finish_reason: finishReason,
    seed: seed === undefined ? null : jsonSeed(seed),
    stats: snakeCase(stats),
  };
}

/** The engine's figures under names as JSON's users write them. */
function snakeCase(stats: GenerationStats): Readonly<Record<string, number>> {
  const renamed = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return Object.fromEntries(Object.entries(stats).map(([name, value]) => [renamed(name), value]));
}

function statsText({ model, adapter }: OpenedModel, { finishReason, stats }: GenerationResult): string {
  const { promptTokens, cachedTokens, newTokens, prefillMs, decodeMs, firstTokenMs, recomputeMs } = stats;
  const rate = (tokens: number, ms: number) => (ms > 0 ? `${((tokens * 1000) / ms).toFixed(1)} tokens/s` : "no time");
  const { weightsBytes, kvBytes, arenaBytes } = model.memory();
  const decoded = Math.max(0, newTokens - 1);
  const { count, compileMs } = model.pipelines();
  const run = promptTokens - cachedTokens;
  const cached = cachedTokens > 0 ? ` (${cachedTokens} more were cached)` : "";
  return [
    `model    ${model.architecture}, context ${model.context}, on ${adapter.name} (${adapter.backend})`,
    `compile  ${count} pipelines in ${compileMs.toFixed(1)} ms, while loading${adapter.isSoftware ? "; their machine code when they are first run" : ""}`,
    `tuning   ${tuningText(model.tunedKernels)}`,
    `prefill  ${run} tokens${cached} in ${prefillMs.toFixed(1)} ms, ${rate(run, prefillMs)}; first token after ${firstTokenMs.toFixed(1)} ms`,
    `decode   ${decoded} tokens in ${decodeMs.toFixed(1)} ms, ${rate(decoded, decodeMs)}; ${stats.dispatchesPerToken} dispatches a token`,
    ...(recomputeMs > 0
      ? [`rope     all run again with longrope's long factors in ${recomputeMs.toFixed(1)} ms of the decode`]
      : []),
    `ended    ${finishReason} after ${newTokens} new tokens; ${endTokensText(model.eosIds, model.tokenizer)}`,
    `memory   weights ${formatBytes(weightsBytes)}, cache ${formatBytes(kvBytes)}, activations ${formatBytes(arenaBytes)}; host ${formatBytes(process.memoryUsage().rss)}`,
    "",
  ].join("\n");
}
