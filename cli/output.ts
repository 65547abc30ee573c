/** Standard output: back-pressure, and what a terminal may be shown. */
import { once } from "node:events";
import type { FileHandle } from "node:fs/promises";
import { PhiError, printable } from "../engine/errors.ts";

/**
 * Text as a terminal may be sent it: C0 and C1 controls other than newline and tab are written as `\x1b`, so that no
 * model's output can move the cursor, change the title or paste.
 */
export function terminalSafe(text: string): string {
  return text.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: escaping control characters is this function's purpose
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g,
    (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}

/** Writes to stdout and waits while its reader is behind. A closed stdout ends the process elsewhere (`watchProcess`). */
export async function print(text: string): Promise<void> {
  if (text !== "" && !process.stdout.write(text)) await once(process.stdout, "drain");
}

/** `print` for text from a model or a file: made safe on a terminal, byte for byte in a pipe. */
export async function printUntrusted(text: string, rawOutput = false): Promise<void> {
  await print(process.stdout.isTTY && !rawOutput ? terminalSafe(text) : text);
}

/** A remark on stderr. */
export function note(text: string): void {
  process.stderr.write(`note: ${printable(text)}\n`);
}

/** Runs a step of writing a file; what fails is an "io" error that names it. */
export async function writing<T>(name: string, write: () => Promise<T>): Promise<T> {
  try {
    return await write();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new PhiError("io", `${printable(name)}: cannot be written: ${printable(reason)}`, [], { cause: error });
  }
}

/** Writes all bytes, at an offset or where the last call ended: one `write` may take less than it was given. */
export async function writeAll(file: FileHandle, bytes: Uint8Array, offsetBytes?: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const at = offsetBytes === undefined ? null : offsetBytes + done;
    done += (await file.write(bytes, done, bytes.length - done, at)).bytesWritten;
  }
}
