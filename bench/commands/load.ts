/** `bench load`: options, and what is opened, measured and reported. */
import type { Command } from "commander";
import { openModelFolder } from "../../cli/model.ts";
import { integerOption } from "../../cli/options.ts";
import { loadOptions } from "../../cli/run.ts";
import { PhiError } from "../../engine/index.ts";
import { benchLoad } from "../load.ts";
import { collectGarbage, touchMemory } from "../memory.ts";
import { environmentOf } from "../report.ts";
import {
  type ModelOptions,
  modelName,
  mostTokens,
  onProgress,
  openWorkingAdapter,
  report,
  settingsOf,
  withModel,
  withQuantize,
} from "./shared.ts";

interface LoadCommandOptions extends ModelOptions {
  readonly newTokens: number;
}

async function load(options: LoadCommandOptions & { readonly context: number }, startBytes: number): Promise<void> {
  const folder = await openModelFolder(options.model);
  let opened = await openWorkingAdapter(options.adapter);
  if (opened === undefined) return;
  const environment = environmentOf(opened);
  const software = opened.isSoftware;
  // A software driver keeps the memory that it has had for as long as Dawn's instance lives, and loads into used memory are
  // faster than a user's first. Fresh memory takes one time or three, as the machine's host has it at hand or not.
  const nextAdapter = async (bytes: number) => {
    opened?.release();
    opened = undefined;
    collectGarbage();
    if (software) touchMemory(bytes);
    opened = await openWorkingAdapter(options.adapter);
    if (opened === undefined) throw new PhiError("machine", "the adapter cannot be opened once more");
    return opened.adapter;
  };
  try {
    const { kv, context, repetitions, newTokens } = options;
    const figures = await benchLoad({
      folder,
      nextAdapter,
      software,
      kv,
      context,
      repetitions,
      newTokens,
      quantize: loadOptions(options).quantize,
      startBytes,
      onProgress,
    });
    const settings = settingsOf(options, context);
    const table = { command: "load", model: modelName(folder.name), settings, figures };
    await report([table], environment, options.json);
  } finally {
    opened?.release();
  }
}

/** Declares `bench load`. */
export function declareLoad(command: Command, startBytes: number): void {
  withQuantize(withModel(command, 1))
    .description("time and host memory from the files to the GPU and to the first token")
    .option("-g, --new-tokens <n>", "tokens to generate then", integerOption("--new-tokens", 1, mostTokens), 1)
    .action(async (options: LoadCommandOptions) => load({ ...options, context: options.context ?? 128 }, startBytes));
}
