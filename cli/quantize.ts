/** `phi quantize`: a float checkpoint written as a GPTQ checkpoint. */
import { rmSync } from "node:fs";
import * as nodeFiles from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { exportQuantized, type OutputFolder, PhiError, printable } from "../engine/index.ts";
import { openAdapterOrRestart } from "./adapter.ts";
import { formatBytes } from "./format.ts";
import { loadProgress, openModelFolder } from "./model.ts";
import { note, writeAll, writing } from "./output.ts";
import { type RunOptions, usedFeatures } from "./run.ts";

/** Options of `phi quantize`. */
export interface QuantizeCommandOptions extends Pick<RunOptions, "model" | "adapter" | "allowSymlinks" | "features"> {
  readonly output: string;
  readonly quantize: "int4" | "int8";
  readonly groupSize: 32 | 64 | 128;
  readonly sym?: boolean;
}

/** Writes the checkpoint to `--output`, which must not be there or be empty: whole, or not at all. */
export async function quantize(options: QuantizeCommandOptions, signal: AbortSignal): Promise<void> {
  const path = resolve(options.output);
  await refuseOccupied(options.output, path);
  const folder = await openModelFolder(options.model, options.allowSymlinks ?? false, { ...options, signal });
  const adapter = await openAdapterOrRestart(options.adapter);
  if (adapter === undefined) return;
  const progress = await loadProgress();
  try {
    const { modules, bytes, notes } = await writeFolder(path, async (output, checkSpace) =>
      exportQuantized({
        folder,
        adapter: adapter.adapter,
        output,
        weights: options.quantize,
        groupSize: options.groupSize,
        symmetric: options.sym ?? false,
        device: { features: usedFeatures(options) },
        signal,
        onSize: checkSpace,
        onProgress: (doneBytes, totalBytes) => progress.update({ stage: "weights", doneBytes, totalBytes }),
      }),
    );
    progress.stop();
    for (const line of notes) note(line);
    note(`${options.output}: ${modules} modules in ${options.quantize}, ${formatBytes(bytes)}`);
  } finally {
    progress.stop();
    adapter.release();
  }
}

async function refuseOccupied(shown: string, path: string): Promise<void> {
  const stats = await nodeFiles.lstat(path).catch(() => undefined); // what cannot be looked at cannot be written either
  if (stats === undefined) return;
  const entries = stats.isDirectory() ? await writing(path, () => nodeFiles.readdir(path)) : undefined;
  if (entries?.length === 0) return;
  const got = entries === undefined ? "a file" : `one with ${entries.length} entries`;
  throw new PhiError("usage", `--output: expected an empty folder or a new one, got ${got}: "${printable(shown)}"`);
}

/** The calls of `node:fs/promises` by which a folder is written; tests give ones that fail. */
export type WritingFiles = Pick<typeof nodeFiles, "mkdir" | "open" | "rename" | "rmdir" | "statfs">;

/**
 * Gives `work` a folder beside `path`, which takes its place when `work` has ended, and is removed if it fails or the
 * process exits. An empty folder at `path` is removed first. `checkSpace(bytes)` throws where the disk has less. Throws a
 * PhiError "io" for what the system refuses.
 */
export async function writeFolder<Result>(
  path: string,
  work: (output: OutputFolder, checkSpace: (bytes: number) => void) => Promise<Result>,
  files: WritingFiles = nodeFiles,
): Promise<Result> {
  const parent = dirname(path);
  const temporary = join(parent, `${basename(path)}.${process.pid}.incomplete`);
  await writing(path, async () => {
    await files.rmdir(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
    });
    await files.mkdir(temporary);
  });
  const remove = () => rmSync(temporary, { recursive: true, force: true });
  process.once("exit", remove); // a signal may end the process before the failure comes back here
  try {
    const { bavail, bsize } = await writing(path, () => files.statfs(parent));
    const result = await work({ create: (name, size) => createFile(files, temporary, name, size) }, (bytes) => {
      if (bytes <= bavail * bsize) return;
      const free = formatBytes(bavail * bsize);
      throw new PhiError("io", `${printable(path)}: expected ${formatBytes(bytes)} of free space, got ${free}`);
    });
    await writing(path, () => files.rename(temporary, path));
    return result;
  } finally {
    process.off("exit", remove);
    remove();
  }
}

async function createFile(files: WritingFiles, folder: string, name: string, sizeBytes: number) {
  const handle = await writing(name, () => files.open(join(folder, name), "wx"));
  await writing(name, () => handle.truncate(sizeBytes)).catch(async (error: unknown) => {
    await handle.close();
    throw error;
  });
  return {
    write: (offsetBytes: number, bytes: Uint8Array) => writing(name, () => writeAll(handle, bytes, offsetBytes)),
    close: () =>
      writing(name, async () => {
        // A rename that outlives a crash must not find files that do not.
        await handle.datasync().finally(() => handle.close());
      }),
  };
}
