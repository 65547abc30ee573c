/**
 * Every failure that a user can cause or meet is a `PhiError`: one line that names the file, tensor, field or option,
 * what was expected and what came, then at most two lines of advice. Anything else that is thrown is our own bug.
 */

/** Who is at fault, which decides the exit code of the command line. */
export type ErrorKind = "internal" | "usage" | "checkpoint" | "machine" | "gpu" | "io" | "aborted";

/** Exit code of each kind of error (0 is success, 141 a closed stdout). */
export const exitCodes: Readonly<Record<ErrorKind, number>> = {
  internal: 1,
  usage: 2,
  checkpoint: 3,
  machine: 4,
  gpu: 5,
  io: 6,
  aborted: 130,
};

/** A typed failure. `message` is one line; `advice` holds at most two more. */
export class PhiError extends Error {
  override readonly name = "PhiError";
  readonly kind: ErrorKind;
  readonly advice: readonly string[];

  constructor(kind: ErrorKind, message: string, advice: readonly string[] = [], options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
    this.advice = advice;
  }

  /** The exit code of the command line for this error. */
  get exitCode(): number {
    return exitCodes[this.kind];
  }
}

/** A name from a file as it may be printed: control characters escaped, at most 200 characters. */
export function printable(name: string): string {
  const escaped = name.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: escaping control characters is this function's purpose
    /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return escaped.length > 200 ? `${escaped.slice(0, 199)}…` : escaped;
}
