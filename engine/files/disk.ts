/**
 * A folder of the file system, on Node, whose modules are loaded when one is opened. Only regular files are read, and only
 * those that lie where the caller's folder says.
 */

import type { BigIntStats } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { PhiError, printable } from "../errors.ts";
import {
  attempt,
  type ByteSource,
  errorCode,
  type Folder,
  ioError,
  readTarget,
  refuseUnsafePath,
  shortRead,
} from "./source.ts";

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
