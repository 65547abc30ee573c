/** Generation: prefill, then token after token, which the GPU chooses by itself, several in a submit. */

import { PhiError } from "../errors.ts";
import type { Chooser } from "../graph/plan.ts";
import { ropeRegime } from "../models/rope.ts";
import { type Control, canSampleOnGpu, controlOf } from "./control.ts";
import { checkSampling, createSampler, logProbability, type Sampler, type SamplingOptions } from "./sampler.ts";
import type { Batch, Sequence } from "./sequence.ts";

export interface GenerateOptions {
  /** New tokens at most; 0 runs the prompt only. */
  readonly maxTokens: number;
  /** How a token is drawn; default greedy. */
  readonly sampling?: SamplingOptions;
  /** Do not stop at an end token. */
  readonly ignoreEos?: boolean;
  /** End tokens; default the checkpoint's. */
  readonly stopIds?: readonly number[];
  /** Ids from here on are padding that no token has: never chosen. Default: the model's vocabulary. */
  readonly vocabularySize?: number;
  readonly signal?: AbortSignal;
  /** Decode steps of a submit, 1 to 32; default as many as take about 50 ms. */
  readonly stepsPerSubmit?: number;
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

/** New tokens as they come, some at a time. */
interface TokenSource {
  /**
   * At least one and at most `most` tokens, where logits are finite. None of them follows a stop id, but the caller looks
   * for those too. `notFinite` counts the logits that are not finite where the next token would be.
   */
  next(most: number): Promise<{ readonly tokens: readonly GeneratedToken[]; readonly notFinite: number }>;
  /** Prompt tokens that were run; known after the first call. */
  readonly promptRun: number;
  /** Milliseconds of encoding and submitting, and the steps that they were for. */
  readonly host: { ms: number; steps: number };
  /** Milliseconds of running the sequence again past longrope's original context. */
  readonly recompute: { ms: number };
}

/** See `Model.generate`. */
export async function* generate(
  sequence: Sequence,
  ids: readonly number[],
  options: GenerateOptions,
  eosIds: readonly number[],
): AsyncGenerator<GeneratedToken, GenerationResult, boolean | undefined> {
  const { maxTokens, signal } = options;
  const sampling = options.sampling ?? {};
  if (!Number.isInteger(maxTokens) || maxTokens < 0) {
    throw new PhiError("usage", `--max-tokens: expected an integer of at least 0, got ${maxTokens}`);
  }
  const { architecture, options: model } = sequence.runtime;
  checkSampling(sampling, architecture.vocab);
  sequence.checkPrompt(ids);
  const { stepsPerSubmit } = options;
  if (stepsPerSubmit !== undefined && !(Number.isInteger(stepsPerSubmit) && stepsPerSubmit >= 1)) {
    throw new PhiError("usage", `stepsPerSubmit: expected an integer of at least 1, got ${stepsPerSubmit}`);
  }
  const stopIds = [...new Set(options.ignoreEos ? [] : (options.stopIds ?? eosIds))];
  const vocab = Math.min(architecture.vocab, options.vocabularySize ?? architecture.vocab);
  const sampler = createSampler(sampling, vocab, stopIds);
  const generated: number[] = [];
  const control = () => controlOf({ sampling, seed: sampler.seed ?? 0n, stopIds }, ids, vocab);
  const source =
    options.logprobs || !canSampleOnGpu(sampling, vocab, stopIds)
      ? hostSource(sequence, ids, generated, sampler, options)
      : gpuSource(sequence, ids, generated, sampler.isGreedy ? "greedy" : "sample", control, options);
  let firstTokenMs = 0;

  const release = await sequence.exclusive();
  const began = performance.now();
  try {
    let finishReason: FinishReason | undefined;
    if (maxTokens === 0) {
      finishReason = "length";
      await source.next(0);
    }
    while (finishReason === undefined) {
      const room = model.context - ids.length - generated.length;
      // The token after a full context needs no room of its own: it is chosen, and not run.
      const most = Math.min(maxTokens - generated.length, generated.length === 0 ? 1 : room);
      const { tokens, notFinite } = await source.next(most);
      if (generated.length === 0) firstTokenMs = performance.now() - began;
      for (const token of tokens) {
        generated.push(token.id);
        const isEnough = yield token;
        if (isEnough) finishReason = "stop";
        else if (stopIds.includes(token.id)) finishReason = "eos";
        else if (generated.length === maxTokens) finishReason = "length";
        else if (ids.length + generated.length >= model.context) finishReason = "context";
        else if (signal?.aborted) throw new PhiError("aborted", "stopped");
        if (finishReason !== undefined) break;
      }
      if (finishReason !== undefined) break;
      if (notFinite > 0) throw await notFiniteError(sequence, [...ids, ...generated], generated.length, release);
      if (tokens.length === 0) throw new Error("a submit of decode steps chose no token");
    }
    const prefillMs = generated.length === 0 ? performance.now() - began : firstTokenMs;
    const { host, recompute, promptRun } = source;
    const stats: GenerationStats = {
      promptTokens: ids.length,
      cachedTokens: ids.length - promptRun,
      newTokens: generated.length,
      prefillMs,
      decodeMs: performance.now() - began - prefillMs,
      firstTokenMs,
      dispatchesPerToken: sequence.runtime.plan("decode").steps.length + 1,
      hostMsPerToken: host.steps === 0 ? 0 : host.ms / host.steps,
      recomputeMs: recompute.ms,
    };
    return { finishReason, seed: sampler.seed, stats };
  } finally {
    release();
  }
}

/** What a submit of several steps should take: text still comes smoothly, and Ctrl-C is answered. */
const batchMs = 50;

/**
 * Tokens that the GPU chooses. Steps that are short go into one submit, as many as take about `batchMs`, by the time
 * that the last ones took; and while the GPU works on one submit the next is encoded.
 */
function gpuSource(
  sequence: Sequence,
  ids: readonly number[],
  generated: readonly number[],
  chooser: Chooser,
  control: () => Control,
  { signal, stepsPerSubmit }: GenerateOptions,
): TokenSource {
  const onTheWay: { readonly batch: Batch; readonly beganMs: number }[] = [];
  let steps = Math.min(stepsPerSubmit ?? 1, sequence.mostSteps); // of the next submit
  let isShort = false;
  let readMs = 0;
  let promptRun = 0;
  const host = { ms: 0, steps: 0 };
  const recompute = { ms: 0 };

  async function start(): Promise<Batch | undefined> {
    const all = [...ids, ...generated];
    const { run, batch } = await sequence.prefill(all, { signal, chooser, drawn: generated.length });
    if (generated.length === 0) promptRun = run;
    return batch;
  }

  /** Steps from here on whose sequences are all in longrope's present regime. */
  function stepsOfRegime(length: number): number {
    const { rope } = sequence.runtime.architecture;
    if (ropeRegime(rope, length) !== sequence.cache.regime) return 0;
    const original = rope.longrope?.originalPositions ?? Number.POSITIVE_INFINITY;
    return length > original ? Number.POSITIVE_INFINITY : original + 1 - length;
  }

  return {
    get promptRun() {
      return promptRun;
    },
    host,
    recompute,
    async next(most) {
      if (most === 0) {
        promptRun = (await sequence.prefill(ids, { signal })).run;
        await sequence.runtime.device.workDone();
        return { tokens: [], notFinite: 0 };
      }
      const total = ids.length + generated.length;
      const inRegime = generated.length === 0 ? 0 : stepsOfRegime(total);
      if (inRegime === 0) {
        const beganMs = performance.now();
        if (generated.length === 0) sequence.control(control());
        const batch = await start();
        if (batch === undefined) throw new Error("the prompt chose no token");
        const read = await sequence.readBatch(batch);
        readMs = performance.now();
        if (generated.length > 0) recompute.ms += readMs - beganMs;
        return { tokens: read.ids.map((id) => ({ id })), notFinite: read.notFinite };
      }
      let ahead = onTheWay.reduce((sum, { batch }) => sum + batch.count, 0);
      const room = Math.min(most, inRegime);
      while (ahead < room && onTheWay.length < (isShort ? 2 : 1)) {
        const count = Math.min(steps, room - ahead);
        const beganMs = performance.now();
        const batch = await sequence.decode(generated.length + ahead, count, chooser, signal);
        host.ms += performance.now() - beganMs;
        host.steps += count;
        onTheWay.push({ batch, beganMs });
        ahead += count;
      }
      const [oldest] = onTheWay.splice(0, 1);
      if (oldest === undefined) throw new Error("no steps are on their way");
      const read = await sequence.readBatch(oldest.batch);
      const nowMs = performance.now();
      const stepMs = (nowMs - Math.max(oldest.beganMs, readMs)) / oldest.batch.count;
      readMs = nowMs;
      isShort = stepMs * 2 <= batchMs;
      if (stepsPerSubmit === undefined) {
        steps = Math.max(1, Math.min(steps * 2, Math.floor(batchMs / stepMs), sequence.mostSteps));
      }
      return { tokens: read.ids.map((id) => ({ id })), notFinite: read.notFinite };
    },
  };
}

/** Tokens that the host chooses from the logits of each step, which it needs where their probabilities are asked for. */
function hostSource(
  sequence: Sequence,
  ids: readonly number[],
  generated: readonly number[],
  sampler: Sampler,
  { signal, logprobs }: GenerateOptions,
): TokenSource {
  let promptRun = 0;
  const host = { ms: 0, steps: 0 };
  const recompute = { ms: 0 };
  return {
    get promptRun() {
      return promptRun;
    },
    host,
    recompute,
    async next(most) {
      const all = [...ids, ...generated];
      const crosses =
        generated.length > 0 && ropeRegime(sequence.runtime.architecture.rope, all.length) !== sequence.cache.regime;
      const beganMs = performance.now();
      const { run } = await sequence.prefill(all, { signal, logits: most > 0 });
      if (generated.length === 0) promptRun = run;
      else if (!crosses) {
        host.ms += performance.now() - beganMs;
        host.steps++;
      }
      if (most === 0 || crosses) await sequence.runtime.device.workDone();
      if (crosses) recompute.ms += performance.now() - beganMs;
      if (most === 0) return { tokens: [], notFinite: 0 };
      const logits = await sequence.readLogits();
      const notFinite = countNonFinite(logits);
      if (notFinite > 0) return { tokens: [], notFinite };
      const id = sampler.sample(logits, { prompt: ids, generated });
      return { tokens: [logprobs ? { id, logprob: logProbability(logits, id) } : { id }], notFinite };
    },
  };
}

/** Runs the sequence again with every layer's values kept, and names the first that is not finite. */
async function notFiniteError(
  sequence: Sequence,
  ids: readonly number[],
  token: number,
  release: () => void,
): Promise<PhiError> {
  release();
  let where = "nowhere when run again";
  search: for await (const { values } of sequence.every("trace", ids)) {
    for (const [name, numbers] of values) {
      if (countNonFinite(numbers) > 0) {
        where = name;
        break search;
      }
    }
  }
  return new PhiError("gpu", `logits are not finite at token ${token} (first in: ${where})`, [
    "The checkpoint may hold NaN or infinite weights, or numbers too large for an f16 cache: try --kv f32.",
  ]);
}

function countNonFinite(values: Float32Array): number {
  let count = 0;
  for (const value of values) if (!Number.isFinite(value)) count++;
  return count;
}
