/** `bench kernels`: options, and what is opened, measured and reported. */
import { writeFile } from "node:fs/promises";
import type { Command } from "commander";
import { activationFormats, integerOption, kvFormats } from "../../cli/options.ts";
import type { ActivationFormat, KvFormat } from "../../engine/index.ts";
import { type WeightLayout, weightLayouts } from "../../kernels/weights/weights.ts";
import { benchKernels } from "../kernels.ts";
import { environmentOf } from "../report.ts";
import { rooflineSvg } from "../roofline.ts";
import { type SyntheticPreset, syntheticPresets } from "../synthetic.ts";
import { choicesOption, integersOption, onProgress, openWorkingAdapter, report } from "./shared.ts";

interface KernelsCommandOptions {
  readonly repetitions: number;
  readonly models: readonly SyntheticPreset[];
  readonly layouts: readonly WeightLayout[];
  readonly kv: readonly KvFormat[];
  readonly activations: readonly ActivationFormat[];
  readonly tokens: readonly number[];
  readonly contexts: readonly number[];
  readonly only?: string;
  readonly adapter?: string;
  readonly json?: string;
  readonly svg?: string;
}

const layouts = Object.keys(weightLayouts) as readonly WeightLayout[];

async function kernels(options: KernelsCommandOptions): Promise<void> {
  const opened = await openWorkingAdapter(options.adapter);
  if (opened === undefined) return;
  try {
    const environment = environmentOf(opened);
    const { figures, roofline } = await benchKernels(opened.adapter, { ...options, onProgress });
    const table = { command: "kernels", model: options.models.join(", "), settings: "random weights", figures };
    await report([table], environment, options.json);
    const { adapter, commit } = environment;
    if (options.svg !== undefined) await writeFile(options.svg, rooflineSvg(`${adapter}, commit ${commit}`, roofline));
  } finally {
    opened.release();
  }
}

/** Declares `bench kernels`. */
export function declareKernels(command: Command): void {
  command
    .description(
      "every kernel at the sizes of real models: checked, then GB/s or GFLOP/s and the share of the adapter's own",
    )
    .option("-n, --repetitions <n>", "timed runs", integerOption("--repetitions", 1, 1000), 5)
    .option("--models <name,…>", `of ${syntheticPresets.join(", ")}`, choicesOption("--models", syntheticPresets), [
      "smollm2",
    ])
    .option("--layouts <name,…>", `of ${layouts.join(", ")}`, choicesOption("--layouts", layouts), ["q4", "f16"])
    .option("--kv <type,…>", `of ${kvFormats.join(", ")}`, choicesOption("--kv", kvFormats), ["f16", "int8"])
    .option(
      "--activations <type,…>",
      `of linears on integer weights: ${activationFormats.join(", ")}`,
      choicesOption("--activations", activationFormats),
      ["f32"],
    )
    .option("-t, --tokens <n,…>", "tokens of a call", integersOption("--tokens", 1), [1, 128])
    .option("-d, --contexts <n,…>", "positions that attention sees", integersOption("--contexts", 1), [512, 2048, 4096])
    .option("--only <text>", "kernels whose name holds this")
    .option("--adapter <name>", "a part of an adapter's name or swiftshader (also PHI_ADAPTER)")
    .option("--json <file>", "write every sample there too")
    .option("--svg <file>", "write a roofline plot there")
    .action(kernels);
}
