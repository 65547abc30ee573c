/** Sampling options as the GPU's sampler takes them: the words of `Control` and of the marks in kernels/choose/next.wgsl. */

import { controlWords, markBytes } from "../../kernels/choose/next.ts";
import { forbidden, type SamplingOptions } from "./sampler.ts";

/** What the choosers of a generation are told. */
export interface Control {
  readonly words: Uint32Array<ArrayBuffer>;
  /** [vocab, 2]; undefined where no token's logit is changed. */
  readonly marks: Uint32Array<ArrayBuffer> | undefined;
}

/** What is below the smallest normal float32 may be taken for 0; what is above overflows where it is multiplied. */
const temperatures = { least: 1.2e-38, most: 1e36 };
/** Of biases and penalties: what is beyond leaves too few digits of a float32 logit. */
const mostChange = 1000;
const lowest = -3e38;
/**
 * The bias of an id that is never chosen: no logit reaches up from there, no penalty makes it overflow, and at the
 * temperatures below its weight is 0.
 */
const never = -1e35;
const mostTemperatureOfNever = 1e33;

/**
 * Whether float32 is enough for these options, so that the GPU draws what the host would, and whether what is forbidden
 * is the same for every token. `stopIds` are those that end the text.
 */
export function canSampleOnGpu(
  options: SamplingOptions,
  vocabularySize: number,
  stopIds: readonly number[] = [],
): boolean {
  const { ids, sequences, ends } = forbidden(options, stopIds);
  if (sequences.length > 0 || ends.length > 0) return false;
  if (ids.length > 0 && (options.temperature ?? 0) > mostTemperatureOfNever) return false;
  const { temperature = 0, repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0 } = options;
  if (temperature !== 0 && !(temperature >= temperatures.least && temperature <= temperatures.most)) return false;
  const changes = [repetitionPenalty, 1 / repetitionPenalty, presencePenalty, frequencyPenalty];
  const all = [...changes, ...(options.logitBias?.values() ?? [])];
  return vocabularySize <= 2 ** 24 && all.every((change) => Math.abs(change) <= mostChange);
}

/** The words for options that `canSampleOnGpu` accepts. `seed` is that of the draws. */
export function controlOf(
  { sampling, seed, stopIds }: { sampling: SamplingOptions; seed: bigint; stopIds: readonly number[] },
  prompt: readonly number[],
  vocabularySize: number,
): Control {
  const { temperature = 0, topK = 0, topP = 1, minP = 0 } = sampling;
  const { repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0 } = sampling;
  const hasPenalties = repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
  const out = forbidden(sampling, stopIds).ids;
  const hasMarks = hasPenalties || (sampling.logitBias?.size ?? 0) > 0 || out.length > 0;
  const words = new Uint32Array(controlWords.all);
  const floats = new Float32Array(words.buffer);
  const set64 = (word: number, value: bigint) => {
    words[word] = Number(value & 0xffffffffn);
    words[word + 1] = Number(value >> 32n);
  };
  const stops = stopIds.slice(0, controlWords.mostStops);
  words[controlWords.stops] = stops.length;
  words.set(stops, controlWords.stopIds);
  words[controlWords.vocab] = vocabularySize;
  words[controlWords.topK] = topK < vocabularySize ? topK : 0;
  // A share in units of 2^-64, rounded down; all ones switch it off.
  set64(controlWords.topP, topP < 1 ? BigInt(Math.floor(topP * 2 ** 64)) : 2n ** 64n - 1n);
  set64(controlWords.seed, seed);
  words[controlWords.hasMarks] = hasMarks ? 1 : 0;
  floats[controlWords.temperature] = temperature;
  floats[controlWords.leastExponent] = Math.max(lowest, Math.log(minP));
  floats[controlWords.repetition] = repetitionPenalty;
  floats[controlWords.frequency] = frequencyPenalty;
  floats[controlWords.presence] = presencePenalty;
  if (!hasMarks) return { words, marks: undefined };
  const marks = new Uint32Array((vocabularySize * markBytes) / 4);
  const biases = new Float32Array(marks.buffer);
  for (const [id, bias] of sampling.logitBias ?? []) biases[2 * id] = bias;
  for (const id of out) if (id < vocabularySize) biases[2 * id] = never;
  for (const id of prompt) marks[2 * id + 1] = 0x80000000;
  return { words, marks };
}
