/** How well a model predicts a text, and how far its predictions are from another model's. */

import { PhiError } from "../errors.ts";
import type { Rows } from "./sequence.ts";

/** What gives the logits: a `Model`, or a record of what one gave. */
export interface LogitsSource {
  readonly vocabularySize: number;
  /** As `Model.logits`. */
  logits(ids: readonly number[], options?: { signal?: AbortSignal }): AsyncGenerator<Rows, void, undefined>;
}

export interface EvaluateOptions {
  /** Tokens that a window runs, from position 0; default 1024, or the model's context if that is less. */
  readonly window?: number;
  /** Tokens from the start of a window to the start of the next; default the window: no overlap. */
  readonly stride?: number;
  /** Windows at most; default all that the text fills. */
  readonly maxWindows?: number;
  /** The model whose distribution counts as the truth; with the same vocabulary. */
  readonly against?: LogitsSource;
  readonly signal?: AbortSignal;
  readonly onProgress?: (doneTokens: number, totalTokens: number) => void;
}

/** Natural logarithms throughout: nats. */
export interface TextLoss {
  /** Mean negative log-likelihood of a token after those before it in its window. */
  readonly meanNll: number;
  /** exp(meanNll) */
  readonly perplexity: number;
}

export interface Divergence extends TextLoss {
  /** Kullback-Leibler divergence D(against || model) of the distributions at a position, over the whole vocabulary. */
  readonly meanKl: number;
  readonly maxKl: number;
  /** Share of positions, 0 to 1, where both find the same token likeliest. */
  readonly top1Agreement: number;
}

export interface Evaluation extends TextLoss {
  /** Tokens that were predicted and scored. */
  readonly tokens: number;
  readonly windows: number;
  readonly window: number;
  readonly stride: number;
  /** The figures of `against`, where there was one. */
  readonly against: Divergence | undefined;
}

const defaultWindow = 1024;

/** The windows over `ids`: where each begins, how many inputs it runs and from which of them on it scores. */
interface Windows {
  readonly starts: readonly number[];
  readonly inputs: number;
  readonly stride: number;
}

/**
 * Whole windows only, as perplexities are usually stated: a rest that does not fill one is left out, unless the text is
 * shorter than a window. The first scores every token, later ones those that the window before did not reach.
 */
function windowsOver(tokens: number, window: number, stride: number, maxWindows: number): Windows {
  const predicted = tokens - 1;
  const inputs = Math.min(window, predicted);
  const count = Math.min(maxWindows, Math.floor((predicted - inputs) / stride) + 1);
  return { starts: Array.from({ length: count }, (_, i) => i * stride), inputs, stride };
}

/**
 * The perplexity of a text and, with `against`, the divergence from that model, position by position: both run, so both
 * are to be loaded, but neither text nor vocabulary bounds the memory. Log-softmax is computed in float64. Throws a
 * PhiError "usage" for fewer than two ids and for options or vocabularies that do not fit, "gpu" for logits that are not
 * finite, "aborted".
 */
export async function evaluate(
  model: LogitsSource & { readonly context: number },
  ids: readonly number[],
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  const { against, signal, onProgress } = options;
  const window = options.window ?? Math.min(defaultWindow, model.context);
  const stride = options.stride ?? window;
  checkInteger("window", window, model.context);
  checkInteger("stride", stride, window);
  const maxWindows = options.maxWindows ?? Number.MAX_SAFE_INTEGER;
  checkInteger("windows", maxWindows, Number.MAX_SAFE_INTEGER);
  if (ids.length < 2) throw new PhiError("usage", `the text: expected at least 2 tokens, got ${ids.length}`);
  if (against !== undefined && against.vocabularySize !== model.vocabularySize) {
    const [expected, got] = [model.vocabularySize, against.vocabularySize];
    throw new PhiError("usage", `against: expected a model with the same vocabulary of ${expected}, got ${got}`);
  }

  const { starts, inputs } = windowsOver(ids.length, window, stride, maxWindows);
  const total = inputs + (starts.length - 1) * Math.min(stride, inputs);
  const own = { nll: 0 };
  const base = { nll: 0, kl: 0, maxKl: 0, agreed: 0 };
  let tokens = 0;
  for (const start of starts) {
    const fed = ids.slice(start, start + inputs);
    const firstScored = start === 0 ? 0 : inputs - stride;
    const truth = against && logitRows(against, fed, signal);
    try {
      for await (const { position, row } of logitRows(model, fed, signal)) {
        const expected = await truth?.next();
        if (position < firstScored) continue;
        const target = ids[start + position + 1] ?? 0;
        const found = summarize(row, start + position);
        own.nll += found.logSum - (row[target] ?? 0);
        tokens++;
        if (expected === undefined) continue;
        if (expected.done) throw new Error(`there are no logits of position ${position} to compare with`);
        const other = expected.value.row;
        const known = summarize(other, start + position);
        base.nll += known.logSum - (other[target] ?? 0);
        const kl = divergence(other, known.logSum, row, found.logSum);
        base.kl += kl;
        base.maxKl = Math.max(base.maxKl, kl);
        if (known.best === found.best) base.agreed++;
      }
    } finally {
      await truth?.return(undefined);
    }
    onProgress?.(tokens, total);
  }
  const loss = (nll: number): TextLoss => ({ meanNll: nll / tokens, perplexity: Math.exp(nll / tokens) });
  return {
    tokens,
    windows: starts.length,
    window: inputs,
    stride: Math.min(stride, inputs),
    ...loss(own.nll),
    against: against && {
      ...loss(base.nll),
      meanKl: base.kl / tokens,
      maxKl: base.maxKl,
      top1Agreement: base.agreed / tokens,
    },
  };
}

function checkInteger(name: string, value: number, most: number): void {
  if (Number.isInteger(value) && value >= 1 && value <= most) return;
  throw new PhiError("usage", `${name}: expected a whole number from 1 to ${most}, got ${value}`);
}

/** The logits [vocab] of each position: two models may run chunks of different sizes. */
async function* logitRows(source: LogitsSource, ids: readonly number[], signal: AbortSignal | undefined) {
  for await (const { firstPosition, rows, values } of source.logits(ids, signal === undefined ? {} : { signal })) {
    const cols = values.length / rows;
    for (let i = 0; i < rows; i++)
      yield { position: firstPosition + i, row: values.subarray(i * cols, (i + 1) * cols) };
  }
}

/** log(sum(exp(row))), and the id of the highest logit (the lowest such id). */
function summarize(row: Float32Array, position: number): { readonly logSum: number; readonly best: number } {
  let best = 0;
  let highest = Number.NEGATIVE_INFINITY;
  let finite = row.length > 0;
  for (let i = 0; i < row.length; i++) {
    const logit = row[i] ?? Number.NaN;
    finite &&= Number.isFinite(logit);
    if (logit > highest) {
      highest = logit;
      best = i;
    }
  }
  if (!finite) {
    throw new PhiError("gpu", `logits are not finite at token ${position} of the text`, [
      "phi generate with the text up to there as its prompt names the first layer at fault.",
    ]);
  }
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += Math.exp((row[i] ?? 0) - highest);
  return { logSum: highest + Math.log(sum), best };
}

/** sum of p (log p - log q) for the softmax of two rows. It is never negative; rounding may make a 0 so. */
function divergence(p: Float32Array, pLogSum: number, q: Float32Array, qLogSum: number): number {
  let sum = 0;
  for (let i = 0; i < p.length; i++) {
    const logP = (p[i] ?? 0) - pLogSum;
    sum += Math.exp(logP) * (logP - (q[i] ?? 0) + qLogSum);
  }
  return Math.max(0, sum);
}
