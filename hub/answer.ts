/** Reading an answer: of the length that was asked for and that the hub lists, and no other. */
import { PhiError, printable } from "../engine/index.ts";
import { Transient } from "./failure.ts";

/** An answer with a good status, its body not read yet. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  /** The pieces of the body, to be read once or given up by leaving the loop. */
  readonly body: AsyncIterable<Uint8Array>;
}

export interface ByteRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly sizeBytes: number;
}

/** The listing of a repository is read whole. */
const mostAnswerBytes = 100_000_000;

/** All of a body. Throws a PhiError "io" where it is longer than any listing. */
export async function readAll(body: AsyncIterable<Uint8Array>, what: string): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of body) {
    sizeBytes += chunk.length;
    if (sizeBytes > mostAnswerBytes) {
      throw new PhiError("io", `${what}: expected an answer of at most ${mostAnswerBytes} bytes, got more`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** No range where all of it is asked for: such an answer may come from any cache on the way. */
export function rangeHeaders({ offsetBytes, lengthBytes, sizeBytes }: ByteRange): Record<string, string> {
  if (offsetBytes === 0 && lengthBytes === sizeBytes) return {};
  return { range: `bytes=${offsetBytes}-${offsetBytes + lengthBytes - 1}` };
}

/** The bytes of a range. Throws a Transient where the answer ends before, a PhiError "io" where it is another file's. */
export async function readRange(
  { status, headers, body }: Answer,
  what: string,
  range: ByteRange,
): Promise<Uint8Array> {
  const { offsetBytes, lengthBytes, sizeBytes } = range;
  // Servers that know no ranges send the file from its start; then what follows is not read.
  const skip = status === 206 ? 0 : offsetBytes;
  checkLength(status, headers, what, { ...range, lengthBytes: status === 206 ? lengthBytes : sizeBytes });
  const bytes = new Uint8Array(lengthBytes);
  let position = 0;
  for await (const piece of body) {
    const from = Math.max(0, skip - position);
    const part = piece.subarray(from, Math.max(from, skip + lengthBytes - position));
    bytes.set(part, Math.max(0, position - skip));
    position += piece.length;
    if (position > skip + lengthBytes && (status === 206 || lengthBytes === sizeBytes))
      throw wrongLength(what, sizeBytes, "more");
    if (position >= skip + lengthBytes && lengthBytes < sizeBytes) break;
  }
  if (position < skip + lengthBytes) throw new Transient(`the end at byte ${offsetBytes + position - skip}`);
  return bytes;
}

export function wrongLength(what: string, sizeBytes: number, got: string): PhiError {
  return new PhiError("io", `${what}: expected a file of ${sizeBytes} bytes, as the hub lists it, got ${got}`, [
    "The server's file is not the listed one: try again later.",
  ]);
}

/** Refuses an answer whose headers already say that it is not the listed file, or not the range that was asked for. */
export function checkLength(status: number, headers: Headers, what: string, range: ByteRange): void {
  const { offsetBytes, lengthBytes, sizeBytes } = range;
  const encoding = headers.get("content-encoding") ?? "identity";
  if (status === 206) {
    const [, from, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get("content-range") ?? "") ?? [];
    if (from !== String(offsetBytes) || encoding !== "identity") {
      const got = `"${printable(headers.get("content-range") ?? "none")}"`;
      throw new PhiError("io", `${what}: expected the bytes from ${offsetBytes} on, got the range ${got}`);
    }
    if (total !== "*" && total !== String(sizeBytes)) throw wrongLength(what, sizeBytes, `one of ${total}`);
  }
  const length = headers.get("content-length");
  const expected = status === 206 ? lengthBytes : sizeBytes;
  if (length !== null && encoding === "identity" && length !== String(expected)) {
    throw wrongLength(what, expected, `${printable(length)} bytes`);
  }
}
