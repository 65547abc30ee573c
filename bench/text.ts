/** `decode` and `prefill`: tokens per second of a loaded model, its output checked before its time counts. */
import { type Model, PhiError } from "../engine/index.ts";
import { type Figure, spread } from "./report.ts";
import type { PromptWork } from "./work.ts";

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
export async function forget(
  model: Pick<Model, "vocabularySize"> & {
    generate(ids: readonly number[], options: { readonly maxTokens: number }): AsyncGenerator<unknown>;
  },
  prompt: readonly number[],
): Promise<void> {
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

/** Times that are sums of two parts of known sizes, with the time of a unit of each. */
export interface Fit {
  readonly perA: number;
  readonly perB: number;
  /** Largest deviation of a time from the fit, as a share of the fit. */
  readonly deviation: number;
}

/** The least-squares fit of ms = perA * a + perB * b, every time weighed by its own size. */
export function fitTwo(points: readonly { readonly a: number; readonly b: number; readonly ms: number }[]): Fit {
  let [aa, ab, bb, am, bm] = [0, 0, 0, 0, 0];
  for (const { a, b, ms } of points) {
    aa += (a / ms) ** 2;
    ab += (a / ms) * (b / ms);
    bb += (b / ms) ** 2;
    am += a / ms;
    bm += b / ms;
  }
  const determinant = aa * bb - ab * ab;
  const [perA, perB] = [(am * bb - bm * ab) / determinant, (bm * aa - am * ab) / determinant];
  const deviations = points.map(({ a, b, ms }) => Math.abs(ms / (perA * a + perB * b) - 1));
  return { perA, perB, deviation: Math.max(...deviations) };
}

/** Fewer points than this lie on any line. */
const leastPoints = 3;

/** What decoding can be measured by. */
export interface DecodeBounds {
  /** Bytes that are read for a token: of weights, and of keys and values for each position that it sees. */
  readonly weightBytes: number;
  readonly kvBytesPerPosition: number;
  /** Positions that a token sees at most. */
  readonly window: number | undefined;
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
  const times: { positions: number; ms: number }[] = [];
  let dispatches = 0;
  for (const depth of depths) checkRoom(model, Math.max(1, depth), newTokens + 1);
  for (const depth of depths) {
    const name = `decode at depth ${depth}`;
    const runs = await repeat(model, name, Math.max(1, depth), newTokens + 1, options);
    figures.push({ name, unit: "tokens/s", samples: runs.map((run) => (newTokens * 1000) / run.decodeMs) });
    figures.push({ name: "  a token", unit: "ms", samples: runs.map((run) => run.decodeMs / newTokens) });
    const between = depth + newTokens / 2;
    const positions = Math.min(between, bounds?.window ?? between);
    times.push({ positions, ms: spread(runs.map((run) => run.decodeMs / newTokens)).median });
    if (bounds !== undefined) {
      const bytes = bounds.weightBytes + bounds.kvBytesPerPosition * positions;
      const rate = await bounds.copyRate(bytes);
      const shares = runs.map((run) => (100 * bytes * newTokens * 1000) / run.decodeMs / rate);
      figures.push({ name: "  of the copy bandwidth", unit: "%", samples: shares });
    }
    dispatches = runs[0]?.dispatchesPerToken ?? 0;
  }
  figures.push(...(await decodeGrowth(times, bounds)));
  return [...figures, { name: "dispatches", unit: "a token", samples: [dispatches] }];
}

/**
 * How a token's time grows with the positions that it sees: the slope of a straight line, what the bytes of keys and
 * values take of it at the copy bandwidth, and how far a time is from the line. Nothing where there are too few
 * different ones, or where no growth is to be seen.
 */
export async function decodeGrowth(
  times: readonly { readonly positions: number; readonly ms: number }[],
  bounds: DecodeBounds | undefined,
): Promise<readonly Figure[]> {
  if (new Set(times.map(({ positions }) => positions)).size < leastPoints) return [];
  const { perB, deviation } = fitTwo(times.map(({ positions, ms }) => ({ a: 1, b: positions, ms })));
  if (!(perB > 0)) return [];
  const figure = (name: string, unit: string, value: number): Figure => ({ name, unit, samples: [value] });
  const figures = [figure("growth of a token's time", "µs per 1000 positions", 1e6 * perB)];
  if (bounds !== undefined) {
    const { kvBytesPerPosition } = bounds;
    const most = Math.max(...times.map(({ positions }) => positions));
    const rate = await bounds.copyRate(kvBytesPerPosition * most);
    const explained = (1e9 * kvBytesPerPosition) / rate;
    figures.push(figure("  of that by their bytes at the copy bandwidth", "µs per 1000 positions", explained));
  }
  return deviation > 0 ? [...figures, figure("  farthest from the line", "% of its time", 100 * deviation)] : figures;
}

/** What a prompt can be measured by. */
export interface PrefillBounds {
  readonly work: (tokens: number) => PromptWork;
  /** Multiplications and additions a second that this adapter computes on registers. */
  readonly computeRate: () => Promise<number>;
}

/**
 * Tokens per second of prompts of `promptTokens`, until their first new token is read back; with `bounds` the share of
 * the adapter's arithmetic, which cannot be above 100 %, and how the time grows.
 */
export async function benchPrefill(
  model: Model,
  options: RepeatOptions & { readonly promptTokens: readonly number[]; readonly bounds?: PrefillBounds },
): Promise<readonly Figure[]> {
  const { bounds } = options;
  const figures: Figure[] = [];
  const times: { work: PromptWork; ms: number }[] = [];
  for (const tokens of options.promptTokens) checkRoom(model, tokens, 1);
  const computeRate = await bounds?.computeRate();
  for (const tokens of options.promptTokens) {
    const name = `prefill of ${tokens} tokens`;
    const runs = await repeat(model, name, tokens, 1, options);
    figures.push({ name, unit: "tokens/s", samples: runs.map((run) => (tokens * 1000) / run.firstTokenMs) });
    figures.push({ name: "  to the first token", unit: "ms", samples: runs.map((run) => run.firstTokenMs) });
    if (bounds === undefined || computeRate === undefined) continue;
    const work = bounds.work(tokens);
    times.push({ work, ms: spread(runs.map((run) => run.firstTokenMs)).median });
    const flops = work.linears + work.attention;
    const shares = runs.map((run) => (100 * flops * 1000) / run.firstTokenMs / computeRate);
    figures.push({ name: "  of multiply-add", unit: "%", samples: shares });
  }
  return [...figures, ...prefillGrowth(times)];
}

/**
 * How a prompt's time grows: the rates of its linears and of its attention, whose operations grow as the tokens and as
 * their square, if both are the same for all lengths, and how far a time is from that. Nothing where there are too few
 * lengths, or where no such rates fit.
 */
export function prefillGrowth(times: readonly { readonly work: PromptWork; readonly ms: number }[]): readonly Figure[] {
  if (new Set(times.map(({ work }) => work.linears)).size < leastPoints) return [];
  const points = times.map(({ work, ms }) => ({ a: work.linears / 1e6, b: work.attention / 1e6, ms }));
  const { perA, perB, deviation } = fitTwo(points);
  if (!(perA > 0 && perB > 0)) return [];
  const figure = (name: string, unit: string, value: number): Figure => ({ name, unit, samples: [value] });
  const rates = [figure("growth: linears", "GFLOP/s", 1 / perA), figure("  attention", "GFLOP/s", 1 / perB)];
  return deviation > 0 ? [...rates, figure("  farthest from these rates", "% of the time", 100 * deviation)] : rates;
}
