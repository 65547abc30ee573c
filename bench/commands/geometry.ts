/** `bench geometry`: options, and what is opened, measured and reported. */
import type { Command } from "commander";
import { integerOption } from "../../cli/options.ts";
import { benchGeometry } from "../geometry.ts";
import { type BenchTable, environmentOf } from "../report.ts";
import { type SyntheticPreset, syntheticPresets } from "../synthetic.ts";
import { anotherAdapter, onProgress, openWorkingAdapter, presetArgument, report } from "./shared.ts";

interface GeometryCommandOptions {
  readonly adapter?: string;
  readonly layers: number;
  readonly promptTokens: number;
  readonly json?: string;
}

async function geometry(
  presets: readonly SyntheticPreset[],
  options: GeometryCommandOptions,
  signal: AbortSignal,
): Promise<void> {
  const opened = await openWorkingAdapter(options.adapter);
  if (opened === undefined) return;
  try {
    const environment = environmentOf(opened);
    const tables: BenchTable[] = [];
    for (const preset of presets) {
      const { layers, promptTokens } = options;
      const adapter = await anotherAdapter(opened);
      const figures = await benchGeometry({ preset, adapter, layers, promptTokens, signal, onProgress });
      tables.push({ command: "geometry", model: `${preset}, ${layers} of its layers`, settings: "f16 cache", figures });
    }
    await report(tables, environment, options.json);
  } finally {
    opened.release();
  }
}

/** Declares `bench geometry`. */
export function declareGeometry(command: Command, signal: AbortSignal): void {
  command
    .description("that published models run: their real width, random weights, a few layers, a prompt and a token")
    .argument("[presets...]", `of ${syntheticPresets.join(", ")} (default: all)`, presetArgument)
    .option("--layers <n>", "layers", integerOption("--layers", 1, 1000), 1)
    .option("-p, --prompt-tokens <n>", "tokens of the prompt", integerOption("--prompt-tokens", 1, 1000), 8)
    .option("--adapter <name>", "a part of an adapter's name, or swiftshader (also PHI_ADAPTER)")
    .option("--json <file>", "write the figures there too")
    .action(async (presets: readonly SyntheticPreset[] | undefined, options: GeometryCommandOptions) => {
      await geometry(presets?.length ? presets : syntheticPresets, options, signal);
    });
}
