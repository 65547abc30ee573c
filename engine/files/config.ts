/**
 * Reads fields of config.json and generation_config.json: each with its type, its range and, where the published
 * configs leave it out, its fallback. What no one asks for is ignored (`auto_map`, URLs, anything unknown), so nothing
 * in a config can make the engine load or run anything. docs/files-model.md lists the fields.
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

/** What the readers of one file, nested ones too, have in common. */
interface ReadLog {
  readonly notes: string[];
  readonly asked: Set<string>;
  /** Of the object within the file: "rope_scaling.". */
  readonly path: string;
}

/**
 * An object of a config file. Every look-up either returns what was asked for or throws a PhiError "checkpoint" that
 * names the field, what is allowed and what stands there. `null` counts as absent; a fallback stands for absence only.
 */
export class ConfigReader {
  /** The file, and for a nested object its field: "config.json: rope_scaling". */
  readonly file: string;
  readonly #fields: JsonObject;
  readonly #log: ReadLog;

  constructor(file: string, fields: JsonObject, log: ReadLog = { notes: [], asked: new Set(), path: "" }) {
    this.file = file;
    this.#fields = fields;
    this.#log = log;
  }

  /** What the user should know of fields that were read and are not followed, one line each, in nested objects too. */
  get notes(): readonly string[] {
    return this.#log.notes;
  }

  /** The fields that were asked for so far, `object.field` in nested ones. */
  get asked(): ReadonlySet<string> {
    return this.#log.asked;
  }

  /** Adds to the notes, once: `config.json: "type" is not followed: why`. */
  note(key: string, text: string): void {
    const line = `${this.file}: "${printable(key)}" ${text}`;
    if (!this.#log.notes.includes(line)) this.#log.notes.push(line);
  }

  /** The same fields with another value of one. */
  with(key: string, value: Json): ConfigReader {
    return new ConfigReader(this.file, new Map([...this.#fields, [key, value]]), this.#log);
  }

  #value(key: string): Json | undefined {
    this.#log.asked.add(this.#log.path + key);
    return this.#fields.get(key) ?? undefined;
  }

  /** The field as it was parsed; undefined where it is absent or null. */
  json(key: string): Json | undefined {
    return this.#value(key);
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

  /** A number as Python takes one where it wants an integer: `50.0` is 50; absent or anything else is undefined. */
  wholeNumber(key: string): number | undefined {
    return wholeNumber(this.#value(key));
  }

  /** A nested object, or undefined if absent. */
  object(key: string): ConfigReader | undefined {
    const value = this.#value(key);
    if (value === undefined) return undefined;
    if (!isObject(value)) return this.fail(key, "an object");
    const { notes, asked, path } = this.#log;
    return new ConfigReader(`${this.file}: ${printable(key)}`, value, { notes, asked, path: `${path}${key}.` });
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

/** The integer that a number stands for, written as one or not (`50.0`, `5e1`). */
export function wholeNumber(value: Json | undefined): number | undefined {
  const number = finite(value);
  return Number.isSafeInteger(number) ? number : undefined;
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
