/** JSON files of a tokenizer, read with the place of what is wrong in them. */
import { printable, TokenizerError } from "./error.ts";

export type Json = Readonly<Record<string, unknown>>;

export const file = "tokenizer.json";

export function fail(path: string, expected: string, got: unknown, advice: readonly string[] = []): never {
  throw new TokenizerError(`${file}: ${path}: expected ${expected}, got ${describe(got)}`, advice);
}

export function describe(value: unknown): string {
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  return printable(JSON.stringify(value));
}

export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function objectAt(value: unknown, path: string): Json {
  return isObject(value) ? value : fail(path, "an object", value);
}

export function listAt(value: unknown, path: string): readonly unknown[] {
  return Array.isArray(value) ? value : fail(path, "a list", value);
}

export function stringAt(value: unknown, path: string): string {
  if (typeof value !== "string") fail(path, "a string", value);
  if (/\p{Cs}/u.test(value)) fail(path, "well-formed Unicode", value);
  return value;
}

/** A switch that may be absent or null. */
export function flagAt(parent: Json, name: string, path: string, fallback: boolean): boolean {
  const value = parent[name] ?? fallback;
  return typeof value === "boolean" ? value : fail(`${path}.${name}`, "true or false", value);
}

export function countAt(value: unknown, path: string, most: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > most) {
    fail(path, `an integer from 0 to ${most}`, value);
  }
  return value;
}

/** What stands in the place of a large file in a Git checkout without its contents. */
export const gitLfsPointer = {
  start: "version https://git-lfs",
  advice: ["Fetch the real file: git lfs pull, or download it from the model's page."],
} as const;

/**
 * Read one of the tokenizer's JSON files. Throws TokenizerError naming the file: empty, too large, a Git LFS pointer,
 * not UTF-8, not JSON, or not an object.
 */
export function parseJsonFile(name: string, bytes: Uint8Array, mostBytes = 2 ** 26): Json {
  if (bytes.length === 0) throw new TokenizerError(`${name}: expected JSON, got an empty file`);
  if (bytes.length > mostBytes) {
    throw new TokenizerError(`${name}: expected at most ${mostBytes} bytes, got ${bytes.length}`);
  }
  const text = decodeTextFile(name, bytes);
  if (text.startsWith(gitLfsPointer.start)) {
    throw new TokenizerError(`${name}: expected JSON, got a Git LFS pointer`, gitLfsPointer.advice);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new TokenizerError(`${name}: expected JSON, got a syntax error: ${printable(why)}`, [], 3, { cause: error });
  }
  if (!isObject(value)) throw new TokenizerError(`${name}: expected a JSON object, got ${describe(value)}`);
  return value;
}

/** The text of a file that must be UTF-8; a byte order mark is dropped. Throws TokenizerError naming the file. */
export function decodeTextFile(name: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new TokenizerError(`${name}: expected UTF-8 text, got invalid bytes`, [], 3, { cause: error });
  }
}
