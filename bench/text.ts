/** `decode` and `prefill`: tokens per second of a loaded model, its output checked before its time counts. */
import { type Model, PhiError } from "../engine/index.ts";
import type { Figure } from "./report.ts";

/** One greedy generation. */
export interface TimedRun {
  readonly ids: readonly number[];
  /** To the first new token, the prompt with it. */
  readonly firstTokenMs: number;
  /** From the first new token to the last. */
  readonly decodeMs: number;
  readonly dispatchesPerToken: number;
}

/** Prompt ids that are the same every time and all of the model's. */
export function promptIds(tokens: number, vocabularySize: number): number[] {
  return Array.from({ length: tokens }, (_, i) => (i * 7919 + 13) % vocabularySize);
}

/** Throws a PhiError "usage" where the context is too small. */
function checkRoom(model: Model, promptTokens: number, newTokens: number): void {
  const needed = promptTokens + newTokens;
  if (needed <= model.context) return;
  throw new PhiError("usage", `--context: expected at least ${needed} positions for this, got ${model.context}`);
}

/**
 * Generates `tokens` tokens greedily after a prompt of which nothing is cached. `onFirst` and `onLast` are called as the
 * first and the last of them arrive. Throws a PhiError "usage" where the context is too small for them.
 */
export async function timeRun(
  model: Model,
  prompt: readonly number[],
  tokens: number,
  marks: { readonly onFirst?: () => void; readonly onLast?: () => void } = {},
): Promise<TimedRun> {
  checkRoom(model, prompt.length, tokens);
  await forget(model, prompt);
  const ids: number[] = [];
  const began = performance.now();
  let first = began;
  let last = began;
  const generated = model.generate(prompt, { maxTokens: tokens, ignoreEos: true });
  for (;;) {
    const step = await generated.next();
    if (step.done) {
      const { cachedTokens, dispatchesPerToken } = step.value.stats;
      if (ids.length !== tokens || cachedTokens !== 0) {
        const got = `${ids.length} after ${cachedTokens} cached ones`;
        throw new PhiError("internal", `expected ${tokens} tokens after none that were cached, got ${got}`);
      }
      return { ids, firstTokenMs: first - began, decodeMs: last - first, dispatchesPerToken };
    }
    ids.push(step.value.id);
    last = performance.now();
    if (ids.length === 1) {
      first = last;
      marks.onFirst?.();
    }
    if (ids.length === tokens) marks.onLast?.();
  }
}

/** Leaves a cache that shares no token with `prompt`. */
async function forget(model: Model, prompt: readonly number[]): Promise<void> {
  const other = ((prompt[0] ?? 0) + 1) % model.vocabularySize;
  await model.generate([other], { maxTokens: 0 }).next();
}

/**
 * A run that warms up and says what the timed ones must give. Throws a PhiError "gpu" where logits are not finite or
 * are all the same, as those of kernels that did nothing are.
 */
export async function checkedRun(model: Model, prompt: readonly number[], tokens: number): Promise<readonly number[]> {
  await forget(model, prompt);
  const ids: number[] = [];
  const uniform = -Math.log(model.vocabularySize);
  for await (const { id, logprob = Number.NaN } of model.generate(prompt, {
    maxTokens: tokens,
    ignoreEos: true,
    logprobs: true,
  })) {
    if (!(Math.abs(logprob - uniform) > 1e-6)) {
      throw new PhiError("gpu", `token ${ids.length} of the warm-up: expected logits that differ, got all the same`, [
        "The kernels computed nothing on this adapter: their times would mean nothing.",
      ]);
    }
    ids.push(id);
  }
  return ids;
}

export interface RepeatOptions {
  readonly repetitions: number;
  readonly onProgress?: (text: string) => void;
}

/** The warm-up, then the repetitions, which must give the same tokens. */
async function repeat(
  model: Model,
  what: string,
  promptTokens: number,
  tokens: number,
  { repetitions, onProgress }: RepeatOptions,
): Promise<readonly TimedRun[]> {
  const prompt = promptIds(promptTokens, model.vocabularySize);
  onProgress?.(`${what}: warm-up`);
  const expected = await checkedRun(model, prompt, tokens);
  const runs: TimedRun[] = [];
  for (let n = 1; n <= repetitions; n++) {
    onProgress?.(`${what}: repetition ${n} of ${repetitions}`);
    const run = await timeRun(model, prompt, tokens);
    const differs = expected.findIndex((id, i) => id !== run.ids[i]);
    if (differs >= 0) {
      const which = `${what}: token ${differs} of repetition ${n}`;
      throw new PhiError("gpu", `${which}: expected ${expected[differs]} as at first, got ${run.ids[differs]}`);
    }
    runs.push(run);
  }
  return runs;
}

/** What decoding can be measured by. */
export interface DecodeBounds {
  /** Bytes that are read for a token after so many: weights, keys and values. */
  readonly bytesAt: (depth: number) => number;
  /** What this adapter copies of as many bytes, read and written, in a second. */
  readonly copyRate: (bytes: number) => Promise<number>;
}

/**
 * Tokens per second, and milliseconds a token, of `newTokens` decode steps after `depths` tokens of context (0: after a
 * prompt of one token), and with `bounds` the share of what the adapter copies, which cannot be above 100 %.
 */
export async function benchDecode(
  model: Model,
  options: RepeatOptions & {
    readonly depths: readonly number[];
    readonly newTokens: number;
    readonly bounds?: DecodeBounds;
  },
): Promise<readonly Figure[]> {
  const { depths, newTokens, bounds } = options;
  const figures: Figure[] = [];
  let dispatches = 0;
  for (const depth of depths) checkRoom(model, Math.max(1, depth), newTokens + 1);
  for (const depth of depths) {
    const name = `decode at depth ${depth}`;
    const runs = await repeat(model, name, Math.max(1, depth), newTokens + 1, options);
    figures.push({ name, unit: "tokens/s", samples: runs.map((run) => (newTokens * 1000) / run.decodeMs) });
    figures.push({ name: "  a token", unit: "ms", samples: runs.map((run) => run.decodeMs / newTokens) });
    if (bounds !== undefined) {
      const bytes = bounds.bytesAt(depth + newTokens / 2);
      const rate = await bounds.copyRate(bytes);
      const shares = runs.map((run) => (100 * bytes * newTokens * 1000) / run.decodeMs / rate);
      figures.push({ name: "  of the copy bandwidth", unit: "%", samples: shares });
    }
    dispatches = runs[0]?.dispatchesPerToken ?? 0;
  }
  return [...figures, { name: "dispatches", unit: "a token", samples: [dispatches] }];
}

/** Tokens per second of prompts of `promptTokens`, until their first new token is read back. */
export async function benchPrefill(
  model: Model,
  options: RepeatOptions & { readonly promptTokens: readonly number[] },
): Promise<readonly Figure[]> {
  const figures: Figure[] = [];
  for (const tokens of options.promptTokens) checkRoom(model, tokens, 1);
  for (const tokens of options.promptTokens) {
    const name = `prefill of ${tokens} tokens`;
    const runs = await repeat(model, name, tokens, 1, options);
    figures.push({ name, unit: "tokens/s", samples: runs.map((run) => (tokens * 1000) / run.firstTokenMs) });
  }
  return figures;
}
