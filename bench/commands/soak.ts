/** `bench soak`: options, and what is opened, measured and reported. */
import type { Command } from "commander";
import { openModelFolder } from "../../cli/model.ts";
import { integerOption } from "../../cli/options.ts";
import { environmentOf } from "../report.ts";
import { benchSoak } from "../soak.ts";
import {
  anotherAdapter,
  type ModelOptions,
  modelName,
  mostTokens,
  onProgress,
  openWorkingAdapter,
  report,
  withModel,
} from "./shared.ts";

interface SoakCommandOptions extends ModelOptions {
  readonly generations: number;
  readonly loads: number;
  readonly concurrent: number;
  readonly repeats: number;
}

async function soak(options: SoakCommandOptions): Promise<void> {
  const folder = await openModelFolder(options.model);
  const opened = await openWorkingAdapter(options.adapter);
  if (opened === undefined) return;
  try {
    const environment = environmentOf(opened);
    const figures = await benchSoak({ ...options, folder, nextAdapter: () => anotherAdapter(opened), onProgress });
    const table = { command: "soak", model: modelName(folder.name), settings: "f16 cache of 512 positions", figures };
    await report([table], environment, options.json);
  } finally {
    opened.release();
  }
}

/** Declares `bench soak`. */
export function declareSoak(command: Command): void {
  withModel(command, 1)
    .description("many generations, loads and callers in one process: memory, buffers and texts stay the same")
    .option("--generations <n>", "on one model", integerOption("--generations", 1, mostTokens), 10_000)
    .option("--loads <n>", "of a model, one after the other", integerOption("--loads", 0, mostTokens), 100)
    .option("--concurrent <n>", "generations at once", integerOption("--concurrent", 1, 1000), 20)
    .option("--repeats <n>", "runs of the same 256 tokens", integerOption("--repeats", 0, 100_000), 100)
    .action(soak);
}
