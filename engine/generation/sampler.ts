/**
 * From the logits of one position to the next token.
 *
 * The chain, in this order, each step on what the one before left:
 *   1. logit bias: added to the logit.
 *   2. repetition penalty (CTRL, arXiv:1909.05858, as in Hugging Face transformers): the logit of an id that is in the
 *      prompt or among the new tokens is divided by the penalty if positive, multiplied by it if negative.
 *   3. frequency and presence penalty, over the NEW tokens only, as OpenAI and vLLM have them: the logit loses
 *      `frequency * times said` and, once said at all, `presence`. The prompt does not count.
 *   4. what must not come: the last id of a forbidden sequence whose others are the last ids so far, ids that end the
 *      text before it is long enough, and suppressed ids are out.
 *   5. temperature: logits are divided by it. 0 ends the chain here: the largest logit wins.
 *   6. top-k: the k likeliest tokens stay.
 *   7. top-p: the shortest list of the likeliest tokens that makes up at least the share p of what top-k left
 *      (so p is of the top-k tokens' probability, not of the whole vocabulary's); at least one.
 *   8. min-p: tokens at least `minP` times as likely as the likeliest one stay.
 *   9. draw.
 * That is the order of transformers' `GenerationMixin._get_logits_processor` (sequence bias, repetition penalty,
 * bad words, minimal length, suppressed tokens, temperature, top-k, top-p, min-p) with vLLM's additive penalties right
 * after its repetition penalty. Steps 6 to 8 each
 * keep the first few tokens of one ranking, so the shortest of the three lists wins. Since min-p compares with the
 * likeliest token, which always stays, it means the same before or after top-k and top-p; but because it comes after
 * top-p, what it drops still counts in the share p (vLLM applies min-p first, so a top-p there keeps fewer tokens).
 *
 * The ranking is by logit, ties by the lower id. So top-k keeps exactly k tokens (transformers keeps all that tie with
 * the k-th), and top-k 1, top-p 0 and temperature 0 agree.
 *
 * The draw inverts the cumulative distribution in the order of ids, at a uniform number that is a function of the seed
 * and the index of the new token alone (`philox4x32`). Nothing else is carried from one token to the next, so a run can
 * be replayed from any token, on the CPU or on the GPU.
 */

import { PhiError, printable } from "../errors.ts";

/** How the next token is chosen. What is absent is off. */
export interface SamplingOptions {
  /** Finite, at least 0. 0 or absent: the likeliest token, always ("greedy"). */
  readonly temperature?: number;
  /** Whole, at least 0; 0 is off, and so is anything from the vocabulary's size on. */
  readonly topK?: number;
  /** 0 to 1; 1 is off, 0 keeps one token. */
  readonly topP?: number;
  /** 0 to 1; 0 is off, 1 keeps the likeliest token (and those that tie with it). */
  readonly minP?: number;
  /** Finite, above 0; 1 is off. Over the prompt and the new tokens. */
  readonly repetitionPenalty?: number;
  /** Finite; 0 is off. Over the new tokens only. */
  readonly presencePenalty?: number;
  /** Finite; 0 is off. Over the new tokens only. */
  readonly frequencyPenalty?: number;
  /** A finite number to add to the logit of each of these ids. */
  readonly logitBias?: ReadonlyMap<number, number>;
  /** Ids that are never chosen. */
  readonly suppressTokens?: readonly number[];
  /** Sequences of ids, over prompt and new tokens, of which the last is never chosen after the others. */
  readonly badWordsIds?: readonly (readonly number[])[];
  /** New tokens before which no id that ends the text is chosen. */
  readonly minNewTokens?: number;
  /** The same, of prompt and new tokens together; without a meaning beside minNewTokens. */
  readonly minLength?: number;
  /** 0 to 2^64 - 1; a `number` up to 2^53 - 1, so that it is exact. */
  readonly seed?: bigint | number;
}

/** The ids before the token to be chosen. */
export interface SamplingHistory {
  readonly prompt: readonly number[];
  /** The new tokens so far. Their number is the index of the one to be drawn, which decides its random number. */
  readonly generated: readonly number[];
}

export interface Sampler {
  /** The seed of the draws, chosen at random if none was given; undefined where nothing is drawn and none was given. */
  readonly seed: bigint | undefined;
  /** Whether a plain argmax of the raw logits (ties to the lowest id) gives the same ids. */
  readonly isGreedy: boolean;
  /**
   * The next id. `logits` [at least the vocabulary's size]; those past it are padding and never chosen, and neither is
   * an id whose logit is not finite. The arrays of `history` may grow at their ends between calls, which costs only
   * what was added; other arrays, or shorter ones, are read anew. Throws a PhiError "gpu" if no logit is finite.
   */
  sample(logits: Float32Array, history: SamplingHistory): number;
  /** The exact distribution that `sample` draws from, one probability an id. Throws as `sample` does. */
  probabilities(logits: Float32Array, history: SamplingHistory): Float64Array<ArrayBuffer>;
}

const seedLimit = 2n ** 64n;

/**
 * Checks every option. Throws a PhiError "usage" that names the command line's option, what it accepts and what came.
 * `vocabularySize` bounds the ids of the logit bias.
 */
export function checkSampling(options: SamplingOptions, vocabularySize: number): void {
  const check = (option: string, value: unknown, expected: string, accepts: (value: number) => boolean) => {
    if (value === undefined || (typeof value === "number" && accepts(value))) return;
    throw new PhiError("usage", `${option}: expected ${expected}, got ${printable(String(value))}`);
  };
  const isShare = (value: number) => value >= 0 && value <= 1;
  const isId = (value: number) => Number.isInteger(value) && value >= 0 && value < vocabularySize;
  check("--temperature", options.temperature, "a finite number >= 0", (value) => Number.isFinite(value) && value >= 0);
  check(
    "--top-k",
    options.topK,
    "a whole number >= 0 (0 is off)",
    (value) => Number.isSafeInteger(value) && value >= 0,
  );
  check("--top-p", options.topP, "a number from 0 to 1", isShare);
  check("--min-p", options.minP, "a number from 0 to 1", isShare);
  check(
    "--repeat-penalty",
    options.repetitionPenalty,
    "a finite number > 0",
    (value) => Number.isFinite(value) && value > 0,
  );
  check("--presence-penalty", options.presencePenalty, "a finite number", Number.isFinite);
  check("--frequency-penalty", options.frequencyPenalty, "a finite number", Number.isFinite);
  for (const [id, bias] of options.logitBias ?? []) {
    check("--logit-bias", id, `token ids from 0 to ${vocabularySize - 1}`, isId);
    check("--logit-bias", bias ?? null, `a finite number for token ${id}`, Number.isFinite);
  }
  // Of ids past the vocabulary there is nothing to forbid.
  const isCount = (value: number) => Number.isSafeInteger(value) && value >= 0;
  for (const id of options.suppressTokens ?? []) check("suppressTokens", id ?? null, "token ids", isCount);
  for (const word of options.badWordsIds ?? []) {
    check("badWordsIds", word.length, "lists of at least one token id", (length) => length > 0);
    for (const id of word) check("badWordsIds", id ?? null, "lists of token ids", isCount);
  }
  check("minNewTokens", options.minNewTokens, "a whole number >= 0", isCount);
  check("minLength", options.minLength, "a whole number >= 0", isCount);
  const { seed } = options;
  const isSeed = typeof seed === "bigint" && seed >= 0n && seed < seedLimit;
  if (!isSeed) {
    const expected = "a whole number from 0 to 2^64 - 1 (above 2^53 - 1 as a bigint)";
    check("--seed", seed, expected, (value) => Number.isSafeInteger(value) && value >= 0);
  }
}

/** A random seed below 2^53, which prints and parses back exactly in any number format. */
export function randomSeed(): bigint {
  return BigInt.asUintN(53, crypto.getRandomValues(new BigUint64Array(1))[0] ?? 0n);
}

/**
 * One block of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): four u32 from a
 * counter of four u32 and a key of two.
 */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [x0, x1, x2, x3] = counter;
  let [key0, key1] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = highWord(0xd2511f53, x0);
    const low0 = Math.imul(0xd2511f53, x0);
    const high2 = highWord(0xcd9e8d57, x2);
    const low2 = Math.imul(0xcd9e8d57, x2);
    [x0, x1, x2, x3] = [(high2 ^ x1 ^ key0) >>> 0, low2 >>> 0, (high0 ^ x3 ^ key1) >>> 0, low0 >>> 0];
    key0 = (key0 + 0x9e3779b9) >>> 0;
    key1 = (key1 + 0xbb67ae85) >>> 0;
  }
  return [x0, x1, x2, x3];
}

/** The high 32 bits of the product of two u32, by halves of 16 bits. */
function highWord(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carried = aLow * bHigh + (middle & 0xffff);
  return aHigh * bHigh + (middle >>> 16) + (carried >>> 16);
}

/**
 * The uniform number in [0, 1) for the `index`-th new token: block (index, 0, 0, 0), low word first, of the key `seed`,
 * low word first. Its first 32 binary digits are word 0 and the next 21 the top of word 1, so that a GPU that
 * keeps only the leading bits draws the same token but for the rarest near ties.
 */
function uniform(seed: bigint, index: number): number {
  const key = [Number(seed & 0xffffffffn), Number(seed >> 32n)] as const;
  const [word0, word1] = philox4x32([index >>> 0, Math.floor(index / 2 ** 32), 0, 0], key);
  return (word0 * 2 ** 21 + (word1 >>> 11)) / 2 ** 53;
}

/** What must not be chosen. */
interface Forbidden {
  /** At any time. */
  readonly ids: readonly number[];
  /** Sequences of several ids, of which the last is not chosen after the others. */
  readonly sequences: readonly (readonly number[])[];
  /** Ids that end the text, where they are not chosen until it is long enough. */
  readonly ends: readonly number[];
}

/** What the options forbid. As in transformers a bad word of one id does not forbid to end the text. */
export function forbidden(options: SamplingOptions, endIds: readonly number[]): Forbidden {
  const words = options.badWordsIds ?? [];
  const single = words.flatMap((word) => (word.length === 1 && !endIds.includes(word[0] ?? -1) ? word : []));
  const { minNewTokens, minLength = 0 } = options;
  return {
    ids: [...new Set([...single, ...(options.suppressTokens ?? [])])],
    sequences: words.filter((word) => word.length > 1),
    ends: (minNewTokens ?? minLength) > 0 ? endIds : [],
  };
}

/** Whether the ids so far end with all of `sequence` but its last id. */
function isBegun({ prompt, generated }: SamplingHistory, sequence: readonly number[]): boolean {
  const length = prompt.length + generated.length;
  const from = length - (sequence.length - 1);
  if (from < 0) return false;
  const at = (i: number) => (i < prompt.length ? prompt[i] : generated[i - prompt.length]);
  return sequence.every((id, i) => i === sequence.length - 1 || at(from + i) === id);
}

/**
 * A sampler for a vocabulary of this size; `endIds` are those that end the text. Throws as `checkSampling` does, and a
 * PhiError "usage" where nothing is left to choose.
 */
export function createSampler(
  options: SamplingOptions,
  vocabularySize: number,
  endIds: readonly number[] = [],
): Sampler {
  checkSampling(options, vocabularySize);
  const { ids: outIds, sequences, ends } = forbidden(options, endIds);
  const { minNewTokens, minLength = 0 } = options;
  const isForbidding = outIds.length > 0 || sequences.length > 0 || ends.length > 0;
  if (outIds.filter((id) => id < vocabularySize).length === vocabularySize) throw nothingLeft(vocabularySize);
  const { temperature = 0, topK = 0, topP = 1, minP = 0 } = options;
  const { repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0 } = options;
  const biases = [...(options.logitBias ?? [])].filter(([, bias]) => bias !== 0);
  const hasPenalties = repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
  const seed = options.seed === undefined ? undefined : BigInt(options.seed);
  const drawSeed = seed ?? (temperature > 0 ? randomSeed() : 0n);
  const countsOf = idCounter();
  // Min-p as a bound on the exponent, so that what it drops needs no exponential.
  const floor = Math.log(minP);
  // Reused from token to token. The first two are by id.
  const scores = new Float64Array(vocabularySize);
  const weights = new Float64Array(vocabularySize);
  const candidates = new Uint32Array(vocabularySize);

  /** Changes the score of an id that is not out. Absurd biases and penalties stay comparable, with finite differences. */
  function change(id: number, changed: (before: number) => number): void {
    const before = scores[id] ?? Number.NEGATIVE_INFINITY;
    if (before > Number.NEGATIVE_INFINITY) scores[id] = Math.max(-1e300, Math.min(1e300, changed(before)));
  }

  /** Takes out what must not follow these ids. */
  function forbid(history: SamplingHistory): void {
    const out = (id: number) => {
      scores[id] = Number.NEGATIVE_INFINITY;
    };
    outIds.forEach(out);
    for (const sequence of sequences) if (isBegun(history, sequence)) out(sequence.at(-1) ?? 0);
    const { prompt, generated } = history;
    const isShort =
      minNewTokens === undefined ? prompt.length + generated.length < minLength : generated.length < minNewTokens;
    if (isShort) ends.forEach(out);
  }

  /** Fills `scores` with the logits after bias and penalties, -Infinity for an id that is out; gives the best id. */
  function score(logits: Float32Array, history: SamplingHistory): number {
    if (logits.length < vocabularySize) {
      throw new RangeError(`expected at least ${vocabularySize} logits, got ${logits.length}`);
    }
    for (let id = 0; id < vocabularySize; id++) {
      const logit = logits[id] ?? 0;
      scores[id] = logit - logit === 0 ? logit : Number.NEGATIVE_INFINITY;
    }
    for (const [id, bias] of biases) change(id, (before) => before + bias);
    if (hasPenalties) {
      for (const [id, timesNew] of countsOf(history)) {
        if (repetitionPenalty !== 1) {
          change(id, (before) => (before < 0 ? before * repetitionPenalty : before / repetitionPenalty));
        }
        if (timesNew > 0) change(id, (before) => before - (frequencyPenalty * timesNew + presencePenalty));
      }
    }
    if (isForbidding) forbid(history);
    let best = -1;
    let bestScore = Number.NEGATIVE_INFINITY;
    for (let id = 0; id < vocabularySize; id++) {
      const value = scores[id] ?? 0;
      if (value > bestScore) {
        best = id;
        bestScore = value;
      }
    }
    if (best < 0 && isForbidding && logits.subarray(0, vocabularySize).some(Number.isFinite)) {
      throw nothingLeft(vocabularySize);
    }
    if (best < 0) throw new PhiError("gpu", `the logits: expected a finite number among ${vocabularySize}, got none`);
    return best;
  }

  /** Fills `weights` with the unnormalized probabilities after the whole chain; gives their sum in the order of ids. */
  function weigh(logits: Float32Array, history: SamplingHistory): number {
    const best = score(logits, history);
    const bestScore = scores[best] ?? 0;
    if (temperature === 0) {
      weights.fill(0);
      weights[best] = 1;
      return 1;
    }
    let last = vocabularySize;
    if (topK > 0 && topK < vocabularySize) {
      let count = 0;
      for (let id = 0; id < vocabularySize; id++) {
        if ((scores[id] ?? 0) > Number.NEGATIVE_INFINITY) candidates[count++] = id;
      }
      last = lastOfFirst(candidates.subarray(0, count), scores, undefined, topK);
    }
    const total = weighUpTo(last, bestScore, topP < 1 ? Number.NEGATIVE_INFINITY : floor);
    if (topP >= 1) return total;

    let count = 0;
    for (let id = 0; id < vocabularySize; id++) if ((weights[id] ?? 0) > 0) candidates[count++] = id;
    // A share of 0 still asks for the first token.
    const share = Math.max(topP * total, Number.MIN_VALUE);
    last = lastOfFirst(candidates.subarray(0, count), scores, weights, share);
    return weighUpTo(last, bestScore, floor);
  }

  /**
   * Fills `weights`: e^x with x = (score - best score) / temperature for the ids that rank up to `last` (which may be
   * the vocabulary's size, for all) with x at least `smallest`, else 0. Gives the sum. The best id weighs exactly 1,
   * also at temperatures where every other weight underflows to 0.
   */
  function weighUpTo(last: number, bestScore: number, smallest: number): number {
    const lastScore = scores[last] ?? Number.NEGATIVE_INFINITY;
    let total = 0;
    for (let id = 0; id < vocabularySize; id++) {
      const value = scores[id] ?? 0;
      const exponent = (value - bestScore) / temperature;
      const isKept = (value > lastScore || (value === lastScore && id <= last)) && exponent >= smallest;
      const weight = isKept ? Math.exp(exponent) : 0;
      weights[id] = weight;
      total += weight;
    }
    return total;
  }

  return {
    seed: temperature > 0 ? drawSeed : seed,
    isGreedy: temperature === 0 && !hasPenalties && biases.length === 0 && !isForbidding,

    sample(logits, history) {
      if (temperature === 0) return score(logits, history);
      const target = weigh(logits, history) * uniform(drawSeed, history.generated.length);
      let sum = 0;
      for (let id = 0; id < vocabularySize; id++) {
        sum += weights[id] ?? 0;
        if (sum > target) return id;
      }
      throw new Error("the same sum in the same order came out smaller");
    },

    probabilities(logits, history) {
      const total = weigh(logits, history);
      return weights.map((weight) => weight / total);
    },
  };
}

function nothingLeft(vocabularySize: number): PhiError {
  const expected = "suppressTokens, badWordsIds: expected a token that may be chosen";
  return new PhiError("usage", `${expected}, got all ${vocabularySize} forbidden`);
}

/** A count of the new tokens by id (0 for an id of the prompt only), kept up to date from call to call. */
function idCounter(): (history: SamplingHistory) => ReadonlyMap<number, number> {
  const counts = new Map<number, number>();
  let counted: SamplingHistory = { prompt: [], generated: [] };
  let promptLength = 0;
  let generatedLength = 0;
  let lastGenerated: number | undefined;
  return (history) => {
    const { prompt, generated } = history;
    const hasGrown =
      prompt === counted.prompt &&
      generated === counted.generated &&
      prompt.length >= promptLength &&
      generated.length >= generatedLength &&
      generated[generatedLength - 1] === lastGenerated;
    if (!hasGrown) {
      counts.clear();
      promptLength = 0;
      generatedLength = 0;
    }
    for (; promptLength < prompt.length; promptLength++) {
      const id = prompt[promptLength] ?? 0;
      if (!counts.has(id)) counts.set(id, 0);
    }
    for (; generatedLength < generated.length; generatedLength++) {
      const id = generated[generatedLength] ?? 0;
      counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    lastGenerated = generated[generatedLength - 1];
    counted = { prompt, generated };
    return counts;
  };
}

/**
 * Of `ids` (ascending; used up) ranked by score, ties by the lower id: the last of the shortest beginning whose weights
 * sum to at least `target` (above 0), or the last of all. Without `weights` each weighs 1.
 * No sort: the scores' range is cut into buckets and the search goes on in the one where the target is reached. The
 * extremes of a range fall into different buckets, so each turn has fewer ids.
 */
function lastOfFirst(
  ids: Uint32Array,
  scores: Float64Array,
  weights: Float64Array | undefined,
  target: number,
): number {
  const histogram = new Float64Array(256);
  const lastBucket = histogram.length - 1;
  let count = ids.length;
  let sum = 0;
  for (;;) {
    let largest = Number.NEGATIVE_INFINITY;
    let smallest = Number.POSITIVE_INFINITY;
    for (let place = 0; place < count; place++) {
      const score = scores[ids[place] ?? 0] ?? 0;
      if (score > largest) largest = score;
      if (score < smallest) smallest = score;
    }
    if (largest === smallest) break;

    const range = largest - smallest;
    histogram.fill(0);
    for (let place = 0; place < count; place++) {
      const id = ids[place] ?? 0;
      const bucket = (((largest - (scores[id] ?? 0)) / range) * lastBucket) | 0;
      histogram[bucket] = (histogram[bucket] ?? 0) + (weights === undefined ? 1 : (weights[id] ?? 0));
    }
    let chosen = 0;
    while (chosen < lastBucket && sum + (histogram[chosen] ?? 0) < target) sum += histogram[chosen++] ?? 0;
    let kept = 0;
    for (let place = 0; place < count; place++) {
      const id = ids[place] ?? 0;
      const bucket = (((largest - (scores[id] ?? 0)) / range) * lastBucket) | 0;
      if (bucket === chosen) ids[kept++] = id;
    }
    count = kept;
  }
  // What is left ties, and is in the order of ids.
  let place = 0;
  for (; place < count - 1; place++) {
    sum += weights === undefined ? 1 : (weights[ids[place] ?? 0] ?? 0);
    if (sum >= target) break;
  }
  return ids[place] ?? 0;
}

/**
 * The natural logarithm of the probability of `id` under the softmax of the raw logits (no bias, penalty or
 * temperature), in float64. Logits that are not finite count as probability 0. Throws a RangeError for an id outside.
 */
export function logProbability(logits: Float32Array, id: number): number {
  const chosen = logits[id];
  if (chosen === undefined) throw new RangeError(`expected an id below ${logits.length}, got ${id}`);
  if (!Number.isFinite(chosen)) return Number.NEGATIVE_INFINITY;
  let largest = chosen;
  for (const logit of logits) if (logit > largest && logit < Number.POSITIVE_INFINITY) largest = logit;
  let sum = 0;
  for (const logit of logits) if (logit <= largest) sum += Math.exp(logit - largest);
  return chosen - largest - Math.log(sum);
}
