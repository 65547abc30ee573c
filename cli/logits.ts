/** `phi logits`: the logits of every position, as a safetensors file. */
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { PhiError, printable, safetensorsHeader } from "../engine/index.ts";
import { openAdapterOrRestart } from "./adapter.ts";
import { checkMemory, describeModel, openModel, openModelFolder, type RunOptions } from "./model.ts";
import { checkIds } from "./options.ts";

/** Options of `phi logits`. */
export interface LogitsOptions extends RunOptions {
  readonly ids: readonly number[];
  readonly output: string;
}

/**
 * Writes the tensor `logits`, F32 [ids, vocabulary], to `output`: beside it first, and renamed when it is whole.
 */
export async function logits(options: LogitsOptions, signal: AbortSignal): Promise<void> {
  const folder = await openModelFolder(options.model, options.allowSymlinks, { ...options, signal });
  const described = await describeModel(folder, options);
  const { vocabulary, context } = described;
  checkIds("--ids", options.ids, vocabulary);
  if (options.ids.length > context) {
    throw new PhiError("usage", `prompt is ${options.ids.length} tokens, context is ${context}`);
  }
  const adapter = await openAdapterOrRestart(options.adapter);
  if (adapter === undefined) return;
  checkMemory(described, adapter.adapter);
  const opened = await openModel(folder, adapter, options, "none", signal);
  const partial = `${options.output}.${process.pid}.incomplete`;
  let file: FileHandle | undefined;
  try {
    const { model } = opened;
    file = await writing(options.output, () => open(partial, "wx"));
    const shape = [options.ids.length, model.vocabularySize];
    const header = safetensorsHeader([{ name: "logits", dtype: "F32", shape }]);
    await writing(options.output, () => writeAll(file, header, 0));
    for await (const { firstPosition, values } of model.logits(options.ids, { signal })) {
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      const offset = header.length + firstPosition * model.vocabularySize * 4;
      await writing(options.output, () => writeAll(file, bytes, offset));
    }
    await writing(options.output, async () => {
      await file?.close();
      await rename(partial, options.output);
    });
    file = undefined;
  } finally {
    await file?.close().catch(() => {});
    if (file !== undefined) await rm(partial, { force: true });
    opened.dispose();
  }
}

/** One `write` may take less than it was given. */
async function writeAll(file: FileHandle | undefined, bytes: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; file !== undefined && done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, offset + done);
    done += bytesWritten;
  }
}

async function writing<T>(name: string, write: () => Promise<T>): Promise<T> {
  try {
    return await write();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new PhiError("io", `${printable(name)}: cannot be written: ${printable(reason)}`);
  }
}
