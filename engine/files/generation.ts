/**
 * generation_config.json: what of it is followed, and what is said of the rest (Hugging Face transformers 5.23,
 * generation/configuration_utils.py and utils.py). docs/files-model.md lists the fields.
 */

import { printable } from "../errors.ts";
import { type ConfigReader, wholeNumber } from "./config.ts";
import { describe, isList, isNumber, type Json } from "./json.ts";

/** What a checkpoint says about how its text is to be generated; absent fields are the caller's to default. */
export interface GenerationDefaults {
  readonly bosId: number | undefined;
  /** Tokens that end the text; may be empty. */
  readonly eosIds: readonly number[];
  /** False: the likeliest token is taken, and temperature, topK, topP and minP do not apply. */
  readonly doSample: boolean;
  readonly temperature?: number;
  /** 0 is off. */
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  /** This and what follows applies to greedy texts too. */
  readonly repetitionPenalty?: number;
  /** Ids that are never chosen. */
  readonly suppressTokens?: readonly number[];
  /** Sequences of ids of which the last is not chosen after the others. */
  readonly badWordsIds?: readonly (readonly number[])[];
  /** New tokens before which none that ends the text is chosen. */
  readonly minNewTokens?: number;
  /** The same, of prompt and new tokens together; without a meaning beside minNewTokens. */
  readonly minLength?: number;
  /** The text ends before the first of these. */
  readonly stopStrings?: readonly string[];
  /** What was read in config.json and here, and is not followed as it stands, one line each. */
  readonly notes: readonly string[];
}

/** Why a setting is not followed, by what it needs to have an effect. */
interface NotFollowed {
  readonly key: string;
  /** Values with which it changes nothing. */
  readonly off?: readonly number[];
  /** The texts that it applies to; default all. */
  readonly applies?: "sampled" | "greedy";
  readonly why: string;
}

const unsupported = "is not followed: it is not supported";
const lengths = "is not followed: the caller says how many tokens are generated (--max-tokens)";

/** Settings that change a text in transformers and not here. */
const notFollowed: readonly NotFollowed[] = [
  { key: "num_beams", off: [1], why: "is not followed: beam search is not supported" },
  { key: "penalty_alpha", off: [0], applies: "greedy", why: unsupported },
  { key: "dola_layers", why: unsupported },
  { key: "constraints", why: unsupported },
  { key: "force_words_ids", why: unsupported },
  { key: "guidance_scale", off: [1], why: unsupported },
  { key: "sequence_bias", why: unsupported },
  { key: "encoder_repetition_penalty", off: [1], why: unsupported },
  { key: "no_repeat_ngram_size", off: [0], why: unsupported },
  { key: "encoder_no_repeat_ngram_size", off: [0], why: unsupported },
  { key: "forced_bos_token_id", why: unsupported },
  { key: "forced_eos_token_id", why: unsupported },
  { key: "exponential_decay_length_penalty", why: unsupported },
  { key: "begin_suppress_tokens", why: unsupported },
  { key: "top_h", applies: "sampled", why: unsupported },
  { key: "typical_p", off: [1], applies: "sampled", why: unsupported },
  { key: "epsilon_cutoff", off: [0, 1], applies: "sampled", why: unsupported },
  { key: "eta_cutoff", off: [0, 1], applies: "sampled", why: unsupported },
  { key: "watermarking_config", why: unsupported },
  { key: "token_healing", why: unsupported },
  { key: "num_return_sequences", off: [1], why: "is not followed: one text is generated" },
  { key: "max_length", why: lengths },
  { key: "max_new_tokens", why: lengths },
  { key: "max_time", why: "is not followed: the caller says when to stop" },
];

/**
 * Reads the generation settings. The text ends at the ids of generation_config.json and at those of config.json; of
 * BOS generation_config.json's counts first. Integers may be written `50.0`, as in transformers; an id that no token has
 * ends nothing and is noted. Throws a PhiError "checkpoint" for a value of a setting in use that a command line option
 * would not accept either.
 */
export function readGenerationDefaults(
  config: ConfigReader,
  generation: ConfigReader | undefined,
  vocabularySize: number,
): GenerationDefaults {
  const ids = idReader(vocabularySize);
  noteDtype(config);
  const readers = generation === undefined ? [config] : [generation, config];
  const [bosId] = readers.flatMap((reader) => ids.list(reader, "bos_token_id"));
  const eosIds = [...new Set(readers.flatMap((reader) => ids.list(reader, "eos_token_id")))];
  if (generation === undefined) return { bosId, eosIds, doSample: false, notes: [...config.notes] };
  const doSample = generation.boolean("do_sample", false);
  const chosen = { ...readSampling(generation, doSample), ...readAlways(generation, ids) };
  noteRest(generation, doSample);
  return { bosId, eosIds, doSample, ...chosen, notes: [...config.notes, ...generation.notes] };
}

function noteDtype(config: ConfigReader): void {
  for (const key of ["torch_dtype", "dtype"]) {
    if (!config.has(key)) continue;
    const known = ["float32", "float16", "bfloat16", "float64", "auto"];
    if (!known.includes(String(config.json(key)))) {
      config.note(key, `${config.show(key)} is not followed: the tensors' own types are`);
    }
  }
}

interface IdReader {
  /** One id or a list of them; those that no token has are noted and left out. */
  list(reader: ConfigReader, key: string): readonly number[];
  /** Ids of a list; undefined where one is none of the vocabulary. */
  within(values: readonly number[]): boolean;
}

function idReader(vocabularySize: number): IdReader {
  const isToken = (id: number) => id >= 0 && id < vocabularySize;
  return {
    within: (values) => values.every(isToken),
    list(reader, key) {
      const value = reader.json(key);
      if (value === undefined) return [];
      const found = (isList(value) ? value : [value]).map((item) => {
        const id = wholeNumber(item);
        return id === undefined ? reader.fail(key, "a token id or a list of them") : id;
      });
      const none = found.filter((id) => !isToken(id));
      if (none.length > 0) {
        const size = `the vocabulary has ${vocabularySize}`;
        reader.note(key, `${shown(none)} ${none.length === 1 ? "is" : "are"} left out: no token has it; ${size}`);
      }
      return found.filter(isToken);
    },
  };
}

/** Some ids for a message. */
function shown(ids: readonly number[]): string {
  return ids.length > 8 ? `${ids.slice(0, 8).join(", ")} and ${ids.length - 8} more` : ids.join(", ");
}

/** transformers' own, where a text is sampled and top_k is not given. */
const defaultTopK = 50;

/** What applies where a text is sampled. */
function readSampling(generation: ConfigReader, doSample: boolean) {
  const neutral: readonly (readonly [key: string, value: number])[] = [
    ["temperature", 1],
    ["top_k", defaultTopK],
    ["top_p", 1],
    ["min_p", 0],
  ];
  if (!doSample) {
    for (const [key, value] of neutral) {
      if (!generation.has(key) || numberOf(generation.json(key)) === value) continue;
      generation.note(key, `${generation.show(key)} is not followed: "do_sample" is not true`);
    }
    return {};
  }
  const topK = generation.has("top_k") ? readCount(generation, "top_k") : defaultTopK;
  const temperature = generation.has("temperature") ? generation.number("temperature", { min: 0 }) : undefined;
  if (temperature === 0) generation.note("do_sample", 'is not followed: "temperature" is 0');
  return {
    ...(temperature !== undefined && { temperature }),
    topK,
    // From 1 on it is off.
    ...(generation.has("top_p") && { topP: Math.min(1, generation.number("top_p", { min: 0 })) }),
    ...(generation.has("min_p") && { minP: generation.number("min_p", { min: 0, max: 1 }) }),
  };
}

function numberOf(value: Json | undefined): number | undefined {
  return isNumber(value) ? Number(value.token) : undefined;
}

function readCount(generation: ConfigReader, key: string): number {
  const count = generation.wholeNumber(key);
  const expected = `an integer from 0 to ${2 ** 31 - 1}`;
  return count !== undefined && count >= 0 && count < 2 ** 31 ? count : generation.fail(key, expected);
}

/** What applies to greedy texts too. */
function readAlways(generation: ConfigReader, ids: IdReader) {
  const penalty = "repetition_penalty";
  const suppressed = ids.list(generation, "suppress_tokens");
  const badWords = readBadWords(generation, ids);
  const stopStrings = readStopStrings(generation);
  const minNewTokens = generation.has("min_new_tokens") ? readCount(generation, "min_new_tokens") : undefined;
  const minLength = generation.has("min_length") ? readCount(generation, "min_length") : 0;
  return {
    ...(generation.has(penalty) && { repetitionPenalty: generation.number(penalty, { above: 0 }) }),
    ...(suppressed.length > 0 && { suppressTokens: suppressed }),
    ...(badWords.length > 0 && { badWordsIds: badWords }),
    // As in transformers: the one overrides the other, also with 0.
    ...(minNewTokens !== undefined && minNewTokens > 0 && { minNewTokens }),
    ...(minNewTokens === undefined && minLength > 0 && { minLength }),
    ...(stopStrings.length > 0 && { stopStrings }),
  };
}

function readBadWords(generation: ConfigReader, ids: IdReader): readonly (readonly number[])[] {
  const key = "bad_words_ids";
  const value = generation.json(key);
  if (value === undefined) return [];
  const refuse = (): never => generation.fail(key, "a list of lists of token ids");
  if (!isList(value)) return refuse();
  const words = value.map((word) => {
    if (!isList(word) || word.length === 0) return refuse();
    return word.map((item) => wholeNumber(item) ?? refuse());
  });
  const unknown = words.filter((word) => !ids.within(word));
  if (unknown.length > 0) {
    generation.note(key, `[${shown(unknown[0] ?? [])}] is left out, of ${unknown.length}: no token has such an id`);
  }
  return words.filter((word) => ids.within(word));
}

function readStopStrings(generation: ConfigReader): readonly string[] {
  const key = "stop_strings";
  const value = generation.json(key);
  const all = typeof value === "string" ? [value] : generation.strings(key);
  if (all.includes("")) generation.fail(key, "strings of at least one character");
  return all;
}

/** Notes what is given, changes a text in transformers, and is not followed here. */
function noteRest(generation: ConfigReader, doSample: boolean): void {
  for (const { key, off = [], applies, why } of notFollowed) {
    const value = generation.json(key);
    if (value === undefined || value === false || (isList(value) && value.length === 0)) continue;
    if (applies !== undefined && (applies === "sampled") !== doSample) continue;
    const number = numberOf(value);
    if (number !== undefined && off.includes(number)) continue;
    generation.note(key, `${printable(describe(value))} ${why}`);
  }
}
