/** `phi logits`: the logits of every position, as a safetensors file. */
import { type FileHandle, open, rename, rm, stat } from "node:fs/promises";
import { PhiError, safetensorsHeader } from "../engine/index.ts";
import { openAdapterOrRestart } from "./adapter.ts";
import { checkMemory, describeModel, openModel, openModelFolder } from "./model.ts";
import { checkIds } from "./options.ts";
import { writing } from "./output.ts";
import type { RunOptions } from "./run.ts";

/** Options of `phi logits`. */
export interface LogitsOptions extends RunOptions {
  readonly ids: readonly number[];
  readonly output: string;
}

/**
 * Writes the tensor `logits`, F32 [ids, vocabulary], to `output`: a file beside it first, renamed when it is whole; a pipe
 * or a device as it is.
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
  const inPlace = await isDevice(options.output);
  const partial = inPlace ? options.output : `${options.output}.${process.pid}.incomplete`;
  let file: FileHandle | undefined;
  try {
    const { model } = opened;
    const begun = await writing(options.output, () => open(partial, inPlace ? "w" : "wx"));
    file = begun;
    const shape = [options.ids.length, model.vocabularySize];
    const header = safetensorsHeader([{ name: "logits", dtype: "F32", shape }]);
    await writing(options.output, () => begun.writeFile(header));
    for await (const { values } of model.logits(options.ids, { signal })) {
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      await writing(options.output, () => begun.writeFile(bytes)); // goes on where the last call ended
    }
    await writing(options.output, async () => {
      await begun.close();
      if (!inPlace) await rename(partial, options.output);
    });
    file = undefined;
  } finally {
    await file?.close().catch(() => {});
    if (file !== undefined && !inPlace) await rm(partial, { force: true });
    opened.dispose();
  }
}

/** Whether a path is a pipe or a device, which a finished file must not be renamed over. */
async function isDevice(path: string): Promise<boolean> {
  const stats = await stat(path).catch(() => undefined);
  return stats !== undefined && !stats.isFile() && !stats.isDirectory();
}
