/** Reading and checking option values. Every refusal is a "usage" error: `<option>: expected …, got "…"`. */
import { PhiError, printable } from "../engine/errors.ts";
import type { ActivationFormat, GroupSize, KvFormat, QuantizeScheme, RopePolicy, WeightType } from "../engine/index.ts";
import type { ChatFormName } from "../library/chat.ts";

/** What `--kv` takes. */
export const kvFormats = ["f16", "f32", "int8"] as const satisfies readonly KvFormat[];

/** What `--activations` takes. */
export const activationFormats = ["f32", "int8"] as const satisfies readonly ActivationFormat[];

/** What `--form` takes. */
export const chatForms = ["template", "instruct", "dialogue"] as const satisfies readonly ChatFormName[];

/** What `--rope` takes. */
export const ropePolicies = ["hf-exact", "short", "long"] as const satisfies readonly RopePolicy[];

function refuse(option: string, expected: string, text: string): never {
  throw new PhiError("usage", `${option}: expected ${expected}, got "${printable(text)}"`);
}

const decimal = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** The bounds of a number option. */
export interface NumberRange {
  readonly from: number;
  readonly to?: number;
  /** Whether `from` itself is refused. */
  readonly above?: boolean;
}

/** A reader of decimal numbers in a range. NaN, infinities and hexadecimal are refused. */
export function numberOption(option: string, range: NumberRange): (text: string) => number {
  const { from, to = Number.POSITIVE_INFINITY, above = false } = range;
  const lower = from === Number.NEGATIVE_INFINITY ? "" : above ? ` > ${from}` : ` >= ${from}`;
  const expected = to === Number.POSITIVE_INFINITY ? `a finite number${lower}` : `a number from ${from} to ${to}`;
  return (text) => {
    const value = decimal.test(text) ? Number(text) : Number.NaN;
    if (!Number.isFinite(value) || value < from || value > to || (above && value === from))
      refuse(option, expected, text);
    return value;
  };
}

/** A reader of whole decimal numbers from `from` to `to`, both included. */
export function integerOption(option: string, from: number, to: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= from && value <= to)) refuse(option, `a whole number from ${from} to ${to}`, text);
    return value;
  };
}

/** A reader of names, of at least one character. */
export function nameOption(option: string): (text: string) => string {
  return (text) => (text === "" ? refuse(option, "at least one character", text) : text);
}

/** A seed: 0 to 2^64 - 1, exact. */
export function seedOption(text: string): bigint {
  const value = /^\d{1,20}$/.test(text) ? BigInt(text) : -1n;
  if (value < 0n || value >= 2n ** 64n) refuse("--seed", "a whole number from 0 to 2^64 - 1", text);
  return value;
}

/** One of a few words. */
export function choiceOption<Choice extends string>(option: string, choices: readonly Choice[]) {
  return (text: string): Choice => {
    const found = choices.find((choice) => choice === text);
    return found ?? refuse(option, choices.join(" or "), text);
  };
}

/** One of a few whole numbers. */
export function numberChoiceOption<Choice extends number>(option: string, choices: readonly Choice[]) {
  return (text: string): Choice =>
    choices.find((choice) => String(choice) === text) ?? refuse(option, choices.join(" or "), text);
}

/** What `--quantize` and `--quantize-head` take, `--group-size`, and `--quantize-scheme`. */
export const weightTypes = ["int4", "int8", "none"] as const satisfies readonly WeightType[];
export const groupSizes = [32, 64, 128] as const satisfies readonly GroupSize[];
export const quantizeSchemes = [
  "asymmetric",
  "symmetric",
  "integer-zeros",
] as const satisfies readonly QuantizeScheme[];

/** Token ids `1,2,3`: at least one, whole, not negative. Whether the model has them is checked once it is known. */
export function idsOption(text: string): readonly number[] {
  const ids = text.split(",").map((part) => {
    const id = part.trim();
    if (!/^\d{1,10}$/.test(id)) refuse("--ids", "token ids such as 1,2,3", text);
    return Number(id);
  });
  return ids;
}

/** Adds one `ID=VALUE` to the biases read so far. */
export function logitBiasOption(text: string, previous: ReadonlyMap<number, number>): ReadonlyMap<number, number> {
  const [, id, value] = /^(\d{1,10})=(.+)$/s.exec(text) ?? [];
  if (id === undefined || value === undefined || !decimal.test(value) || !Number.isFinite(Number(value))) {
    refuse("--logit-bias", "ID=VALUE with a token id and a finite number", text);
  }
  return new Map(previous).set(Number(id), Number(value));
}

/**
 * Adds one stop string of the command line, where `\n`, `\r`, `\t` and `\\` stand for a line's end, a tab, a backslash:
 * not every shell can write them.
 */
export function escapedStopOption(text: string, previous: readonly string[]): readonly string[] {
  const written: Readonly<Record<string, string>> = { "\\n": "\n", "\\r": "\r", "\\t": "\t", "\\\\": "\\" };
  return stopOption(
    text.replace(/\\[nrt\\]/g, (code) => written[code] ?? code),
    previous,
  );
}

/** Adds one stop string to those read so far, as it is. */
export function stopOption(text: string, previous: readonly string[]): readonly string[] {
  return [...previous, nameOption("--stop")(text)];
}

/** Every id below `vocabularySize`, or a usage error that names the first that is not. */
export function checkIds(option: string, ids: Iterable<number>, vocabularySize: number): void {
  for (const id of ids) {
    if (id >= vocabularySize)
      refuse(option, `token ids below this model's vocabulary of ${vocabularySize}`, String(id));
  }
}
