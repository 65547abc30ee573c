/**
 * Reads fields of config.json and generation_config.json: each with its type, its range and, where the published
 * configs leave it out, its fallback. What no one asks for is ignored (`auto_map`, URLs, anything unknown), so nothing
 * in a config can make the engine load or run anything.
 */

import { PhiError, printable } from "../errors.ts";
import { describe, exactInteger, isList, isNumber, isObject, type Json, type JsonObject, parseJson } from "./json.ts";

/** Larger configs are refused; published ones have a few kilobytes. */
export const maxConfigBytes = 10_000_000;

/**
 * Parses a config file. `NaN` and `Infinity`, which Python writes, are accepted here and refused by the field that is
 * read. Throws a PhiError "checkpoint" if the text is larger than 10 MB, not strict JSON or not an object.
 */
export function readConfig(file: string, text: Uint8Array): ConfigReader {
  if (text.length > maxConfigBytes) {
    throw new PhiError(
      "checkpoint",
      `${printable(file)}: expected at most ${maxConfigBytes} bytes, got ${text.length}`,
    );
  }
  const root = parseJson(text, { file, nonFinite: true });
  if (!isObject(root)) {
    throw new PhiError("checkpoint", `${printable(file)}: expected an object at the root, got ${describe(root)}`);
  }
  return new ConfigReader(file, root);
}

/**
 * An object of a config file. Every look-up either returns what was asked for or throws a PhiError "checkpoint" that
 * names the field, what is allowed and what stands there. `null` counts as absent; a fallback stands for absence only.
 */
export class ConfigReader {
  /** The file, and for a nested object its field: "config.json: rope_scaling". */
  readonly file: string;
  readonly #fields: JsonObject;

  constructor(file: string, fields: JsonObject) {
    this.file = file;
    this.#fields = fields;
  }

  #value(key: string): Json | undefined {
    return this.#fields.get(key) ?? undefined;
  }

  /** Whether the field is present and not null. */
  has(key: string): boolean {
    return this.#value(key) !== undefined;
  }

  /** The field's value as a message shows it. */
  show(key: string): string {
    return describe(this.#value(key));
  }

  keys(): string[] {
    return [...this.#fields.keys()];
  }

  /** An integer from `min` to `max`. `2.0` and `2e0` are refused: no Python writes an integer so. */
  integer(key: string, { min, max, fallback }: { min: number; max: number; fallback?: number }): number {
    const value = this.#value(key);
    if (value === undefined && fallback !== undefined) return fallback;
    const integer = exactInteger(value);
    if (integer === undefined || integer < min || integer > max) return this.fail(key, integerRange(min, max));
    return integer;
  }

  /** A finite number, at least `min` or above `above`, at most `max`. */
  number(key: string, range: { min?: number; above?: number; max?: number; fallback?: number }): number {
    const value = this.#value(key);
    if (value === undefined && range.fallback !== undefined) return range.fallback;
    const number = finite(value);
    if (number === undefined || !isWithin(number, range)) return this.fail(key, `a finite number${rangeText(range)}`);
    return number;
  }

  boolean(key: string, fallback?: boolean): boolean {
    const value = this.#value(key) ?? fallback;
    return typeof value === "boolean" ? value : this.fail(key, "true or false");
  }

  string(key: string, fallback?: string): string {
    const value = this.#value(key) ?? fallback;
    return typeof value === "string" ? value : this.fail(key, "a string");
  }

  oneOf<T extends string>(key: string, values: readonly T[], fallback?: T): T {
    const value = this.#value(key) ?? fallback;
    const names = values.map((name) => `"${name}"`).join(", ");
    return values.find((name) => name === value) ?? this.fail(key, values.length > 1 ? `one of ${names}` : names);
  }

  /** A list of exactly `length` finite numbers, each above `above` if given. */
  numbers(key: string, { length, above }: { length: number; above?: number }): readonly number[] {
    const range = above === undefined ? {} : { above };
    const expected = `${length} finite numbers${rangeText(range)}`;
    const value = this.#value(key);
    if (!isList(value)) return this.fail(key, expected);
    if (value.length !== length) return this.#refuse(key, expected, `${value.length}`);
    return value.map((item, index) => {
      const number = finite(item);
      if (number === undefined || !isWithin(number, range)) {
        return this.#refuse(key, expected, `${describe(item)} at index ${index}`);
      }
      return number;
    });
  }

  /** One integer or a list of them, as `eos_token_id` has; absent is an empty list. */
  integers(key: string, { min, max }: { min: number; max: number }): readonly number[] {
    const value = this.#value(key);
    if (value === undefined) return [];
    if (!isList(value)) return [this.integer(key, { min, max })];
    return value.map((item, index) => {
      const integer = exactInteger(item);
      if (integer === undefined || integer < min || integer > max) {
        return this.#refuse(key, integerRange(min, max), `${describe(item)} at index ${index}`);
      }
      return integer;
    });
  }

  /** A list of strings; absent is an empty list. */
  strings(key: string): readonly string[] {
    const value = this.#value(key) ?? [];
    if (!isList(value)) return this.fail(key, "a list of strings");
    return value.map((item, index) =>
      typeof item === "string" ? item : this.#refuse(key, "a list of strings", `${describe(item)} at index ${index}`),
    );
  }

  /** A nested object, or undefined if absent. */
  object(key: string): ConfigReader | undefined {
    const value = this.#value(key);
    if (value === undefined) return undefined;
    if (!isObject(value)) return this.fail(key, "an object");
    return new ConfigReader(`${this.file}: ${printable(key)}`, value);
  }

  /** Refuses a field: `config.json: "rope_theta": expected a finite number above 0, got NaN`. */
  fail(key: string, expected: string, advice: readonly string[] = []): never {
    const value = this.#fields.get(key);
    return this.#refuse(key, expected, value === undefined ? "no such field" : describe(value), advice);
  }

  #refuse(key: string, expected: string, got: string, advice: readonly string[] = []): never {
    const message = `${printable(this.file)}: "${printable(key)}": expected ${expected}, got ${got}`;
    throw new PhiError("checkpoint", message, advice);
  }
}

function integerRange(min: number, max: number): string {
  return `an integer from ${min} to ${max}`;
}

function finite(value: Json | undefined): number | undefined {
  if (!isNumber(value)) return undefined;
  const number = Number(value.token);
  return Number.isFinite(number) ? number : undefined;
}

interface Range {
  readonly min?: number;
  readonly above?: number;
  readonly max?: number;
}

function isWithin(number: number, { min, above, max }: Range): boolean {
  return (
    !(min !== undefined && number < min) &&
    !(above !== undefined && number <= above) &&
    !(max !== undefined && number > max)
  );
}

function rangeText({ min, above, max }: Range): string {
  const low = above !== undefined ? ` above ${above}` : min !== undefined ? ` of at least ${min}` : "";
  const high = max !== undefined ? ` up to ${max}` : "";
  return low + high;
}

/** What a checkpoint says about how its text is to be generated; absent fields are the caller's to default. */
export interface GenerationDefaults {
  readonly bosId: number | undefined;
  /** Tokens that end the text; may be empty. */
  readonly eosIds: readonly number[];
  /** False: greedy, and the fields below do not apply. */
  readonly doSample: boolean;
  readonly temperature?: number;
  /** 0 is off. */
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  /** What was read and is not followed, one line each. */
  readonly notes: readonly string[];
}

/**
 * Reads the generation settings: generation_config.json first, as transformers does, then config.json for the ids of
 * BOS and EOS. Throws a PhiError "checkpoint" for a value that a command line option would not accept either.
 */
export function readGenerationDefaults(
  config: ConfigReader,
  generation: ConfigReader | undefined,
  vocabularySize: number,
): GenerationDefaults {
  const ids = { min: 0, max: vocabularySize - 1 };
  const notes: string[] = [];
  const idsOf = (key: string) => {
    if (!generation?.has(key)) return config.integers(key, ids);
    try {
      config.integers(key, ids);
    } catch (error) {
      if (!(error instanceof PhiError)) throw error;
      notes.push(`${error.message}; ${generation.file} is followed`);
    }
    return generation.integers(key, ids);
  };
  for (const key of ["torch_dtype", "dtype"]) {
    if (!config.has(key)) continue;
    try {
      config.oneOf(key, ["float32", "float16", "bfloat16", "auto"]);
    } catch (error) {
      if (!(error instanceof PhiError)) throw error;
      notes.push(`${error.message}; the tensors' own types are followed`);
    }
  }
  const [bosId] = idsOf("bos_token_id");
  const eosIds = idsOf("eos_token_id");
  if (!generation) return { bosId, eosIds, doSample: false, notes };

  const doSample = generation.boolean("do_sample", false);
  const sampling = {
    ...(generation.has("temperature") && { temperature: generation.number("temperature", { min: 0 }) }),
    ...(generation.has("top_k") && { topK: generation.integer("top_k", { min: 0, max: 2 ** 31 - 1 }) }),
    ...(generation.has("top_p") && { topP: generation.number("top_p", { min: 0, max: 1 }) }),
    ...(generation.has("min_p") && { minP: generation.number("min_p", { min: 0, max: 1 }) }),
    ...(generation.has("repetition_penalty") && {
      repetitionPenalty: generation.number("repetition_penalty", { above: 0 }),
    }),
  };
  const { file } = generation;
  if (!doSample && sampling.temperature !== undefined && sampling.temperature !== 1) {
    notes.push(`${file}: "temperature" ${sampling.temperature} is not followed: "do_sample" is not true`);
  }
  if (doSample && sampling.temperature === 0) notes.push(`${file}: "do_sample" is not followed: "temperature" is 0`);
  const beams = generation.integer("num_beams", { min: 1, max: 1000, fallback: 1 });
  if (beams > 1) notes.push(`${file}: "num_beams" ${beams} is not followed: beam search is not supported`);
  return { bosId, eosIds, doSample, ...sampling, notes };
}
