/** `npm run bench -- COMMAND`: measures this engine on this machine. Tables on stdout, progress on stderr. */
import { createReadStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { Command, CommanderError, Option } from "commander";
import { openAdapterOrRestart } from "../cli/adapter.ts";
import { readText } from "../cli/input.ts";
import { openModelFolder } from "../cli/model.ts";
import {
  activationFormats,
  choiceOption,
  groupSizes,
  integerOption,
  kvFormats,
  numberChoiceOption,
  weightTypes,
} from "../cli/options.ts";
import { note, print } from "../cli/output.ts";
import { cacheFolder } from "../cli/package.ts";
import { reportFailure, watchProcess } from "../cli/process.ts";
import { loadOptions } from "../cli/run.ts";
import {
  type ActivationFormat,
  describeCheckpoint,
  exitCodes,
  type GroupSize,
  type KvFormat,
  loadModel,
  type Model,
  openCheckpoint,
  PhiError,
  printable,
  type WeightType,
} from "../engine/index.ts";
import { readArchitecture } from "../engine/models/table.ts";
import { type WeightLayout, weightLayouts } from "../kernels/weights/weights.ts";
import { type OpenedAdapter, openAdapter } from "../library/adapter.ts";
import { loadTokenizer } from "../library/index.ts";
import { benchAttention } from "./attention.ts";
import { benchGeometry } from "./geometry.ts";
import { benchHost } from "./host.ts";
import { benchKernels, measureComputeRate, measureCopyRate } from "./kernels.ts";
import { benchLoad } from "./load.ts";
import { collectGarbage, touchMemory } from "./memory.ts";
import { benchPeers, peersText } from "./peers/compare.ts";
import { peerFolders, setUp } from "./peers/setup.ts";
import {
  benchQuantization,
  type ConfigurationName,
  configurationNames,
  quantizationFigures,
  quantizationTable,
} from "./quantization.ts";
import {
  type BenchTable,
  type Environment,
  environmentLines,
  environmentOf,
  type Figure,
  tableJson,
  tableText,
} from "./report.ts";
import { rooflineSvg } from "./roofline.ts";
import { benchSoak } from "./soak.ts";
import { type SyntheticPreset, syntheticPresets } from "./synthetic.ts";
import { benchDecode, benchPrefill } from "./text.ts";
import { promptWork } from "./work.ts";

interface CommonOptions {
  readonly kv: KvFormat;
  readonly context?: number;
  readonly repetitions: number;
  readonly json?: string;
}

interface ModelOptions extends CommonOptions {
  readonly model?: string;
  readonly adapter?: string;
  readonly quantize?: WeightType;
  readonly groupSize?: GroupSize;
  readonly activations?: ActivationFormat;
}

const mostTokens = 2 ** 31 - 1;

function integersOption(option: string, from: number): (text: string) => readonly number[] {
  const read = integerOption(option, from, mostTokens);
  return (text) => text.split(",").map((part) => read(part.trim()));
}

function choicesOption<Name extends string>(option: string, names: readonly Name[]): (text: string) => readonly Name[] {
  const read = choiceOption(option, names);
  return (text) => text.split(",").map((part) => read(part.trim()));
}

function common(command: Command, repetitions: number): Command {
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

function withModel(command: Command, repetitions: number): Command {
  return common(command, repetitions)
    .option("-m, --model <dir>", "checkpoint folder (default: the bundled phi-tiny)")
    .option("--adapter <name>", "a part of an adapter's name, swiftshader, or null (also PHI_ADAPTER)");
}

function withQuantize(command: Command): Command {
  return command
    .addOption(
      new Option("--quantize <type>", "what float weights become while they are loaded")
        .choices(weightTypes)
        .argParser(choiceOption("--quantize", weightTypes)),
    )
    .option("--group-size <n>", "weights that share a scale", numberChoiceOption("--group-size", groupSizes));
}

function withActivations(command: Command): Command {
  return command.addOption(
    new Option("--activations <type>", "what linears on integer weights make of their input")
      .choices(activationFormats)
      .argParser(choiceOption("--activations", activationFormats)),
  );
}

/** A table's settings: weights, activations and cache. */
function settingsOf(
  { kv, quantize = "none", groupSize = 32, activations = "f32" }: ModelOptions,
  context: number,
): string {
  const weights = quantize === "none" ? "weights as stored" : `${quantize}, groups of ${groupSize}`;
  return `${weights}${activations === "f32" ? "" : `, ${activations} activations`}, ${kv} cache of ${context} positions`;
}

const onProgress = (text: string) => void process.stderr.write(`${printable(text)} …\n`);

async function report(tables: readonly BenchTable[], environment: Environment, file: string | undefined) {
  const text = tableText(tables, environment);
  if (environment.loadAverage > 0.5) {
    const load = environment.loadAverage.toFixed(1);
    process.stderr.write(`note: this machine was busy (load average ${load}): the figures are not the engine's best\n`);
  }
  if (file !== undefined) await writeFile(file, tableJson(tables, environment));
  await print(text);
}

function modelName(folderName: string): string {
  return basename(resolve(folderName));
}

/** The adapter that is to compute; undefined where another process has taken over (SwiftShader). */
async function openWorkingAdapter(option: string | undefined): Promise<OpenedAdapter | undefined> {
  const opened = await openAdapterOrRestart(option);
  if (opened?.backend !== "null") return opened;
  opened.release();
  throw new PhiError("usage", "--adapter: expected one that computes, got null", [
    "The null backend does no GPU work; bench host measures on it.",
  ]);
}

/** Loads the model, measures, reports. */
async function onModel(
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

async function anotherAdapter({ gpu }: OpenedAdapter): Promise<GPUAdapter> {
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null) throw new PhiError("machine", "the adapter cannot be opened once more");
  return adapter;
}

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

interface AttentionCommandOptions {
  readonly adapter?: string;
  readonly positions: readonly number[];
  readonly tokens: readonly number[];
  readonly repetitions: number;
  readonly json?: string;
}

async function attention(options: AttentionCommandOptions): Promise<void> {
  const opened = await openWorkingAdapter(options.adapter);
  if (opened === undefined) return;
  try {
    const environment = environmentOf(opened);
    const figures = await benchAttention(opened.adapter, { ...options, onProgress });
    const settings = "f16 cache, random keys and values";
    await report(
      [{ command: "attention", model: "phi-3-small, a layer", settings, figures }],
      environment,
      options.json,
    );
  } finally {
    opened.release();
  }
}

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

interface QuantizationCommandOptions {
  readonly model?: string;
  readonly adapter?: string;
  readonly text: string;
  readonly context?: number;
  readonly windows?: number;
  readonly json?: string;
}

async function quantization(
  names: readonly ConfigurationName[],
  options: QuantizationCommandOptions,
  signal: AbortSignal,
): Promise<void> {
  const folder = await openModelFolder(options.model);
  const tokenizer = await loadTokenizer(folder);
  const text = await readText(createReadStream(options.text), false, signal, options.text);
  const ids = tokenizer.encode(text, { addSpecialTokens: true });
  const opened = await openWorkingAdapter(options.adapter);
  if (opened === undefined) return;
  try {
    const environment = environmentOf(opened);
    const rows = await benchQuantization({
      names,
      async open(configuration) {
        const adapter = await anotherAdapter(opened);
        const { context } = options;
        return loadModel({ folder, adapter, ...configuration, signal, ...(context !== undefined && { context }) });
      },
      ids,
      window: options.context,
      maxWindows: options.windows,
      signal,
      onProgress,
    });
    const [base] = rows;
    if (base === undefined) return;
    const { tokens, windows, window } = base.evaluation;
    const settings = `${tokens} tokens of ${basename(options.text)}, windows of ${window}: ${windows}`;
    const model = modelName(folder.name);
    const tables = rows.map((row) => ({
      command: "quantization",
      model: `${model}, ${row.name}`,
      settings,
      figures: quantizationFigures(row),
    }));
    if (options.json !== undefined) await writeFile(options.json, tableJson(tables, environment));
    await print(`${environmentLines(environment).join("\n")}\n\n${model}; ${settings}\n\n${quantizationTable(rows)}`);
  } finally {
    opened.release();
  }
}

interface PeersCommandOptions {
  readonly model: string;
  readonly peers: string;
  readonly setup?: boolean;
  readonly only: readonly string[];
  readonly rounds: number;
  readonly newTokens: number;
  readonly promptTokens: number;
  readonly timeout: number;
  readonly json?: string;
}

async function peers(options: PeersCommandOptions, signal: AbortSignal): Promise<void> {
  const { model: checkpoint, peers: root } = options;
  if (options.setup) {
    const failures = await setUp({ peers: peerFolders, root, checkpoint, signal, onProgress });
    for (const failure of failures) note(failure);
    return;
  }
  const opened = await openWorkingAdapter(undefined);
  if (opened === undefined) return;
  try {
    const environment = environmentOf(opened);
    const { rounds, newTokens, promptTokens, timeout, only } = options;
    const amounts = { rounds, newTokens, promptTokens, timeoutS: timeout };
    const { adapter } = opened;
    const messages = { onProgress, onNote: note };
    const compared = await benchPeers({
      ...amounts,
      ...messages,
      checkpoint,
      root,
      only,
      adapter,
      environment,
      signal,
    });
    if (options.json !== undefined) {
      await writeFile(options.json, tableJson([...compared.engines, ...compared.ratios], environment));
    }
    await print(peersText(compared, environment));
  } finally {
    opened.release();
  }
}

function configurationArgument(text: string, previous: readonly ConfigurationName[] | undefined) {
  return [...(previous ?? []), choiceOption("configuration", configurationNames)(text)];
}

function presetArgument(text: string, previous: readonly SyntheticPreset[] | undefined): readonly SyntheticPreset[] {
  return [...(previous ?? []), choiceOption("preset", syntheticPresets)(text)];
}

function program(signal: AbortSignal, startBytes: number): Command {
  const bench = new Command("bench").description("measures this engine on this machine").helpCommand(true);

  withActivations(withQuantize(withModel(bench.command("decode"), 3)))
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

  withActivations(withQuantize(withModel(bench.command("prefill"), 3)))
    .description("tokens per second of a prompt")
    .option("-p, --prompt-tokens <n,…>", "tokens of the prompt", integersOption("--prompt-tokens", 1), [512])
    .action(async (options: ModelOptions & { promptTokens: readonly number[] }) => {
      await prefill(options, signal);
    });

  withQuantize(withModel(bench.command("load"), 1))
    .description("time and host memory from the files to the GPU and to the first token")
    .option("-g, --new-tokens <n>", "tokens to generate then", integerOption("--new-tokens", 1, mostTokens), 1)
    .action(async (options: LoadCommandOptions) => load({ ...options, context: options.context ?? 128 }, startBytes));

  withModel(bench.command("soak"), 1)
    .description("many generations, loads and callers in one process: memory, buffers and texts stay the same")
    .option("--generations <n>", "on one model", integerOption("--generations", 1, mostTokens), 10_000)
    .option("--loads <n>", "of a model, one after the other", integerOption("--loads", 0, mostTokens), 100)
    .option("--concurrent <n>", "generations at once", integerOption("--concurrent", 1, 1000), 20)
    .option("--repeats <n>", "runs of the same 256 tokens", integerOption("--repeats", 0, 100_000), 100)
    .action(soak);

  bench
    .command("kernels")
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

  bench
    .command("attention")
    .description("phi-3-small's block-sparse layers against its dense ones: time of a layer's attention")
    .option("-n, --repetitions <n>", "timed runs", integerOption("--repetitions", 1, 1000), 5)
    .option("-p, --positions <n,…>", "length of the sequence", integersOption("--positions", 1), [4096, 8192])
    .option("-t, --tokens <n,…>", "tokens of a call, its last ones", integersOption("--tokens", 1), [1, 16])
    .option("--adapter <name>", "a part of an adapter's name or swiftshader (also PHI_ADAPTER)")
    .option("--json <file>", "write every sample there too")
    .action(attention);

  common(bench.command("host"), 5)
    .description("host time per decoded token, on Dawn's null backend, with real geometry and no weights")
    .argument("[presets...]", `of ${syntheticPresets.join(", ")} (default: phi-2 phi-3-mini-4k)`, presetArgument)
    .option("--layers <n>", "layers instead of the model's own number", integerOption("--layers", 1, 1000))
    .option("-g, --new-tokens <n>", "tokens of a run", integerOption("--new-tokens", 1, mostTokens), 64)
    .option("-d, --depth <n,…>", "tokens of context before the first", integersOption("--depth", 0), [0, 1024])
    .action(async (presets: readonly SyntheticPreset[] | undefined, options: HostCommandOptions) => {
      await host(presets?.length ? presets : ["phi-2", "phi-3-mini-4k"], options);
    });

  bench
    .command("geometry")
    .description("that published models run: their real width, random weights, a few layers, a prompt and a token")
    .argument("[presets...]", `of ${syntheticPresets.join(", ")} (default: all)`, presetArgument)
    .option("--layers <n>", "layers", integerOption("--layers", 1, 1000), 1)
    .option("-p, --prompt-tokens <n>", "tokens of the prompt", integerOption("--prompt-tokens", 1, 1000), 8)
    .option("--adapter <name>", "a part of an adapter's name, or swiftshader (also PHI_ADAPTER)")
    .option("--json <file>", "write the figures there too")
    .action(async (presets: readonly SyntheticPreset[] | undefined, options: GeometryCommandOptions) => {
      await geometry(presets?.length ? presets : syntheticPresets, options, signal);
    });

  bench
    .command("quantization")
    .description(
      "perplexity, divergence and bytes of the quantized forms of a model, against the model as it is stored",
    )
    .argument("[configurations...]", `of ${configurationNames.join(", ")} (default: all)`, configurationArgument)
    .requiredOption("--text <file>", "the text, UTF-8")
    .option("-m, --model <dir>", "checkpoint folder (default: the bundled phi-tiny)")
    .option("--adapter <name>", "a part of an adapter's name, or swiftshader (also PHI_ADAPTER)")
    .option("--context <n>", "tokens of a window", integerOption("--context", 1, mostTokens))
    .option("--windows <n>", "at most this many windows", integerOption("--windows", 1, mostTokens))
    .option("--json <file>", "write the figures there too")
    .action(async (names: readonly ConfigurationName[] | undefined, options: QuantizationCommandOptions) => {
      await quantization(names?.length ? names : configurationNames, options, signal);
    });

  bench
    .command("peers")
    .description(
      "other engines beside ours, in turn, on this adapter and the same weights; --setup installs them first",
    )
    .requiredOption("-m, --model <dir>", "folder of SmolLM2 as a Phi-3 checkpoint")
    .option("--peers <dir>", "where the peers are installed", join(cacheFolder(), "peers"))
    .option("--setup", "install what is missing there from the package registries, and measure nothing")
    .option("--only <name,…>", "engines whose names hold one of these", (text) => text.split(","), [""])
    .option("-n, --rounds <n>", "in which each engine runs once", integerOption("--rounds", 1, 1000), 3)
    .option("-g, --new-tokens <n>", "tokens of a run", integerOption("--new-tokens", 1, mostTokens), 16)
    .option("-p, --prompt-tokens <n>", "tokens of the prompt", integerOption("--prompt-tokens", 1, mostTokens), 512)
    .option("--timeout <s>", "seconds that a run may take", integerOption("--timeout", 1, 100_000), 900)
    .option("--json <file>", "write every sample there too")
    .action(async (options: PeersCommandOptions) => peers(options, signal));

  const outputError = (text: string, write: (text: string) => void) =>
    write(`${text.trimEnd().split("\n").map(printable).join("\n")}\n`);
  for (const command of [bench, ...bench.commands]) {
    if (command !== bench) command.option("--debug", "a stack trace with every error");
    command.exitOverride().configureOutput({ outputError });
  }
  return bench;
}

async function main(): Promise<void> {
  const startBytes = process.memoryUsage.rss();
  const debug = process.argv.includes("--debug");
  const signal = watchProcess(debug);
  try {
    await program(signal, startBytes).parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : exitCodes.usage;
    else if (!signal.aborted) process.exitCode = reportFailure(error, debug);
  }
  // All text is out before the process ends, whatever Dawn's threads still hold.
  await new Promise((resolve) => process.stdout.write("", resolve));
  process.exit();
}

await main();
