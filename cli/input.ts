/** What a command reads: the prompt or data from stdin, and files of the model's folder. */
import type { Readable } from "node:stream";
import { PhiError } from "../engine/errors.ts";

const mostBytes = 64 * 1024 * 1024;

/** The offset of the first byte that does not belong to valid UTF-8, or -1. */
export function invalidUtf8Offset(bytes: Uint8Array): number {
  const decodes = (end: number, stream: boolean) => {
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, end), { stream });
      return true;
    } catch {
      return false;
    }
  };
  if (decodes(bytes.length, false)) return -1;
  // Prefixes up to `good` decode as the beginning of something, those from `bad` on do not.
  let good = 0;
  let bad = bytes.length + 1;
  while (bad - good > 1) {
    const middle = (good + bad) >>> 1;
    if (decodes(middle, true)) good = middle;
    else bad = middle;
  }
  if (decodes(good, false)) return good;
  // The character that `good` cuts is at fault: it begins with the last byte that is not a continuation.
  let at = good - 1;
  while (at > 0 && ((bytes[at] ?? 0) & 0xc0) === 0x80) at--;
  return at;
}

/** Without the mark that some editors write at a file's beginning. */
export function withoutByteOrderMark(bytes: Uint8Array): Uint8Array {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes;
}

/** Bytes as text, kept as they are (a BOM too). Invalid UTF-8 is a usage error unless `lossy` (then U+FFFD). */
export function decodeUtf8(bytes: Uint8Array, source: string, lossy: boolean): string {
  if (!lossy) {
    const offset = invalidUtf8Offset(bytes);
    if (offset >= 0) {
      const byte = (bytes[offset] ?? 0).toString(16).padStart(2, "0");
      throw new PhiError("usage", `${source}: expected UTF-8, got byte 0x${byte} at offset ${offset}`, [
        "--lossy replaces what cannot be read.",
      ]);
    }
  }
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}

/** The whole of a stream as text; at most 64 MiB. `source` is what an error calls it. */
export async function readText(
  stream: Readable,
  lossy: boolean,
  signal: AbortSignal,
  source = "stdin",
): Promise<string> {
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  const stop = () => stream.destroy();
  signal.addEventListener("abort", stop, { once: true });
  try {
    for await (const chunk of stream as AsyncIterable<Uint8Array>) {
      sizeBytes += chunk.length;
      if (sizeBytes > mostBytes) throw new PhiError("usage", `${source}: expected at most 64 MiB, got more`);
      chunks.push(chunk);
    }
  } finally {
    signal.removeEventListener("abort", stop);
  }
  return decodeUtf8(Buffer.concat(chunks), source, lossy);
}
