/** `bench host`: options, and what is opened, measured and reported. */
import type { Command } from "commander";
import { integerOption } from "../../cli/options.ts";
import { openAdapter } from "../../library/adapter.ts";
import { benchHost } from "../host.ts";
import { type BenchTable, environmentOf } from "../report.ts";
import { type SyntheticPreset, syntheticPresets } from "../synthetic.ts";
import {
  anotherAdapter,
  type CommonOptions,
  common,
  integersOption,
  mostTokens,
  onProgress,
  presetArgument,
  report,
} from "./shared.ts";

interface HostCommandOptions extends CommonOptions {
  readonly layers?: number;
  readonly depth: readonly number[];
  readonly newTokens: number;
}

async function host(presets: readonly SyntheticPreset[], options: HostCommandOptions): Promise<void> {
  const opened = await openAdapter({ adapter: "null" });
  try {
    const environment = environmentOf(opened);
    const tables: BenchTable[] = [];
    for (const preset of presets) {
      const { kv, context, depth, newTokens, repetitions } = options;
      const { layers, figures } = await benchHost(await anotherAdapter(opened), {
        preset,
        layers: options.layers,
        kv,
        context,
        depths: depth,
        newTokens,
        repetitions,
        onProgress,
      });
      const settings = `${kv} cache, ${newTokens} tokens a run`;
      tables.push({ command: "host", model: `${preset}, ${layers} layers`, settings, figures });
    }
    await report(tables, environment, options.json);
  } finally {
    opened.release();
  }
}

/** Declares `bench host`. */
export function declareHost(command: Command): void {
  common(command, 5)
    .description("host time per decoded token, on Dawn's null backend, with real geometry and no weights")
    .argument("[presets...]", `of ${syntheticPresets.join(", ")} (default: phi-2 phi-3-mini-4k)`, presetArgument)
    .option("--layers <n>", "layers instead of the model's own number", integerOption("--layers", 1, 1000))
    .option("-g, --new-tokens <n>", "tokens of a run", integerOption("--new-tokens", 1, mostTokens), 64)
    .option("-d, --depth <n,…>", "tokens of context before the first", integersOption("--depth", 0), [0, 1024])
    .action(async (presets: readonly SyntheticPreset[] | undefined, options: HostCommandOptions) => {
      await host(presets?.length ? presets : ["phi-2", "phi-3-mini-4k"], options);
    });
}
