/** Loading a model, and the model: the calls that run it on one device. */

import type { KvFormat } from "../kernels/attention/kv/kv.ts";
import type { ActivationFormat } from "../kernels/linear/linear.ts";
import { type CheckedKernels, checkGeneration, type KernelCheck, prepareKernels } from "./check/selfcheck.ts";
import { type TuneKernelsOptions, type TuneReport, tuneKernels } from "./check/tune.ts";
import { PhiError } from "./errors.ts";
import { type Checkpoint, openCheckpoint } from "./files/checkpoint.ts";
import { type GenerationDefaults, readGenerationDefaults } from "./files/generation.ts";
import type { Folder } from "./files/source.ts";
import { type GeneratedToken, type GenerateOptions, type GenerationResult, generate } from "./generation/generate.ts";
import { type Rows, Sequence, type TraceRows } from "./generation/sequence.ts";
import { Device, type DeviceOptions } from "./gpu/device.ts";
import type { ProfiledDispatch } from "./gpu/profile.ts";
import { explain } from "./graph/plan.ts";
import { tileRowsFor } from "./graph/sizes.ts";
import { type Architecture, declareWeights } from "./models/architecture.ts";
import { type RopePolicy, withRopePolicy } from "./models/rope.ts";
import { readArchitecture } from "./models/table.ts";
import { checkContext, checkContextBindings, chunkFor } from "./run/context.ts";
import { Runtime } from "./run/runtime.ts";
import { checkActivations, checkIntegerDot } from "./weights/activations.ts";
import { type CheckedWeights, checkWeights } from "./weights/check.ts";
import { type QuantizeOptions, quantizeTargets } from "./weights/quantize.ts";
import { uploadWeights } from "./weights/upload.ts";

export interface LoadProgress {
  readonly stage: "headers" | "weights" | "pipelines";
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface LoadOptions {
  /** The checkpoint: `openFolder(path)` on Node, `httpFolder(url)` in a browser. */
  readonly folder: Folder;
  readonly adapter: GPUAdapter;
  /** Positions of the cache; default: what the model was trained for, at most 4096. */
  readonly context?: number;
  /** What the cache keeps its numbers in; default f16. */
  readonly kv?: KvFormat;
  /** What linears on integer weights make of their input; default f32, which leaves it as it is. */
  readonly activations?: ActivationFormat;
  /** Which of longrope's factors apply; default `hf-exact`. */
  readonly rope?: RopePolicy;
  /** Quantize what the files hold as floats; default: keep their bits. */
  readonly quantize?: QuantizeOptions;
  /** Tokens that are prefilled at a time; the default depends on the adapter and on the model's size. */
  readonly chunkTokens?: number;
  /** Load weights that are NaN or infinite, which are refused by default. */
  readonly allowNonFinite?: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: LoadProgress) => void;
  /**
   * Which kernels are known to compute right numbers on this adapter. Where it is given, the others are checked while
   * the weights are read, and a plainer kernel takes the place of one that fails.
   */
  readonly checked?: CheckedKernels;
  /** Sizes that were measured for this adapter (`tuneModel`), from wherever they were kept: what makes no sense counts for nothing. */
  readonly tuned?: unknown;
  /** Fault injection, the watchdog, profiles, optional features. */
  readonly device?: DeviceOptions;
}

export interface ModelMemory {
  readonly weightsBytes: number;
  readonly kvBytes: number;
  /** Activations, tables and staging. */
  readonly arenaBytes: number;
}

/** A model on a GPU. Calls are served one after the other. `dispose` it. */
export interface Model {
  /** e.g. `Phi3ForCausalLM` */
  readonly architecture: string;
  /** Positions that prompt and new tokens share. */
  readonly context: number;
  readonly vocabularySize: number;
  readonly bosId: number | undefined;
  readonly eosIds: readonly number[];
  readonly generationDefaults: GenerationDefaults;
  readonly notes: readonly string[];
  readonly adapterName: string;
  /** Generates after the prompt `ids`; yields each new token. `next(true)` ends it there. */
  generate(
    ids: readonly number[],
    options: GenerateOptions,
  ): AsyncGenerator<GeneratedToken, GenerationResult, boolean | undefined>;
  /** Logits [rows, vocab] of every position of `ids`, some positions at a time. */
  logits(ids: readonly number[], options?: { signal?: AbortSignal }): AsyncGenerator<Rows, void, undefined>;
  /** The residual stream after each layer and the logits, for comparison with a reference. */
  trace(ids: readonly number[], options?: { signal?: AbortSignal }): AsyncGenerator<TraceRows, void, undefined>;
  /** The plans as text. */
  explain(): string;
  /** The kernels in a size that was measured (`LoadOptions.tuned`), by name. */
  readonly tunedKernels: readonly string[];
  /** Pipelines, and the time that the driver took to make them. Software drivers compile them when they are first run. */
  pipelines(): { readonly count: number; readonly compileMs: number };
  /** Every dispatch so far, where the device was opened for a profile (`device: { profile: true }`). */
  profile(): readonly ProfiledDispatch[];
  memory(): ModelMemory;
  /** Buffers that are alive on the device, and the most bytes that were. */
  ledger(): Device["ledger"];
  /** Frees everything on the GPU; a call that runs ends with an error. */
  dispose(): void;
}

/**
 * Loads a checkpoint: everything is judged from JSON and headers before the first GPU buffer is made, then the weights
 * are streamed. Throws a PhiError of kind "checkpoint", "usage", "machine", "gpu", "io" or "aborted".
 */
export async function loadModel(options: LoadOptions): Promise<Model> {
  return modelOf(await openModel(options));
}

/** A model that is ready to run, with the sequence that its calls run in. */
interface OpenedModel {
  readonly runtime: Runtime;
  readonly sequence: Sequence;
  readonly defaults: GenerationDefaults;
  readonly notes: readonly string[];
  /** What is to be said of kernels that computed wrong numbers and were replaced. */
  readonly replaced: readonly string[];
}

/** A checkpoint that was judged and fits together; nothing of it is on a GPU. */
interface JudgedCheckpoint {
  readonly architecture: Architecture;
  readonly defaults: GenerationDefaults;
  readonly weights: CheckedWeights;
  readonly activations: ActivationFormat;
}

async function judge(checkpoint: Checkpoint, options: LoadOptions): Promise<JudgedCheckpoint> {
  const published = readArchitecture(checkpoint.config);
  const architecture = { ...published, rope: withRopePolicy(published.rope, options.rope) };
  const defaults = readGenerationDefaults(checkpoint.config, checkpoint.generationConfig, architecture.vocab);
  const quantize = quantizeTargets(architecture, options.quantize);
  const weights = await checkWeights(checkpoint, architecture, declareWeights(architecture), quantize);
  return { architecture, defaults, weights, activations: checkActivations(options.activations, weights) };
}

/** `loadModel`, with what is inside the model. The caller disposes its device. */
async function openModel(options: LoadOptions): Promise<OpenedModel> {
  const { folder, adapter, signal, onProgress } = options;
  const kv = options.kv ?? "f16";
  onProgress?.({ stage: "headers", doneBytes: 0, totalBytes: 0 });
  const checkpoint = await openCheckpoint(folder);
  try {
    const { architecture, defaults, weights, activations } = await judge(checkpoint, options);
    const context = checkContext(options.context, architecture);
    if (signal?.aborted) throw new PhiError("aborted", "loading was stopped");

    const device = await Device.open(adapter, options.device);
    try {
      await checkIntegerDot(device, activations);
      const chunkTokens = Math.min(context, options.chunkTokens ?? chunkFor(device, weights, architecture));
      checkContextBindings(device, architecture, kv, { context, chunkTokens });
      const { tuned } = options;
      const runtime = new Runtime(device, architecture, weights, { kv, activations, context, chunkTokens, tuned });
      const sequence = new Sequence(runtime); // before the weights: what does not fit is known at once
      const uploaded = uploadWeights(device, checkpoint, weights, {
        signal,
        allowNonFinite: options.allowNonFinite,
        tileRows: tileRowsFor(device),
        onProgress: (doneBytes, totalBytes) => onProgress?.({ stage: "weights", doneBytes, totalBytes }),
      });
      // Pipelines compile while the weights stream in.
      const [gpuWeights, replaced] = await Promise.all([uploaded, prepareKernels(runtime, options.checked)]);
      runtime.attach(gpuWeights);
      await sequence.bind();
      const notes = [...checkpoint.notes, ...weights.notes, ...defaults.notes];
      return { runtime, sequence, defaults, notes, replaced };
    } catch (error) {
      device.dispose();
      throw error;
    }
  } finally {
    await checkpoint.close();
  }
}

/** What `checkKernels` found. */
export interface KernelReport {
  readonly adapterName: string;
  readonly checks: readonly KernelCheck[];
  /** Kernels without a reference. */
  readonly unchecked: readonly string[];
  /** Kernels in a size that was measured. */
  readonly tuned: readonly string[];
}

/**
 * Checks every kernel that a model would run on an adapter, with the options that it would be loaded with. No weight is
 * read. Throws as `loadModel` does for the checkpoint and the device.
 */
export async function checkKernels(options: LoadOptions): Promise<KernelReport> {
  const checkpoint = await openCheckpoint(options.folder);
  let device: Device | undefined;
  try {
    const { architecture, weights, activations } = await judge(checkpoint, options);
    device = await Device.open(options.adapter, options.device);
    await checkIntegerDot(device, activations);
    const context = Math.min(16, architecture.maxPositions); // no position is run
    const { kv = "f16", tuned } = options;
    const sizes = { context, chunkTokens: context };
    const runtime = new Runtime(device, architecture, weights, { kv, activations, ...sizes, tuned });
    const { checks, right, unchecked } = await checkGeneration(runtime, () => true);
    options.checked?.add(right);
    return { adapterName: device.adapterName, checks, unchecked, tuned: runtime.tunedKernels };
  } finally {
    device?.dispose();
    await checkpoint.close();
  }
}

export interface TuneOptions extends Omit<LoadOptions, "tuned">, Omit<TuneKernelsOptions, "signal"> {}

/**
 * Loads a model and measures which sizes of its kernels are fastest (check/tune.ts). Throws as `loadModel` and
 * `tuneKernels` do.
 */
export async function tuneModel(options: TuneOptions): Promise<TuneReport> {
  const began = performance.now();
  const { runtime, sequence, notes, replaced } = await openModel(options);
  try {
    const [wrong] = replaced;
    if (wrong !== undefined) throw new PhiError("gpu", `${wrong}: there is nothing to tune`);
    return { ...(await tuneKernels(sequence, options)), notes, seconds: (performance.now() - began) / 1000 };
  } finally {
    runtime.device.dispose();
  }
}

function memoryOf({ runtime, sequence }: OpenedModel): ModelMemory {
  const { weightsBytes } = runtime;
  const { kvBytes } = sequence;
  return { weightsBytes, kvBytes, arenaBytes: runtime.device.ledger.bytes - weightsBytes - kvBytes };
}

function modelOf(opened: OpenedModel): Model {
  const { runtime, sequence, defaults, notes, replaced } = opened;
  const { architecture, device, options, pipelines } = runtime;
  return {
    architecture: architecture.name,
    context: options.context,
    vocabularySize: architecture.vocab,
    bosId: defaults.bosId,
    eosIds: defaults.eosIds,
    generationDefaults: defaults,
    notes: [...notes, ...replaced],
    adapterName: device.adapterName,
    tunedKernels: runtime.tunedKernels,
    generate: (ids, options) => generate(sequence, ids, options, defaults.eosIds),
    async *logits(ids, options = {}) {
      for await (const { firstPosition, rows, values } of sequence.every("all", ids, options.signal)) {
        yield { firstPosition, rows, values: values.get("logits") ?? new Float32Array() };
      }
    },
    trace: (ids, options = {}) => sequence.every("trace", ids, options.signal),
    explain: () => [explain(runtime.plan("prefill")), explain(runtime.plan("decode"))].join("\n\n"),
    pipelines: () => ({ count: pipelines.compiled, compileMs: pipelines.compileMs }),
    profile: () => runtime.profiler?.dispatches ?? [],
    memory: () => memoryOf(opened),
    ledger: () => device.ledger,
    dispose: () => device.dispose(),
  };
}
