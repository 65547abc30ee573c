/** What a caller of the package passes, checked before it is used: JavaScript's callers have no types. */
import { type GenerateOptions, type LoadOptions, PhiError, printable, type SamplingOptions } from "../engine/index.ts";

/** Whether a value is of a kind, and what that kind is called. */
interface Kind {
  readonly expected: string;
  readonly accepts: (value: unknown) => boolean;
}

const kind = (expected: string, accepts: (value: unknown) => boolean): Kind => ({ expected, accepts });
const isObject = (value: unknown): value is object =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isWhole = (least: number) => (value: unknown) => Number.isSafeInteger(value) && (value as number) >= least;
const isList = (accepts: (value: unknown) => boolean) => (value: unknown) =>
  Array.isArray(value) && Array.from(value).every(accepts);
const isId = isWhole(0);
const isName = (value: unknown) => typeof value === "string";
const isText = (value: unknown) => typeof value === "string" && value !== "";

// Each table has every option of its type, so that one which is added cannot be refused here by oversight.
type Kinds<Name extends string> = Readonly<Record<Name, Kind>>;

const flag = kind("true or false", (value) => typeof value === "boolean");
const signal = kind("an AbortSignal", (value) => isObject(value) && "aborted" in value && "addEventListener" in value);
const call = kind("a function", (value) => typeof value === "function");
const name = kind("a string", isName);
const object = kind("an object", isObject);
const count = kind("an integer of at least 1", isWhole(1));
const number = kind("a number", (value) => typeof value === "number");

const samplingKinds: Kinds<keyof SamplingOptions> = {
  temperature: number,
  topK: number,
  topP: number,
  minP: number,
  repetitionPenalty: number,
  presencePenalty: number,
  frequencyPenalty: number,
  logitBias: kind("a Map of numbers by token id", (value) => value instanceof Map),
  suppressTokens: kind("a list of token ids", isList(isId)),
  badWordsIds: kind("a list of lists of token ids", isList(isList(isId))),
  minNewTokens: number,
  minLength: number,
  seed: kind("a number or a bigint", (value) => typeof value === "number" || typeof value === "bigint"),
};

const textKinds: Kinds<keyof GenerateOptions | "stop"> = {
  maxTokens: kind("an integer of at least 0", isWhole(0)),
  stop: kind("a string or a list of strings, none of them empty", (value) => isText(value) || isList(isText)(value)),
  sampling: object,
  ignoreEos: flag,
  stopIds: kind("a list of token ids", isList(isId)),
  vocabularySize: count,
  signal,
  stepsPerSubmit: count,
  logprobs: flag,
};

const loadKinds: Kinds<Exclude<keyof LoadOptions, "folder"> | "tokenizer" | "onTokenizer"> = {
  adapter: kind("a GPUAdapter or an adapter's name", (value) => isObject(value) || isName(value)),
  tokenizer: kind('"required", "optional" or "none"', (value) =>
    ["required", "optional", "none"].includes(value as string),
  ),
  onTokenizer: call,
  context: count,
  kv: name,
  activations: name,
  rope: name,
  quantize: object,
  chunkTokens: count,
  allowNonFinite: flag,
  signal,
  onProgress: call,
  checked: object,
  tuned: kind("anything", () => true),
  device: object,
};

function shown(value: unknown): string {
  if (value === undefined) return "nothing";
  if (typeof value === "string") return `"${printable(value)}"`;
  if (Array.isArray(value)) return value.length === 0 ? "an empty list" : `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  return typeof value === "function" ? "a function" : printable(String(value));
}

function refuse(what: string, expected: string, got: unknown): never {
  throw new PhiError("usage", `${what}: expected ${expected}, got ${shown(got)}`);
}

/** Every field known and of its kind; absent and undefined ones are left to their defaults. */
function checkFields(value: unknown, kinds: Readonly<Record<string, Kind>>, what: string, prefix: string): void {
  if (value === undefined) return;
  if (!isObject(value)) refuse(what, "an object", value);
  for (const [field, given] of Object.entries(value)) {
    const known = Object.hasOwn(kinds, field) ? kinds[field] : undefined;
    if (known === undefined) {
      throw new PhiError(
        "usage",
        `${prefix}${printable(field)}: expected one of ${Object.keys(kinds).join(", ")}, got another option`,
      );
    }
    if (given !== undefined && !known.accepts(given)) refuse(`${prefix}${field}`, known.expected, given);
  }
}

/** A checkpoint's place: a path or an address, or a folder of the caller's own. Throws a PhiError "usage". */
export function checkSource(source: unknown): void {
  if (isText(source) || source instanceof URL) return;
  const { list, open } = Object(source) as { list?: unknown; open?: unknown };
  if (typeof list !== "function" || typeof open !== "function") {
    refuse("source", "a path, an address or a Folder", source);
  }
}

/** The options of `load`. Throws a PhiError "usage" that names the option. */
export function checkLoadOptions(options: unknown): void {
  checkFields(options, loadKinds, "options", "");
}

/** The options of `generate`; what the numbers may be is the engine's to say. Throws a PhiError "usage". */
export function checkTextOptions(options: unknown): void {
  checkFields(options, textKinds, "options", "");
  checkFields((options as { sampling?: unknown } | undefined)?.sampling, samplingKinds, "sampling", "sampling.");
}

/** A prompt: a text, messages or token ids. What is in a message is the tokenizer's to say. Throws a PhiError "usage". */
export function checkTextPrompt(prompt: unknown): void {
  if (typeof prompt === "string") return;
  const expected = "a string, a list of messages { role, content } or a list of token ids";
  if (!Array.isArray(prompt)) refuse("prompt", expected, prompt);
  const isIds = typeof prompt[0] === "number";
  for (const [i, part] of Array.from(prompt as unknown[]).entries()) {
    if (isIds && !isId(part)) refuse(`prompt[${i}]`, "a token id", part);
    if (!isIds && !isObject(part)) refuse(`prompt[${i}]`, "a message { role, content }, or a token id", part);
  }
}
