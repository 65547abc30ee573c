/**
 * Where bytes come from: a folder on disk, or files behind a URL. The only file that tells Node from a browser; Node's
 * modules are loaded when a folder is opened. Files are read in ranges, never whole, and only regular files that lie
 * where the caller's folder says.
 */

import type { BigIntStats } from "node:fs";
import type { FileHandle } from "node:fs/promises";
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

/** The calls of `node:fs/promises` that are used here; tests give ones that fail. */
export type NodeFiles = Pick<typeof import("node:fs/promises"), "lstat" | "open" | "readdir" | "realpath" | "stat">;

export interface FolderOptions {
  /** Follow symbolic links that lead out of the folder. Default false; a Hugging Face cache needs no permission. */
  readonly allowSymlinks?: boolean;
  /** Default: `node:fs/promises`. */
  readonly files?: NodeFiles;
}

/** One read call of Node takes at most 2^31 - 1 bytes. */
const maxReadBytes = 2 ** 30;

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

function refuseUnsafePath(path: string): void {
  const reason = unsafePath(path);
  if (reason !== undefined) {
    throw new PhiError("checkpoint", `"${printable(path)}": expected a file name inside the folder, got ${reason}`);
  }
}

/**
 * Opens a folder of the file system (Node only). Its files may be symbolic links to files inside the folder or, where it
 * lies in a Hugging Face cache (`snapshots/<revision>`), to that cache entry's `blobs`; see `FolderOptions` for others.
 * Throws a PhiError "checkpoint" if `path` is no folder, "io" if it cannot be read.
 */
export async function openFolder(path: string, options: FolderOptions = {}): Promise<Folder> {
  const system: NodeFiles = options.files ?? (await import("node:fs/promises"));
  const { O_RDONLY, O_NONBLOCK, O_NOFOLLOW } = (await import("node:fs")).constants;
  const { basename, dirname, isAbsolute, join, relative, sep } = await import("node:path");
  const name = printable(path);

  async function openRoot(): Promise<string> {
    try {
      if (path === "" || path.includes("\0")) throw Object.assign(new Error(), { code: "ENOENT" });
      const real = await system.realpath(path);
      if ((await system.stat(real)).isDirectory()) return real;
      throw Object.assign(new Error(), { code: "ENOTDIR" });
    } catch (error) {
      const code = errorCode(error);
      if (code !== "ENOENT" && code !== "ENOTDIR") throw ioError(name, "open the folder", error);
      const got = code === "ENOENT" ? "nothing of that name" : "a file";
      throw new PhiError("checkpoint", `"${name}": expected a folder, got ${got}`, [
        "Give the folder that holds config.json and the *.safetensors files.",
      ]);
    }
  }

  const root = await openRoot();
  const isInside = (folder: string, file: string) => {
    const below = relative(folder, file);
    return below !== "" && below !== ".." && !below.startsWith(`..${sep}`) && !isAbsolute(below);
  };

  /** In a Hugging Face cache `<repo>/snapshots/<revision>/f` is a link to `<repo>/blobs/<hash>`. */
  function cacheBlobs(): string | undefined {
    for (let folder = root; dirname(folder) !== folder; folder = dirname(folder)) {
      if (basename(dirname(folder)) === "snapshots") return join(dirname(dirname(folder)), "blobs");
    }
    return undefined;
  }
  const blobs = cacheBlobs();

  /** The file behind a name, links followed, or undefined if there is no such name. */
  async function resolve(file: string): Promise<string | undefined> {
    const shown = printable(file);
    let real: string;
    try {
      real = await system.realpath(join(root, file));
    } catch (error) {
      const code = errorCode(error);
      if (code === "ELOOP") {
        throw new PhiError("checkpoint", `${shown}: expected a file, got symbolic links that lead to each other`);
      }
      if (code !== "ENOENT" && code !== "ENOTDIR") throw ioError(shown, "open the file", error);
      const link = await system.lstat(join(root, file)).catch(() => undefined);
      if (link?.isSymbolicLink()) {
        throw new PhiError("checkpoint", `${shown}: expected a file, got a symbolic link to one that does not exist`, [
          "In a Hugging Face cache this is an incomplete download: download it again.",
        ]);
      }
      // Distinguishes a file that was never there from a folder that is gone.
      await system.stat(root).catch((gone) => {
        throw ioError(name, "find the folder", gone);
      });
      return undefined;
    }
    if (options.allowSymlinks || isInside(root, real) || (blobs !== undefined && isInside(blobs, real))) return real;
    const got = `a symbolic link to "${printable(real)}"`;
    throw new PhiError("checkpoint", `${shown}: expected a file inside the folder, got ${got}`, [
      "Copy the file into the folder, or allow links out of it (--allow-symlinks) if you trust its source.",
    ]);
  }

  return {
    name: path,
    async list() {
      try {
        return (await system.readdir(root)).sort();
      } catch (error) {
        throw ioError(name, "list the folder", error);
      }
    },
    async open(file) {
      refuseUnsafePath(file);
      const real = await resolve(file);
      if (real === undefined) return undefined;
      const shown = printable(file);
      // Judged before it is opened: opening a FIFO waits for a writer, and opening a device may do anything.
      refuseIrregular(shown, await attempt(shown, "open the file", system.stat(real, { bigint: true })));
      // The file may be exchanged between the two calls: hence no link, no waiting, and a second look.
      const flags = O_RDONLY | (O_NONBLOCK ?? 0) | (O_NOFOLLOW ?? 0);
      const handle = await attempt(shown, "open the file", system.open(real, flags));
      try {
        const stats = await attempt(shown, "open the file", handle.stat({ bigint: true }));
        refuseIrregular(shown, stats);
        return fileSource(system, handle, file, real, stats);
      } catch (error) {
        await handle.close().catch(() => undefined);
        throw error;
      }
    },
  };
}

function fileSource(
  system: NodeFiles,
  handle: FileHandle,
  name: string,
  path: string,
  opened: BigIntStats,
): ByteSource {
  const shown = printable(name);
  const sizeBytes = Number(opened.size);
  return {
    name,
    sizeBytes,
    version: versionOf(opened),
    async read(offsetBytes, lengthBytes, into) {
      const target = readTarget(name, lengthBytes, into);
      let done = 0;
      while (done < lengthBytes) {
        const length = Math.min(lengthBytes - done, maxReadBytes);
        const range = `read bytes ${offsetBytes} to ${offsetBytes + lengthBytes}`;
        const { bytesRead } = await attempt(shown, range, handle.read(target, done, length, offsetBytes + done));
        if (bytesRead === 0) throw shortRead(name, offsetBytes, lengthBytes, done);
        done += bytesRead;
      }
      return target;
    },
    async assertUnchanged() {
      // The open file may have been written to, or its name may stand for another file by now.
      const now = await attempt(shown, "find the file again", handle.stat({ bigint: true }));
      const named = await attempt(shown, "find the file again", system.stat(path, { bigint: true }));
      const changed = [now, named].find((stats) => versionOf(stats) !== versionOf(opened));
      if (changed === undefined) return;
      const isSame = changed.ino === opened.ino && changed.dev === opened.dev;
      const about = (stats: BigIntStats) => `${stats.size} bytes of ${new Date(Number(stats.mtimeMs)).toISOString()}`;
      const got = isSame ? about(changed) : "another file";
      throw new PhiError("io", `${shown}: expected the file as it was opened, ${about(opened)}, got ${got}`, [
        "The file was changed while it was being read: try again when it is complete.",
      ]);
    },
    close: () => attempt(shown, "close the file", handle.close()),
  };
}

function versionOf({ dev, ino, size, mtimeNs }: BigIntStats): string {
  return `${dev}:${ino}:${size}:${mtimeNs}`;
}

function refuseIrregular(name: string, stats: BigIntStats): void {
  if (stats.isFile()) return;
  const got = stats.isDirectory()
    ? "a folder"
    : stats.isFIFO()
      ? "a FIFO"
      : stats.isSocket()
        ? "a socket"
        : stats.isCharacterDevice() || stats.isBlockDevice()
          ? "a device"
          : "something else";
  throw new PhiError("checkpoint", `${name}: expected a regular file, got ${got}`);
}

function readTarget(name: string, lengthBytes: number, into: Uint8Array | undefined): Uint8Array {
  if (into === undefined) return new Uint8Array(lengthBytes);
  if (into.length < lengthBytes) {
    throw new PhiError("internal", `${printable(name)}: a buffer of ${into.length} bytes for ${lengthBytes}`);
  }
  return into.subarray(0, lengthBytes);
}

function shortRead(name: string, offsetBytes: number, lengthBytes: number, doneBytes: number): PhiError {
  const range = `bytes ${offsetBytes} to ${offsetBytes + lengthBytes}`;
  return new PhiError("io", `${printable(name)}: expected ${range}, got the end at byte ${offsetBytes + doneBytes}`, [
    "The file was cut while it was being read, or its download is incomplete.",
  ]);
}

async function attempt<T>(name: string, action: string, work: Promise<T>): Promise<T> {
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

function ioError(name: string, action: string, cause: unknown): PhiError {
  const text = cause instanceof Error ? cause.message : String(cause);
  const advice = ioAdvice[errorCode(cause) ?? ""];
  const message = `${name}: expected to ${action}, got ${printable(text || (errorCode(cause) ?? "no answer"))}`;
  return new PhiError("io", message, advice === undefined ? [] : [advice], { cause });
}

function errorCode(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}

/**
 * Files below a URL, read by HTTP range requests, for a browser (or Node). The server must send Content-Length and
 * serve ranges (206); `files` is what `list()` answers. Anything else than 200, 206, 404 and 410 is a PhiError "io".
 */
export function httpFolder(url: string, fetcher: typeof fetch = fetch, files: readonly string[] = []): Folder {
  const base = url.endsWith("/") ? url : `${url}/`;
  return {
    name: url,
    list: async () => [...files].sort(),
    async open(file) {
      refuseUnsafePath(file);
      const address = base + file.split("/").map(encodeURIComponent).join("/");
      const head = await httpHead(file, address, fetcher);
      return head && httpSource(file, address, fetcher, head);
    },
  };
}

interface HttpHead {
  readonly sizeBytes: number;
  readonly version: string;
}

async function httpHead(file: string, address: string, fetcher: typeof fetch): Promise<HttpHead | undefined> {
  const name = printable(file);
  const response = await attempt(name, "ask for the file", fetcher(address, { method: "HEAD" }));
  if (response.status === 404 || response.status === 410) return undefined;
  if (!response.ok) throw new PhiError("io", `${name}: expected HTTP status 200, got ${response.status}`);
  const length = response.headers.get("content-length");
  const sizeBytes = Number(length ?? Number.NaN);
  if (!Number.isSafeInteger(sizeBytes) || response.headers.has("content-encoding")) {
    const got = response.headers.has("content-encoding") ? "a compressed answer" : (length ?? "none");
    throw new PhiError("io", `${name}: expected a Content-Length, got ${printable(got)}`);
  }
  return {
    sizeBytes,
    version: `${sizeBytes}:${response.headers.get("etag") ?? response.headers.get("last-modified")}`,
  };
}

function httpSource(
  file: string,
  address: string,
  fetcher: typeof fetch,
  { sizeBytes, version }: HttpHead,
): ByteSource {
  const name = printable(file);
  return {
    name: file,
    sizeBytes,
    version,
    async read(offsetBytes, lengthBytes, into) {
      const target = readTarget(file, lengthBytes, into);
      if (lengthBytes === 0) return target;
      const end = offsetBytes + lengthBytes;
      const action = `read bytes ${offsetBytes} to ${end}`;
      const headers = { range: `bytes=${offsetBytes}-${end - 1}` };
      const response = await attempt(name, action, fetcher(address, { headers }));
      const isWhole = response.status === 200 && offsetBytes === 0 && end === sizeBytes;
      if ((response.status !== 206 && !isWhole) || !response.body) {
        await response.body?.cancel();
        throw new PhiError("io", `${name}: expected HTTP status 206 to "${action}", got ${response.status}`, [
          "The server must answer range requests.",
        ]);
      }
      const reader = response.body.getReader();
      let done = 0;
      for (;;) {
        const piece = (await attempt(name, action, reader.read())).value;
        if (piece === undefined) break;
        if (done + piece.length > lengthBytes) {
          await reader.cancel();
          throw new PhiError("io", `${name}: expected ${lengthBytes} bytes to "${action}", got more`);
        }
        target.set(piece, done);
        done += piece.length;
      }
      if (done < lengthBytes) throw shortRead(file, offsetBytes, lengthBytes, done);
      return target;
    },
    async assertUnchanged() {
      const now = (await httpHead(file, address, fetcher))?.version ?? "nothing";
      if (now === version) return;
      throw new PhiError("io", `${name}: expected the file as it was opened (${version}), got ${printable(now)}`);
    },
    close: async () => undefined,
  };
}

/**
 * A checkpoint: the path or `file:` URL of a folder (Node), the URL of one on a server that answers range requests (in a
 * browser also relative to the page), or a folder that is open already.
 */
export type CheckpointSource = string | URL | Folder;

/** Opens a checkpoint's folder. Throws as `openFolder` does. */
export async function openSource(source: CheckpointSource, options: FolderOptions = {}): Promise<Folder> {
  if (typeof source === "object" && !(source instanceof URL)) return source;
  const address = String(source);
  if (/^https?:/i.test(address)) return httpFolder(address);
  const isNode = globalThis.process?.versions?.node !== undefined;
  if (!isNode) return httpFolder(new URL(address, location.href).href);
  if (!(source instanceof URL)) return openFolder(source, options);
  const { fileURLToPath } = await import("node:url");
  return openFolder(fileURLToPath(source), options);
}

/** The text of one of the project's own files (a WGSL kernel), beside the compiled module or on a web server. */
export async function readText(url: URL): Promise<string> {
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return readFile(url, "utf8");
  }
  const response = await fetch(url);
  if (!response.ok) throw new PhiError("io", `${url}: expected status 200, got ${response.status}`);
  return response.text();
}
