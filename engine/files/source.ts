/** Where bytes come from, whatever it is: files that are read in ranges, never whole. On disk: disk.ts; by HTTP: http.ts. */

import { PhiError, printable } from "../errors.ts";

/** An open file of fixed size. */
export interface ByteSource {
  /** The name it was opened under, relative to its folder. */
  readonly name: string;
  readonly sizeBytes: number;
  /** Equal for two openings of the same name only while the file is the same (device, inode, size, time; or ETag). */
  readonly version: string;
  /**
   * Reads exactly `lengthBytes` from `offsetBytes` into the start of `into`, or into a new array, and returns the bytes
   * read. A file that ends sooner or cannot be read is a PhiError "io" with the offsets.
   */
  read(offsetBytes: number, lengthBytes: number, into?: Uint8Array): Promise<Uint8Array>;
  /** Throws a PhiError "io" if the file was changed, replaced or removed since it was opened. */
  assertUnchanged(): Promise<void>;
  close(): Promise<void>;
}

/** A place that holds a checkpoint's files. */
export interface Folder {
  /** As the user gave it. */
  readonly name: string;
  /** Names of the entries, sorted; empty where the place cannot list. */
  list(): Promise<readonly string[]>;
  /**
   * Opens a file by its path below the folder, e.g. `model.safetensors`. Resolves to undefined if there is none.
   * Throws a PhiError "checkpoint" for a path that leaves the folder or is no regular file, "io" if opening fails.
   */
  open(file: string): Promise<ByteSource | undefined>;
}

/** Why a path from a file must not be opened, or undefined if it names a file below the folder on every system. */
export function unsafePath(path: string): string | undefined {
  if (path === "") return "an empty name";
  if (path.length > 1000) return "a name of more than 1000 characters";
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(path)) return "a name with control characters";
  if (path.startsWith("/")) return "an absolute path";
  if (path.includes(":")) return "a drive or a URL";
  if (path.includes("\\")) return "a name with a backslash";
  const parts = path.split("/");
  if (parts.includes("..")) return "a path with ..";
  if (parts.includes("") || parts.includes(".")) return "a path with an empty part";
  return undefined;
}

/** Throws a PhiError "checkpoint" for a path that must not be opened. */
export function refuseUnsafePath(path: string): void {
  const reason = unsafePath(path);
  if (reason !== undefined) {
    throw new PhiError("checkpoint", `"${printable(path)}": expected a file name inside the folder, got ${reason}`);
  }
}

/** Where `lengthBytes` bytes are read to: the beginning of `into`, or memory of their own. */
export function readTarget(name: string, lengthBytes: number, into: Uint8Array | undefined): Uint8Array {
  if (into === undefined) return new Uint8Array(lengthBytes);
  if (into.length < lengthBytes) {
    throw new PhiError("internal", `${printable(name)}: a buffer of ${into.length} bytes for ${lengthBytes}`);
  }
  return into.subarray(0, lengthBytes);
}

/** The PhiError "io" of a file that ends before the bytes that were asked for. */
export function shortRead(name: string, offsetBytes: number, lengthBytes: number, doneBytes: number): PhiError {
  const range = `bytes ${offsetBytes} to ${offsetBytes + lengthBytes}`;
  return new PhiError("io", `${printable(name)}: expected ${range}, got the end at byte ${offsetBytes + doneBytes}`, [
    "The file was cut while it was being read, or its download is incomplete.",
  ]);
}

/** Waits for a call of the system; what fails becomes a PhiError "io" that names the file and what was tried. */
export async function attempt<T>(name: string, action: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw ioError(name, action, error);
  }
}

const ioAdvice: Readonly<Record<string, string>> = {
  EACCES: "You may not read it: check its permissions and those of its folder.",
  EPERM: "You may not read it: check its permissions and those of its folder.",
  EMFILE: "Too many files are open: raise the limit (ulimit -n).",
  ENFILE: "Too many files are open on this machine: close other programs.",
};

/** The PhiError "io" of a call that failed. */
export function ioError(name: string, action: string, cause: unknown): PhiError {
  const text = cause instanceof Error ? cause.message : String(cause);
  const advice = ioAdvice[errorCode(cause) ?? ""];
  const message = `${name}: expected to ${action}, got ${printable(text || (errorCode(cause) ?? "no answer"))}`;
  return new PhiError("io", message, advice === undefined ? [] : [advice], { cause });
}

/** The system's code of an error, as ENOENT. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}
