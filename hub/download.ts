/** A file of the hub into the cache: resumed where it was interrupted, renamed only once its size and hash are right. */
import { createHash, type Hash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { PhiError, printable } from "../engine/index.ts";
import { checkLength, wrongLength } from "./answer.ts";
import type { CachePaths } from "./cache.ts";
import type { HubClient } from "./client.ts";
import { Transient } from "./failure.ts";
import { lockFile } from "./lock.ts";
import type { RemoteFile } from "./remote.ts";

/** `open` of `node:fs/promises`; tests give one whose files fail. */
export type OpenFile = (path: string, flags: number) => Promise<FileHandle>;

export interface DownloadOptions {
  readonly signal: AbortSignal;
  /** Told of bytes that came, or were there already; negative where some turned out to be of no use. */
  readonly onBytes: (count: number, from: "network" | "disk") => void;
  readonly onNote: (text: string) => void;
  readonly openFile?: OpenFile;
}

const readBytes = 1 << 20;

/**
 * Makes sure that `blobs/<hash>` is there. Its lock is held meanwhile, so that of several processes one downloads and
 * the others wait. What came so far lies in `<hash>.incomplete` and stays there after a failure, unless its hash is
 * wrong. Throws a PhiError "io" or "checkpoint".
 */
export async function downloadBlob(
  client: HubClient,
  paths: CachePaths,
  file: RemoteFile,
  options: DownloadOptions,
): Promise<void> {
  const { signal, onBytes, onNote } = options;
  const blob = join(paths.blobs, file.hash);
  const what = printable(file.path);
  await mkdir(paths.blobs, { recursive: true });
  const release = await lockFile(join(paths.locks, `${file.hash}.lock`), signal, () =>
    onNote(`${what}: another process downloads it, waiting`),
  );
  try {
    if (await hasSize(blob, file.sizeBytes)) return onBytes(file.sizeBytes, "disk");
    const partial = await openPartial(`${blob}.incomplete`, what, options);
    let keep = true;
    try {
      await fill(client, partial, file, { onBytes, onNote });
      await partial.handle.datasync();
    } catch (error) {
      keep = !(error instanceof WrongHash);
      throw error instanceof WrongHash ? error.told : writeFailure(what, error);
    } finally {
      await partial.handle.close();
      if (!keep) await rm(`${blob}.incomplete`, { force: true });
    }
    try {
      await rename(`${blob}.incomplete`, blob);
    } catch (error) {
      // Where locks do not work, another process may have been as far at the same time.
      if (!(await hasSize(blob, file.sizeBytes))) throw writeFailure(what, error);
    }
  } finally {
    await release();
  }
}

async function hasSize(path: string, sizeBytes: number): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.size === sizeBytes;
}

/** The wrong bytes came: they are not worth keeping. */
class WrongHash extends Error {
  readonly told: PhiError;
  constructor(told: PhiError) {
    super(told.message);
    this.told = told;
  }
}

interface Partial {
  readonly handle: FileHandle;
  /** Bytes that lie in the file. */
  sizeBytes: number;
}

async function openPartial(path: string, what: string, { openFile = open }: DownloadOptions): Promise<Partial> {
  try {
    const handle = await openFile(path, constants.O_RDWR | constants.O_CREAT);
    return { handle, sizeBytes: (await handle.stat()).size };
  } catch (error) {
    throw writeFailure(what, error);
  }
}

type Reports = Pick<DownloadOptions, "onBytes" | "onNote">;

/** Downloads what is missing, and checks the whole; what an earlier run left is thrown away if it does not fit. */
async function fill(client: HubClient, partial: Partial, file: RemoteFile, reports: Reports): Promise<void> {
  const what = printable(file.path);
  const hadBytes = partial.sizeBytes > 0;
  if (partial.sizeBytes > file.sizeBytes) await restart(partial, reports, 0);
  if ((await receive(client, partial, file, reports)) === file.hash) return;
  if (hadBytes) {
    reports.onNote(`${what}: what an earlier download left does not belong to it, starting over`);
    await restart(partial, reports, file.sizeBytes);
    if ((await receive(client, partial, file, reports)) === file.hash) return;
  }
  reports.onBytes(-file.sizeBytes, "disk");
  const kind = file.hash.length === 64 ? "SHA-256" : "git's SHA-1";
  throw new WrongHash(
    new PhiError("io", `${what}: expected ${kind} ${file.hash}, as the hub lists it, got other bytes`, [
      "The file was damaged on its way, or the server's file is not the listed one. It was not kept: try again.",
    ]),
  );
}

async function restart(partial: Partial, { onBytes }: Reports, reportedBytes: number): Promise<void> {
  await partial.handle.truncate(0);
  partial.sizeBytes = 0;
  onBytes(-reportedBytes, "disk");
}

/** Completes the file by as many requests as it takes, and returns the hash of all of it. */
async function receive(client: HubClient, partial: Partial, file: RemoteFile, reports: Reports): Promise<string> {
  const { sizeBytes, url } = file;
  const what = printable(file.path);
  let hash = newHash(file);
  await hashFile(partial, hash);
  reports.onBytes(partial.sizeBytes, "disk");
  let received = 0;
  await client.retry(
    what,
    async () => {
      if (partial.sizeBytes === sizeBytes) return;
      const offsetBytes = partial.sizeBytes;
      const headers: Record<string, string> = offsetBytes > 0 ? { range: `bytes=${offsetBytes}-` } : {};
      const answer = await client.request(url, what, headers);
      checkLength(answer.status, answer.headers, what, {
        offsetBytes,
        lengthBytes: sizeBytes - offsetBytes,
        sizeBytes,
      });
      if (answer.status !== 206 && offsetBytes > 0) {
        // It knows no ranges: all of it comes again.
        await restart(partial, reports, offsetBytes);
        hash = newHash(file);
      }
      for await (const piece of answer.body) {
        if (partial.sizeBytes + piece.length > sizeBytes) throw wrongLength(what, sizeBytes, "more");
        await writeAll(partial.handle, piece, partial.sizeBytes);
        hash.update(piece);
        partial.sizeBytes += piece.length;
        received += piece.length;
        reports.onBytes(piece.length, "network");
      }
      if (partial.sizeBytes < sizeBytes) throw new Transient(`the end at byte ${partial.sizeBytes} of ${sizeBytes}`);
    },
    () => received,
  );
  return hash.digest("hex");
}

/** Git hashes a blob object: a line that gives its size, and the bytes. */
function newHash({ hash, sizeBytes }: RemoteFile): Hash {
  return hash.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${sizeBytes}\0`);
}

async function hashFile({ handle, sizeBytes }: Partial, hash: Hash): Promise<void> {
  const buffer = new Uint8Array(Math.min(readBytes, sizeBytes));
  for (let position = 0; position < sizeBytes; ) {
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, sizeBytes - position), position);
    if (bytesRead === 0) return; // shorter than it was: the hash will tell
    hash.update(buffer.subarray(0, bytesRead));
    position += bytesRead;
  }
}

/** A write may be short. */
async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
  }
}

/** Errors of the file system as the user's; others as they are. */
export function writeFailure(what: string, error: unknown): unknown {
  if (!(error instanceof Error && "syscall" in error && "code" in error)) return error;
  const isFull = error.code === "ENOSPC" || error.code === "EDQUOT";
  const got = isFull ? "a full disk" : printable(error.message);
  return new PhiError(
    "io",
    `${what}: expected to write it into the cache, got ${got}`,
    [
      isFull
        ? "Make room, or set HF_HUB_CACHE to a folder on another disk; then the same command goes on where this one ended."
        : "Check the cache's folder and its permissions, or set HF_HUB_CACHE to another one.",
    ],
    { cause: error },
  );
}
