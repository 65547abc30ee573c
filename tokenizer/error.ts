/**
 * Failures of the tokenizer. The same form as the engine's errors, and a class of its own because this folder imports
 * nothing else of the project.
 */

/** A bad or unsupported tokenizer file or template (exit code 3), or a bad argument (exit code 2). */
export class TokenizerError extends Error {
  override readonly name = "TokenizerError";
  /** At most two further lines that say what to do. */
  readonly advice: readonly string[];
  /** Exit code of the command line: 3 for a file at fault, 2 for the caller's own input. */
  readonly exitCode: 2 | 3;

  constructor(message: string, advice: readonly string[] = [], exitCode: 2 | 3 = 3, options?: ErrorOptions) {
    super(message, options);
    this.advice = advice;
    this.exitCode = exitCode;
  }
}

/** Text from a file as it may stand in an error line: control characters escaped, at most 200 characters. */
export function printable(text: string): string {
  const escaped = text.replace(
    /[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return escaped.length > 200 ? `${escaped.slice(0, 199)}…` : escaped;
}
