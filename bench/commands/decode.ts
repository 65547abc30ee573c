/** `bench decode`: options, and what is opened, measured and reported. */
import type { Command } from "commander";
import { openModelFolder } from "../../cli/model.ts";
import { integerOption } from "../../cli/options.ts";
import { loadOptions } from "../../cli/run.ts";
import { describeCheckpoint, type Model } from "../../engine/index.ts";
import type { OpenedAdapter } from "../../library/adapter.ts";
import { measureCopyRate } from "../kernels.ts";
import { benchDecode } from "../text.ts";
import {
  anotherAdapter,
  integersOption,
  type ModelOptions,
  mostTokens,
  onModel,
  onProgress,
  withActivations,
  withModel,
  withQuantize,
} from "./shared.ts";

const usualDepths = [0, 512, 2048, 4096];

async function decode(
  options: ModelOptions & { readonly depth?: readonly number[]; readonly newTokens: number },
  signal: AbortSignal,
): Promise<void> {
  const { newTokens, repetitions } = options;
  const folder = await openModelFolder(options.model);
  const { model: described, problem } = await describeCheckpoint(folder, loadOptions(options));
  if (described === undefined) throw problem;
  const most = options.context ?? described.maxPositions;
  const depths = options.depth ?? usualDepths.filter((depth) => Math.max(1, depth) + newTokens + 1 <= most);
  const needed = Math.max(...depths, 1) + newTokens + 1;
  const context = options.context ?? Math.min(described.maxPositions, needed);
  const measure = (model: Model, opened: OpenedAdapter) =>
    benchDecode(model, {
      ...{ repetitions, newTokens, depths, onProgress },
      bounds: {
        weightBytes: described.needs(opened.adapter).weightBytesPerToken,
        kvBytesPerPosition: described.kvBytesPer1000Tokens / 1000,
        window: described.window,
        copyRate: async (bytes) => measureCopyRate(await anotherAdapter(opened), bytes),
      },
    });
  await onModel("decode", { ...options, context }, measure, signal);
}

/** Declares `bench decode`. */
export function declareDecode(command: Command, signal: AbortSignal): void {
  withActivations(withQuantize(withModel(command, 3)))
    .description("tokens per second, one token after the other")
    .option("-g, --new-tokens <n>", "tokens of a run", integerOption("--new-tokens", 1, mostTokens), 16)
    .option(
      "-d, --depth <n,…>",
      "tokens of context before the first (default: those of 0,512,2048,4096 that the model has)",
      integersOption("--depth", 0),
    )
    .action(async (options: ModelOptions & { depth?: readonly number[]; newTokens: number }) => {
      await decode(options, signal);
    });
}
