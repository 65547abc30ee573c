/** `bench prefill`: options, and what is opened, measured and reported. */
import type { Command } from "commander";
import { openModelFolder } from "../../cli/model.ts";
import { type Model, openCheckpoint } from "../../engine/index.ts";
import { readArchitecture } from "../../engine/models/table.ts";
import type { OpenedAdapter } from "../../library/adapter.ts";
import { measureComputeRate } from "../kernels.ts";
import { benchPrefill } from "../text.ts";
import { promptWork } from "../work.ts";
import {
  anotherAdapter,
  integersOption,
  type ModelOptions,
  onModel,
  onProgress,
  withActivations,
  withModel,
  withQuantize,
} from "./shared.ts";

async function prefill(
  options: ModelOptions & { readonly promptTokens: readonly number[] },
  signal: AbortSignal,
): Promise<void> {
  const { promptTokens, repetitions } = options;
  const checkpoint = await openCheckpoint(await openModelFolder(options.model));
  await checkpoint.close();
  const work = promptWork(readArchitecture(checkpoint.config));
  const measure = (model: Model, opened: OpenedAdapter) =>
    benchPrefill(model, {
      ...{ promptTokens, repetitions, onProgress },
      bounds: { work, computeRate: async () => measureComputeRate(await anotherAdapter(opened)) },
    });
  await onModel("prefill", options, measure, signal);
}

/** Declares `bench prefill`. */
export function declarePrefill(command: Command, signal: AbortSignal): void {
  withActivations(withQuantize(withModel(command, 3)))
    .description("tokens per second of a prompt")
    .option("-p, --prompt-tokens <n,…>", "tokens of the prompt", integersOption("--prompt-tokens", 1), [512])
    .action(async (options: ModelOptions & { promptTokens: readonly number[] }) => {
      await prefill(options, signal);
    });
}
