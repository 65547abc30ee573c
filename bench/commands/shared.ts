/** What the benches take in common, how they open what they measure, and how they report. */
import { writeFile } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { type Command, Option } from "commander";
import { openAdapterOrRestart } from "../../cli/adapter.ts";
import { openModelFolder } from "../../cli/model.ts";
import {
  activationFormats,
  choiceOption,
  groupSizes,
  integerOption,
  kvFormats,
  numberChoiceOption,
  weightTypes,
} from "../../cli/options.ts";
import { print } from "../../cli/output.ts";
import { loadOptions } from "../../cli/run.ts";
import {
  type ActivationFormat,
  type GroupSize,
  type KvFormat,
  loadModel,
  type Model,
  PhiError,
  printable,
  type WeightType,
} from "../../engine/index.ts";
import type { OpenedAdapter } from "../../library/adapter.ts";
import { type BenchTable, type Environment, environmentOf, type Figure, tableJson, tableText } from "../report.ts";
import { type SyntheticPreset, syntheticPresets } from "../synthetic.ts";

export interface CommonOptions {
  readonly kv: KvFormat;
  readonly context?: number;
  readonly repetitions: number;
  readonly json?: string;
}

export interface ModelOptions extends CommonOptions {
  readonly model?: string;
  readonly adapter?: string;
  readonly quantize?: WeightType;
  readonly groupSize?: GroupSize;
  readonly activations?: ActivationFormat;
}

export const mostTokens = 2 ** 31 - 1;

export function integersOption(option: string, from: number): (text: string) => readonly number[] {
  const read = integerOption(option, from, mostTokens);
  return (text) => text.split(",").map((part) => read(part.trim()));
}

export function choicesOption<Name extends string>(
  option: string,
  names: readonly Name[],
): (text: string) => readonly Name[] {
  const read = choiceOption(option, names);
  return (text) => text.split(",").map((part) => read(part.trim()));
}

export function common(command: Command, repetitions: number): Command {
  return command
    .option("-n, --repetitions <n>", "timed runs", integerOption("--repetitions", 1, 1000), repetitions)
    .addOption(
      new Option("--kv <type>", `type of the key-value cache: ${kvFormats.join(", ")}`)
        .default("f16")
        .argParser(choiceOption("--kv", kvFormats)),
    )
    .option("--context <n>", "positions the cache holds", integerOption("--context", 1, mostTokens))
    .option("--json <file>", "write every sample there too");
}

export function withModel(command: Command, repetitions: number): Command {
  return common(command, repetitions)
    .option("-m, --model <dir>", "checkpoint folder (default: the bundled phi-tiny)")
    .option("--adapter <name>", "a part of an adapter's name, swiftshader, or null (also PHI_ADAPTER)");
}

export function withQuantize(command: Command): Command {
  return command
    .addOption(
      new Option("--quantize <type>", "what float weights become while they are loaded")
        .choices(weightTypes)
        .argParser(choiceOption("--quantize", weightTypes)),
    )
    .option("--group-size <n>", "weights that share a scale", numberChoiceOption("--group-size", groupSizes));
}

export function withActivations(command: Command): Command {
  return command.addOption(
    new Option("--activations <type>", "what linears on integer weights make of their input")
      .choices(activationFormats)
      .argParser(choiceOption("--activations", activationFormats)),
  );
}

/** A table's settings: weights, activations and cache. */
export function settingsOf(
  { kv, quantize = "none", groupSize = 32, activations = "f32" }: ModelOptions,
  context: number,
): string {
  const weights = quantize === "none" ? "weights as stored" : `${quantize}, groups of ${groupSize}`;
  return `${weights}${activations === "f32" ? "" : `, ${activations} activations`}, ${kv} cache of ${context} positions`;
}

export const onProgress = (text: string) => void process.stderr.write(`${printable(text)} …\n`);

export async function report(tables: readonly BenchTable[], environment: Environment, file: string | undefined) {
  const text = tableText(tables, environment);
  if (environment.loadAverage > 0.5) {
    const load = environment.loadAverage.toFixed(1);
    process.stderr.write(`note: this machine was busy (load average ${load}): the figures are not the engine's best\n`);
  }
  if (file !== undefined) await writeFile(file, tableJson(tables, environment));
  await print(text);
}

export function modelName(folderName: string): string {
  return basename(resolve(folderName));
}

/** The adapter that is to compute; undefined where another process has taken over (SwiftShader). */
export async function openWorkingAdapter(option: string | undefined): Promise<OpenedAdapter | undefined> {
  const opened = await openAdapterOrRestart(option);
  if (opened?.backend !== "null") return opened;
  opened.release();
  throw new PhiError("usage", "--adapter: expected one that computes, got null", [
    "The null backend does no GPU work; bench host measures on it.",
  ]);
}

/** Loads the model, measures, reports. */
export async function onModel(
  command: string,
  options: ModelOptions,
  measure: (model: Model, opened: OpenedAdapter) => Promise<readonly Figure[]>,
  signal: AbortSignal,
): Promise<void> {
  const folder = await openModelFolder(options.model);
  const opened = await openWorkingAdapter(options.adapter);
  if (opened === undefined) return;
  const environment = environmentOf(opened);
  onProgress(`loading ${modelName(folder.name)}`);
  try {
    const { adapter } = opened;
    const model = await loadModel({ folder, adapter, signal, ...loadOptions(options) });
    try {
      const figures = await measure(model, opened);
      const subject = {
        command,
        model: `${modelName(folder.name)}, ${model.architecture}`,
        settings: settingsOf(options, model.context),
      };
      await report([{ ...subject, figures }], environment, options.json);
    } finally {
      model.dispose();
    }
  } finally {
    opened.release();
  }
}

export async function anotherAdapter({ gpu }: OpenedAdapter): Promise<GPUAdapter> {
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null) throw new PhiError("machine", "the adapter cannot be opened once more");
  return adapter;
}

export function presetArgument(
  text: string,
  previous: readonly SyntheticPreset[] | undefined,
): readonly SyntheticPreset[] {
  return [...(previous ?? []), choiceOption("preset", syntheticPresets)(text)];
}
