/**
 * The locks of huggingface_hub: flock(2) on `.locks/<repository>/<hash>.lock`. Node has no call for it. A lock belongs
 * to the open file and not to the process that asked, so on Linux the command flock(1) takes it for ours and ends; it
 * is let go when we close the file or die. macOS and Windows lock a file as they open it.
 */
import { spawn } from "node:child_process";
import { constants } from "node:fs";
import { type FileHandle, mkdir, open } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** libuv's O_EXLOCK on these systems, which Node does not name. */
const exclusiveFlags: Readonly<Partial<Record<NodeJS.Platform, number>>> = { darwin: 0x20, win32: 0x10000000 };
const openFlags = constants.O_RDWR | constants.O_CREAT;
const pollMs = 250;

/**
 * Waits for the lock and returns what lets it go. `onWait` is called once if another process holds it. Where a system
 * has no such locks, none is held: then two processes may download the same file, and each checks what it wrote.
 */
export async function lockFile(path: string, signal: AbortSignal, onWait: () => void): Promise<() => Promise<void>> {
  await mkdir(dirname(path), { recursive: true });
  let toldOfWait = false;
  const wait = () => {
    if (!toldOfWait) onWait();
    toldOfWait = true;
  };
  const exclusive = exclusiveFlags[process.platform];
  const handle =
    exclusive === undefined ? await open(path, openFlags) : await openLocked(path, exclusive, signal, wait);
  try {
    if (exclusive === undefined && (await flock(handle, ["-n"], signal)) === 1) {
      wait();
      await flock(handle, [], signal);
    }
    signal.throwIfAborted();
    return () => handle.close();
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** Exit code of flock(1): 0 has the lock, 1 (with -n) another process has it; undefined where there is no flock(1). */
function flock(handle: FileHandle, options: readonly string[], signal: AbortSignal): Promise<number | undefined> {
  return new Promise((resolve) => {
    const child = spawn("flock", ["-x", ...options, "3"], { stdio: ["ignore", "ignore", "ignore", handle.fd] });
    const stop = () => child.kill();
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
    const end = (code: number | null) => {
      signal.removeEventListener("abort", stop);
      resolve(code ?? undefined);
    };
    child.on("error", () => end(null));
    child.on("close", end);
  });
}

async function openLocked(path: string, exclusive: number, signal: AbortSignal, wait: () => void): Promise<FileHandle> {
  for (;;) {
    try {
      return await open(path, openFlags | exclusive | (constants.O_NONBLOCK ?? 0));
    } catch (error) {
      const code = error instanceof Error && "code" in error ? error.code : undefined;
      if (code !== "EAGAIN" && code !== "EBUSY") throw error;
      wait();
      await sleep(pollMs, undefined, { signal });
    }
  }
}
