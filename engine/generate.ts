/** Generation: prefill, then one token after the other. */

import { PhiError } from "./errors.ts";
import type { Engine } from "./model.ts";
import { ropeRegime } from "./rope.ts";
import { checkSampling, createSampler, logProbability, type SamplingOptions } from "./sampler.ts";

export interface GenerateOptions {
  /** New tokens at most; 0 runs the prompt only. */
  readonly maxTokens: number;
  /** How a token is drawn; default greedy. */
  readonly sampling?: SamplingOptions;
  /** Do not stop at an end token. */
  readonly ignoreEos?: boolean;
  /** End tokens; default the checkpoint's. */
  readonly stopIds?: readonly number[];
  readonly signal?: AbortSignal;
  /** Give each token's log-probability in the model's own distribution (before the sampler's changes). */
  readonly logprobs?: boolean;
}

export interface GeneratedToken {
  readonly id: number;
  readonly logprob?: number;
}

/** Why a generation ended; `stop`: its consumer said so, by `next(true)`. */
export type FinishReason = "eos" | "length" | "context" | "stop";

export interface GenerationStats {
  readonly promptTokens: number;
  /** Prompt tokens whose keys were still cached. */
  readonly cachedTokens: number;
  readonly newTokens: number;
  readonly prefillMs: number;
  /** After the first new token. */
  readonly decodeMs: number;
  readonly firstTokenMs: number;
  readonly dispatchesPerToken: number;
  /** Time of a decode step that the host does not wait for the GPU: encoding and submitting. */
  readonly hostMsPerToken: number;
  /** Time for running the sequence again where it grew past longrope's original context. */
  readonly recomputeMs: number;
}

export interface GenerationResult {
  readonly finishReason: FinishReason;
  /** Of the draws, chosen at random if none was given; undefined where nothing is drawn. */
  readonly seed: bigint | undefined;
  readonly stats: GenerationStats;
}

/** See `Model.generate`. */
export async function* generate(
  engine: Engine,
  ids: readonly number[],
  options: GenerateOptions,
  eosIds: readonly number[],
): AsyncGenerator<GeneratedToken, GenerationResult, boolean | undefined> {
  const { maxTokens, signal } = options;
  const sampling = options.sampling ?? {};
  if (!Number.isInteger(maxTokens) || maxTokens < 0) {
    throw new PhiError("usage", `--max-tokens: expected an integer of at least 0, got ${maxTokens}`);
  }
  checkSampling(sampling, engine.architecture.vocab);
  engine.checkPrompt(ids);
  const stopIds = new Set(options.ignoreEos ? [] : (options.stopIds ?? eosIds));
  const sampler = createSampler(sampling, engine.architecture.vocab);
  const generated: number[] = [];
  let prefillMs = 0;
  let firstTokenMs = 0;
  let recomputeMs = 0;
  let hostMs = 0;
  let decodeSteps = 0;

  const release = await engine.exclusive();
  const began = performance.now();
  try {
    const run = await engine.prefill(ids, signal);
    if (maxTokens === 0) await engine.device.workDone();
    let kind: "prefill" | "decode" = lastChunk(run, engine.chunkTokens) === 1 ? "decode" : "prefill";
    let finishReason: FinishReason = "length";
    while (generated.length < maxTokens) {
      const choice = await engine.readChoice();
      if (choice.notFinite > 0) throw await notFinite(engine, [...ids, ...generated], generated.length, release);
      const logits = sampler.isGreedy && !options.logprobs ? undefined : await engine.readLogits(kind);
      const id =
        sampler.isGreedy || logits === undefined ? choice.id : sampler.sample(logits, { prompt: ids, generated });
      if (generated.length === 0) {
        firstTokenMs = performance.now() - began;
        prefillMs = firstTokenMs;
      }
      generated.push(id);
      const isEnough = yield logits !== undefined && options.logprobs
        ? { id, logprob: logProbability(logits, id) }
        : { id };
      if (isEnough) {
        finishReason = "stop";
        break;
      }
      if (stopIds.has(id)) {
        finishReason = "eos";
        break;
      }
      const total = ids.length + generated.length;
      if (generated.length === maxTokens) break;
      if (total >= engine.context) {
        finishReason = "context";
        break;
      }
      if (signal?.aborted) throw new PhiError("aborted", "stopped");

      const crosses = ropeRegime(engine.architecture.rope, total) !== engine.cache.regime;
      const stepBegan = performance.now();
      const count = await engine.prefill([...ids, ...generated], signal);
      kind = lastChunk(count, engine.chunkTokens) === 1 ? "decode" : "prefill";
      if (crosses) {
        await engine.device.workDone();
        recomputeMs += performance.now() - stepBegan;
      } else {
        hostMs += performance.now() - stepBegan;
        decodeSteps++;
      }
    }
    if (generated.length === 0) prefillMs = performance.now() - began;
    const stats: GenerationStats = {
      promptTokens: ids.length,
      cachedTokens: ids.length - run,
      newTokens: generated.length,
      prefillMs,
      decodeMs: performance.now() - began - prefillMs,
      firstTokenMs,
      dispatchesPerToken: engine.plan("decode").steps.length,
      hostMsPerToken: decodeSteps === 0 ? 0 : hostMs / decodeSteps,
      recomputeMs,
    };
    return { finishReason, seed: sampler.seed, stats };
  } finally {
    release();
  }
}

/** Tokens in the last of the chunks that `tokens` tokens are run in. */
function lastChunk(tokens: number, chunkTokens: number): number {
  return ((tokens - 1) % chunkTokens) + 1;
}

/** Runs the sequence again with every layer's values kept, and names the first that is not finite. */
async function notFinite(
  engine: Engine,
  ids: readonly number[],
  token: number,
  release: () => void,
): Promise<PhiError> {
  release();
  let where = "nowhere when run again";
  search: for await (const { values } of engine.every("trace", ids)) {
    for (const [name, numbers] of values) {
      if (hasNonFinite(numbers)) {
        where = name;
        break search;
      }
    }
  }
  return new PhiError("gpu", `logits are not finite at token ${token} (first in: ${where})`, [
    "The checkpoint may hold NaN or infinite weights, or numbers too large for an f16 cache: try --kv f32.",
  ]);
}

function hasNonFinite(values: Float32Array): boolean {
  return values.some((value) => !Number.isFinite(value));
}
