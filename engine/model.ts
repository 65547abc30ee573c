/** A loaded model: weights, cache and plans on one device, and the calls that run them. */

import type { KvFormat } from "../kernels/attention/attention.ts";
import { controlWords, markBytes, stateWords } from "../kernels/choose/next.ts";
import type { Kernel } from "../kernels/kernel.ts";
import type { ActivationFormat } from "../kernels/linear/linear.ts";
import { hasProblem } from "./check/problems.ts";
import { checkKernel, distinctKernels, type KernelCheck, kernelKey } from "./check/selfcheck.ts";
import { PhiError } from "./errors.ts";
import { openCheckpoint } from "./files/checkpoint.ts";
import { type GenerationDefaults, readGenerationDefaults } from "./files/generation.ts";
import type { Folder } from "./files/source.ts";
import type { Control } from "./generation/control.ts";
import { type GeneratedToken, type GenerateOptions, type GenerationResult, generate } from "./generation/generate.ts";
import { Device, type DeviceBuffer, type DeviceOptions } from "./gpu/device.ts";
import { createPipelines, type Pipelines } from "./gpu/pipelines.ts";
import type { ProfiledDispatch } from "./gpu/profile.ts";
import { Graph, type GraphKind } from "./graph/graph.ts";
import { allSteps, buildPlan, type Chooser, explain, type Plan, type Tuning } from "./graph/plan.ts";
import { safeTuning, tileRowsFor, tuningFor } from "./graph/sizes.ts";
import { matrixBytes, Weights } from "./graph/weights.ts";
import { type Architecture, declareWeights } from "./models/architecture.ts";
import { type RopePolicy, ropeRegime, withRopePolicy } from "./models/rope.ts";
import { readArchitecture } from "./models/table.ts";
import { type Cache, cacheRows, contextBuffers, createCache } from "./run/cache.ts";
import { createRunner, type Runner, type SharedBuffers } from "./run/runner.ts";
import { checkActivations, checkIntegerDot } from "./weights/activations.ts";
import { type CheckedWeights, checkWeights } from "./weights/check.ts";
import { type QuantizeOptions, quantizeTargets } from "./weights/quantize.ts";
import { type GpuWeights, uploadWeights } from "./weights/upload.ts";

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

/** The kernels (`kernelKey`) that passed their check before, on one adapter, driver and version of the engine. */
export interface CheckedKernels {
  has(key: string): boolean;
  add(keys: readonly string[]): void;
}

/** Float32 rows of consecutive positions. */
export interface Rows {
  readonly firstPosition: number;
  readonly rows: number;
  /** [rows, columns] */
  readonly values: Float32Array;
}

export interface TraceRows {
  readonly firstPosition: number;
  readonly rows: number;
  /** `embed`, `layer.0` … and `final_norm` [rows, hidden], `logits` [rows, vocab]. */
  readonly values: ReadonlyMap<string, Float32Array>;
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

const defaultContext = 4096;

/**
 * Loads a checkpoint: everything is judged from JSON and headers before the first GPU buffer is made, then the weights
 * are streamed. Throws a PhiError of kind "checkpoint", "usage", "machine", "gpu", "io" or "aborted".
 */
export async function loadModel(options: LoadOptions): Promise<Model> {
  const { engine, defaults, notes, replaced } = await openEngine(options);
  return modelOf(engine, defaults, [...notes, ...replaced]);
}

/** A model's engine, ready to run. */
interface OpenedEngine {
  readonly engine: Engine;
  readonly defaults: GenerationDefaults;
  readonly notes: readonly string[];
  /** What is to be said of kernels that computed wrong numbers and were replaced. */
  readonly replaced: readonly string[];
}

/** `loadModel`, with the engine inside the model. The caller disposes its device. */
export async function openEngine(options: LoadOptions): Promise<OpenedEngine> {
  const { folder, adapter, signal, onProgress } = options;
  const kv = options.kv ?? "f16";
  onProgress?.({ stage: "headers", doneBytes: 0, totalBytes: 0 });
  const checkpoint = await openCheckpoint(folder);
  try {
    const published = readArchitecture(checkpoint.config);
    const architecture = { ...published, rope: withRopePolicy(published.rope, options.rope) };
    const defaults = readGenerationDefaults(checkpoint.config, checkpoint.generationConfig, architecture.vocab);
    const quantize = quantizeTargets(architecture, options.quantize);
    const weights = await checkWeights(checkpoint, architecture, declareWeights(architecture), quantize);
    const activations = checkActivations(options.activations, weights);
    const context = checkContext(options.context, architecture);
    if (signal?.aborted) throw new PhiError("aborted", "loading was stopped");

    const device = await Device.open(adapter, options.device);
    try {
      await checkIntegerDot(device, activations);
      const chunkTokens = Math.min(context, options.chunkTokens ?? chunkFor(device, weights, architecture));
      const kvRows = cacheRows(architecture, context, chunkTokens);
      checkContextBindings(device, architecture, kv, kvRows, context);
      const engine = new Engine(device, architecture, weights, {
        kv,
        activations,
        context,
        chunkTokens,
        kvRows,
        tuned: options.tuned,
      });
      const uploaded = uploadWeights(device, checkpoint, weights, {
        signal,
        allowNonFinite: options.allowNonFinite,
        tileRows: tileRowsFor(device),
        onProgress: (doneBytes, totalBytes) => onProgress?.({ stage: "weights", doneBytes, totalBytes }),
      });
      // Pipelines compile while the weights stream in.
      const [gpuWeights, replaced] = await Promise.all([uploaded, engine.prepare(options.checked)]);
      await engine.bind(gpuWeights);
      return { engine, defaults, notes: [...checkpoint.notes, ...weights.notes, ...defaults.notes], replaced };
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
    const architecture = readArchitecture(checkpoint.config);
    const quantize = quantizeTargets(architecture, options.quantize);
    const weights = await checkWeights(checkpoint, architecture, declareWeights(architecture), quantize);
    const activations = checkActivations(options.activations, weights);
    device = await Device.open(options.adapter, options.device);
    await checkIntegerDot(device, activations);
    const context = Math.min(16, architecture.maxPositions); // no position is run
    const engine = new Engine(device, architecture, weights, {
      kv: options.kv ?? "f16",
      activations,
      context,
      chunkTokens: context,
      kvRows: context,
      tuned: options.tuned,
    });
    const { checks, right, unchecked } = await engine.check(() => true);
    options.checked?.add(right);
    return { adapterName: device.adapterName, checks, unchecked, tuned: engine.tunedKernels };
  } finally {
    device?.dispose();
    await checkpoint.close();
  }
}

/** The positions of the cache: what was asked for, if the model has them, or its own up to 4096. */
export function checkContext(asked: number | undefined, { maxPositions }: Architecture): number {
  if (asked === undefined) return Math.min(maxPositions, defaultContext);
  if (!Number.isInteger(asked) || asked < 1 || asked > maxPositions) {
    throw new PhiError(
      "usage",
      `--context: expected an integer from 1 to ${maxPositions} (max_position_embeddings), got ${asked}`,
    );
  }
  return asked;
}

/** Refuses a context whose keys of a layer or rotary table do not fit into a binding, before a buffer is made. */
function checkContextBindings(
  { maxBindingBytes }: Device,
  architecture: Architecture,
  kv: KvFormat,
  rows: number,
  context: number,
): void {
  for (const { what, bytes, positionBytes } of contextBuffers(architecture, kv, rows, context)) {
    if (bytes <= maxBindingBytes) continue;
    const fitting = Math.floor(maxBindingBytes / positionBytes);
    const why = `${what} ${bytes} bytes, and this adapter binds at most ${maxBindingBytes}`;
    throw new PhiError("machine", `--context: expected at most ${fitting} positions, got ${context}: ${why}`);
  }
}

/** Tokens at a time: as many as keep the largest linear well below the time after which systems reset a GPU. */
export function chunkFor(
  device: { readonly isSoftware: boolean },
  weights: CheckedWeights,
  { vocab }: Architecture,
): number {
  let largest = 1;
  for (const ref of weights.declared.values()) {
    // Of the head's matrix a prompt needs the last token's row, of the embedding no product.
    if (ref.kind === "matrix" && ref.rows !== vocab)
      largest = Math.max(largest, 2 * ref.rows * ref.parts * ref.cols * ref.activeShare);
  }
  const perDispatch = device.isSoftware ? 2e9 : 2e11;
  const tokens = 2 ** Math.floor(Math.log2(perDispatch / largest));
  return Math.max(16, Math.min(device.isSoftware ? 128 : 512, tokens));
}

interface EngineOptions {
  readonly kv: KvFormat;
  readonly activations: ActivationFormat;
  readonly context: number;
  readonly chunkTokens: number;
  readonly kvRows: number;
  /** As in `LoadOptions`. */
  readonly tuned?: unknown;
}

/** Tokens that the GPU chooses in one submit. */
export interface Batch {
  /** Index of its first among the new tokens of the generation. */
  readonly first: number;
  readonly count: number;
  /** Whether its steps ran the tokens that were chosen before, and not a prompt. */
  readonly isDecode: boolean;
  readonly staging: DeviceBuffer;
}

/** How much of a prompt was run, and the batch of its first new token where one was asked for. */
export interface Prefilled {
  readonly run: number;
  readonly batch: Batch | undefined;
}

/** Submits of decode steps that may be on their way at a time. */
export const mostBatches = 2;

/** Kinds of runner: the graph kinds, and the one of all positions with its named values kept. */
type RunnerKind = GraphKind | "trace";

/** What lives as long as the model: buffers, pipelines, the tokens whose keys are cached. */
export class Engine {
  readonly device: Device;
  readonly architecture: Architecture;
  readonly context: number;
  readonly chunkTokens: number;
  readonly cache: Cache;
  readonly #options: EngineOptions;
  readonly #weights: CheckedWeights;
  readonly #pipelines: Pipelines;
  #tuning: Tuning;
  readonly #plans = new Map<RunnerKind, Plan>();
  readonly #runners = new Map<RunnerKind, Promise<Runner>>();
  readonly #shared: Omit<SharedBuffers, "slots">;
  #slots: DeviceBuffer[] = [];
  #staging: DeviceBuffer | undefined;
  /** Where states are read from, in turn: one more than can be on their way. */
  readonly #stateStaging: readonly DeviceBuffer[];
  #batches = 0;
  #gpuWeights: GpuWeights | undefined;
  /** The ids whose keys and values are in the cache, from position 0. */
  #cached: number[] = [];
  /** The token that was chosen last, which no step that was read back has run. */
  #next: number | undefined;
  /** Steps that were submitted and not read back. */
  #inFlight = 0;
  /** Positions that were ever written since the cache was last begun at 0: what a ring may have overwritten. */
  #written = 0;
  #queue: Promise<void> = Promise.resolve();

  constructor(device: Device, architecture: Architecture, weights: CheckedWeights, options: EngineOptions) {
    this.device = device;
    this.architecture = architecture;
    this.context = options.context;
    this.chunkTokens = options.chunkTokens;
    this.#options = options;
    this.#weights = weights;
    this.#pipelines = createPipelines(device);
    this.#tuning = tuningFor(device, options.tuned);
    this.cache = createCache(device, architecture, options.kv, options.kvRows, options.context);
    this.#shared = {
      state: device.createBuffer(
        "state",
        stateWords.all * 4,
        GPUBufferUsage.UNIFORM | GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
      ),
      control: device.createBuffer("control", controlWords.all * 4, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST),
      marks: device.createBuffer(
        "marks",
        architecture.vocab * markBytes,
        GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST,
      ),
      ids: device.createBuffer("ids", options.chunkTokens * 4, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST),
    };
    this.#stateStaging = Array.from({ length: mostBatches }, (_, i) =>
      device.createBuffer(`state staging #${i}`, stateWords.all * 4, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST),
    );
  }

  /** The sizes of this model's kernels. */
  get tuning(): Tuning {
    return this.#tuning;
  }

  /** The kernels of generation in a size that was measured (`LoadOptions.tuned`), by name. */
  get tunedKernels(): readonly string[] {
    const { tuned = {} } = this.#tuning;
    const steps = (["prefill", "decode"] as const).flatMap((kind) => allSteps(this.plan(kind)));
    const names = steps.flatMap(({ kernel, size }) =>
      size !== undefined && tuned[size.family]?.[size.key] !== undefined ? [kernel.name] : [],
    );
    return [...new Set(names)];
  }

  plan(kind: RunnerKind): Plan {
    const plan = this.#plans.get(kind) ?? this.planFor(kind, this.#tuning);
    this.#plans.set(kind, plan);
    return plan;
  }

  /** The plan of a kind in other sizes. */
  planFor(kind: RunnerKind, tuning: Tuning): Plan {
    const { kv, activations, chunkTokens } = this.#options;
    const { architecture, device } = this;
    const graph = new Graph(kind === "trace" ? "all" : kind);
    const logits = architecture.forward(graph, new Weights());
    const rowBytes = architecture.vocab * 4;
    const allRows = Math.max(1, Math.floor(Math.min(device.maxBindingBytes, 64 << 20) / rowBytes));
    const plan = buildPlan(graph, logits, {
      maxSeq: kind === "decode" ? 1 : graph.kind === "all" ? Math.min(chunkTokens, allRows) : chunkTokens,
      packing: this.#weights.packing,
      kv,
      activations,
      rotary: architecture.rope.rotary,
      maxBindingBytes: device.maxBindingBytes,
      tuning,
      taps: kind === "trace",
    });
    const largest = Math.max(...plan.slotBytes);
    if (largest > device.maxBindingBytes) {
      throw new PhiError(
        "machine",
        `a chunk of ${plan.maxSeq} tokens needs a buffer of ${largest} bytes, and this adapter binds at most ${device.maxBindingBytes}`,
        ["Use a smaller chunk."],
      );
    }
    return plan;
  }

  /** The kernels that generation runs, each once. */
  #kernels(): readonly Kernel[] {
    const steps = (["prefill", "decode"] as const).flatMap((kind) => allSteps(this.plan(kind)));
    return distinctKernels(steps.map(({ kernel }) => kernel));
  }

  /**
   * Compiles the pipelines of generation. With `checked`, those kernels that are not known to be right are checked, and
   * if one is not, the plainest ones take the place of all; returns what is to be said of that. Throws a PhiError "gpu"
   * where these are wrong too.
   */
  async prepare(checked: CheckedKernels | undefined): Promise<readonly string[]> {
    const compile = () => Promise.all(this.#kernels().map((kernel) => this.#pipelines.get(kernel)));
    const retune = (tuning: Tuning) => {
      this.#tuning = tuning;
      this.#plans.clear();
      return compile();
    };
    try {
      await compile();
    } catch (error) {
      // A size from a file may be more than this model's kernels have room for.
      this.device.check();
      if (this.#tuning.tuned === undefined || !(error instanceof PhiError && error.kind === "internal")) throw error;
      await retune(tuningFor(this.device));
    }
    if (checked === undefined || this.device.isNull) return [];
    const wrong = await this.#wrong(checked);
    if (wrong.length === 0) return [];
    await retune(safeTuning);
    const [still] = await this.#wrong(checked);
    if (still !== undefined) {
      const off = `${still.error.toPrecision(2)} times what is allowed`;
      throw new PhiError("gpu", `${still.kernel} computes wrong numbers on ${this.device.adapterName}: off by ${off}`, [
        "The driver compiles this kernel wrongly: update it, or choose another adapter (phi devices).",
        "phi doctor prints what a report of this needs.",
      ]);
    }
    const names = [...new Set(wrong.map(({ kernel }) => kernel))].join(", ");
    return [`${names}: wrong numbers on ${this.device.adapterName}; plainer kernels are used, phi doctor says more`];
  }

  /** Checks the kernels that are not known to be right, remembers those that are, and returns the others. */
  async #wrong(checked: CheckedKernels): Promise<readonly KernelCheck[]> {
    const { checks, right } = await this.check((kernel) => !checked.has(kernelKey(kernel)));
    checked.add(right);
    return checks.filter(({ error }) => !(error <= 1));
  }

  /** Runs the kernels of generation that are `wanted` on small problems. */
  async check(wanted: (kernel: Kernel) => boolean): Promise<{
    readonly checks: readonly KernelCheck[];
    /** Keys of those that are right. */
    readonly right: readonly string[];
    readonly unchecked: readonly string[];
  }> {
    const kernels = this.#kernels().filter(wanted);
    const checks: KernelCheck[] = [];
    const right: string[] = [];
    for (const kernel of kernels.filter(hasProblem)) {
      const check = await this.checkKernel(kernel);
      checks.push(check);
      if (check.error <= 1) right.push(kernelKey(kernel));
    }
    return { checks, right, unchecked: kernels.filter((kernel) => !hasProblem(kernel)).map(({ name }) => name) };
  }

  /** Compiles a kernel and runs it on a small problem. */
  checkKernel(kernel: Kernel): Promise<KernelCheck> {
    return checkKernel(this.device, this.#pipelines, kernel);
  }

  /** Makes the plans of generation ready to run on these weights. */
  async bind(weights: GpuWeights): Promise<void> {
    this.#gpuWeights = weights;
    this.#growSlots([this.plan("prefill"), this.plan("decode")]);
    await Promise.all([this.runner("prefill"), this.runner("decode")]);
  }

  /** Slots as large as any of the plans asks for; runners bound to a slot that was replaced are forgotten. */
  #growSlots(plans: readonly Plan[]): void {
    let replaced = false;
    const bytes: number[] = [];
    for (const plan of plans)
      plan.slotBytes.forEach((n, slot) => {
        bytes[slot] = Math.max(bytes[slot] ?? 0, n);
      });
    bytes.forEach((n, index) => {
      const old = this.#slots[index];
      if (old !== undefined && old.sizeBytes >= n) return;
      old?.dispose();
      replaced ||= old !== undefined;
      this.#slots[index] = this.device.createBuffer(
        `slot #${index}`,
        n,
        GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC,
      );
    });
    if (replaced) this.#runners.clear();
  }

  runner(kind: RunnerKind): Promise<Runner> {
    const plan = this.plan(kind);
    this.#growSlots([plan]);
    const runner = this.#runners.get(kind) ?? this.#bound(plan);
    this.#runners.set(kind, runner);
    return runner;
  }

  #bound(plan: Plan): Promise<Runner> {
    const weights = this.#gpuWeights;
    if (weights === undefined) throw new Error("the weights are not there yet");
    const shared = { ...this.#shared, slots: this.#slots };
    return createRunner(this.device, plan, this.#pipelines, shared, weights, this.cache);
  }

  /** Plans of any sizes on this model's buffers; they serve until the next ones are bound. */
  async bindPlans(plans: readonly Plan[]): Promise<readonly Runner[]> {
    this.#growSlots(plans);
    return Promise.all(plans.map((plan) => this.#bound(plan)));
  }

  /** Runs `work` when the calls before it have ended. */
  async exclusive(): Promise<() => void> {
    const before = this.#queue;
    let release: () => void = () => {};
    this.#queue = new Promise((resolve) => {
      release = resolve;
    });
    await before;
    return release;
  }

  /** The most steps that a submit may have: their tokens are all kept, and a ring keeps the rows that a shorter prefix needs. */
  get mostSteps(): number {
    const { kvRows, context, chunkTokens } = this.#options;
    return Math.min(
      stateWords.ring / mostBatches,
      kvRows < context ? Math.ceil(chunkTokens / mostBatches) : stateWords.ring,
    );
  }

  /** Tells the choosers of the next calls what they go by. */
  control({ words, marks }: Control): void {
    this.device.writeBuffer(this.#shared.control, 0, words);
    if (marks !== undefined) this.device.writeBuffer(this.#shared.marks, 0, marks);
  }

  /**
   * Brings the cache to hold `ids`, as far as it must: keeps the prefix that it shares with what is cached, runs the
   * rest in chunks, and leaves the logits of the last position in their slot, or with `chooser` chooses the next token of
   * them, the one of index `drawn`. longrope's factors follow the length of the whole sequence, so a change of regime
   * runs all of it again.
   */
  async prefill(
    ids: readonly number[],
    { signal, chooser, drawn = 0 }: { signal?: AbortSignal | undefined; chooser?: Chooser; drawn?: number } = {},
  ): Promise<Prefilled> {
    const regime = ropeRegime(this.architecture.rope, ids.length);
    this.#written = Math.max(this.#written, this.#cached.length + this.#inFlight);
    this.#inFlight = 0;
    this.#next = undefined;
    const shared = regime === this.cache.regime ? this.#reusable(ids) : 0;
    this.cache.setRegime(regime);
    this.#cached.length = shared;
    if (shared === 0) this.#written = 0;
    let batch: Batch | undefined;
    for (let past = shared; past < ids.length; past += this.chunkTokens) {
      if (signal?.aborted) throw new PhiError("aborted", "stopped");
      const chunk = ids.slice(past, past + this.chunkTokens);
      const runner = await this.runner(chunk.length === 1 ? "decode" : "prefill");
      this.#written = Math.max(this.#written, past + chunk.length); // before the run, which may stop half-way
      if (past + chunk.length < ids.length) await runner.feed(chunk, past, drawn, { signal, cacheOnly: true });
      else if (chooser === undefined) await runner.feed(chunk, past, drawn, { signal });
      else {
        batch = this.#nextBatch(drawn, 1, false);
        await runner.feed(chunk, past, drawn, { signal, chooser, last: this.#copyState(batch) });
      }
      this.#cached.push(...chunk);
    }
    return { run: ids.length - shared, batch };
  }

  /**
   * Submits `count` steps, each for the token that the one before it chose, the first of them the one of index `first`.
   * At most `mostBatches` are on their way at a time; they are read in their order.
   */
  async decode(first: number, count: number, chooser: Chooser, signal?: AbortSignal): Promise<Batch> {
    const runner = await this.runner("decode");
    const batch = this.#nextBatch(first, count, true);
    const past = this.#cached.length + this.#inFlight;
    this.#inFlight += count;
    await runner.repeat(count, past, { chooser, signal, last: this.#copyState(batch) });
    return batch;
  }

  #nextBatch(first: number, count: number, isDecode: boolean): Batch {
    const staging = this.#stateStaging[this.#batches++ % mostBatches];
    if (staging === undefined) throw new Error("there is no staging buffer");
    return { first, count, isDecode, staging };
  }

  #copyState({ staging }: Batch): (encoder: GPUCommandEncoder) => void {
    const { state } = this.#shared;
    return (encoder) => encoder.copyBufferToBuffer(state.gpu, 0, staging.gpu, 0, stateWords.all * 4);
  }

  /** The tokens of a batch, fewer than it has steps if one is a stop id or the count of logits not finite is above 0. */
  async readBatch({ first, count, isDecode, staging }: Batch): Promise<{ ids: readonly number[]; notFinite: number }> {
    const read = new Uint32Array(await this.device.readBack(staging, stateWords.all * 4));
    const words = this.device.isNull ? read.fill(0) : read;
    const [stopped, drawn, notFinite] = [stateWords.stopped, stateWords.drawn, stateWords.notFinite].map(
      (word) => words[word] ?? 0,
    );
    const chosen = stopped === 1 ? Math.min(count, Math.max(0, (drawn ?? 0) - first)) : count;
    const ids = Array.from(
      { length: chosen },
      (_, i) => words[stateWords.tokens + ((first + i) % stateWords.ring)] ?? 0,
    );
    if (isDecode) {
      this.#inFlight = stopped === 1 ? 0 : this.#inFlight - count;
      if (this.#next !== undefined) this.#cached.push(this.#next, ...ids.slice(0, -1));
      this.#written = Math.max(this.#written, this.#cached.length);
    }
    this.#next = ids.at(-1);
    return { ids, notFinite: stopped === 1 ? (notFinite ?? 0) : 0 };
  }

  /** Tokens of the cached prefix that `ids` can keep; at least the last of `ids` is run, for its logits. */
  #reusable(ids: readonly number[]): number {
    let shared = 0;
    while (shared < ids.length - 1 && ids[shared] === this.#cached[shared]) shared++;
    // A ring may have overwritten keys that a shorter prefix needs again.
    const { kvRows, chunkTokens, context } = this.#options;
    return kvRows < context && this.#written > shared + chunkTokens ? 0 : shared;
  }

  /** Logits, and with `trace` the named values, of every position, a chunk at a time. */
  async *every(
    kind: "all" | "trace",
    ids: readonly number[],
    signal?: AbortSignal,
  ): AsyncGenerator<TraceRows, void, undefined> {
    this.checkPrompt(ids);
    const release = await this.exclusive();
    try {
      const runner = await this.runner(kind);
      const { plan } = runner;
      this.cache.setRegime(ropeRegime(this.architecture.rope, ids.length));
      this.#cached = []; // this call writes over whatever was cached
      this.#inFlight = 0;
      for (let past = 0; past < ids.length; past += plan.maxSeq) {
        if (signal?.aborted) throw new PhiError("aborted", "stopped");
        const chunk = ids.slice(past, past + plan.maxSeq);
        await runner.feed(chunk, past, 0, { signal });
        const values = new Map<string, Float32Array>();
        for (const [name, { slot, cols }] of plan.taps)
          values.set(name, await this.readSlot(slot, chunk.length * cols));
        values.set("logits", await this.readSlot(plan.logitsSlot, chunk.length * plan.vocab));
        yield { firstPosition: past, rows: chunk.length, values };
      }
    } finally {
      release();
    }
  }

  /** Refuses ids that no token has, an empty prompt and one that leaves no room. */
  checkPrompt(ids: readonly number[]): void {
    if (ids.length === 0) throw new PhiError("usage", "the prompt is empty: expected at least one token");
    const { vocab } = this.architecture;
    const bad = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocab);
    if (bad >= 0)
      throw new PhiError("usage", `token ${bad} of the prompt: expected an id from 0 to ${vocab - 1}, got ${ids[bad]}`);
    if (ids.length > this.context) {
      throw new PhiError("usage", `the prompt is ${ids.length} tokens, the context is ${this.context}`, [
        `Shorten the prompt, or give --context up to ${this.architecture.maxPositions}.`,
      ]);
    }
  }

  /** The logits [vocab] of the last call of a generation plan. */
  readLogits(kind: "prefill" | "decode"): Promise<Float32Array> {
    const plan = this.plan(kind);
    return this.readSlot(plan.logitsSlot, plan.vocab);
  }

  /** The first numbers of a slot. */
  async readSlot(slot: number, floats: number): Promise<Float32Array> {
    const buffer = this.#slots[slot];
    if (buffer === undefined) throw new Error(`there is no slot ${slot}`);
    return new Float32Array(await this.#copyOut(buffer, floats * 4));
  }

  async #copyOut(source: DeviceBuffer, sizeBytes: number): Promise<ArrayBuffer> {
    if (this.#staging === undefined || this.#staging.sizeBytes < sizeBytes) {
      this.#staging?.dispose();
      this.#staging = this.device.createBuffer("staging", sizeBytes, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
    }
    const encoder = this.device.createCommandEncoder("read back");
    encoder.copyBufferToBuffer(source.gpu, 0, this.#staging.gpu, 0, sizeBytes);
    this.device.submit("read back", [encoder.finish()]);
    return this.device.readBack(this.#staging, sizeBytes);
  }

  pipelines(): ReturnType<Model["pipelines"]> {
    return { count: this.#pipelines.compiled, compileMs: this.#pipelines.compileMs };
  }

  memory(): ModelMemory {
    let weightsBytes = 0;
    for (const ref of this.#weights.declared.values()) {
      weightsBytes +=
        ref.kind === "matrix"
          ? matrixBytes(ref, this.#weights.packing(ref), this.device.maxBindingBytes)
          : ref.length * 4;
    }
    const kvBytes = [...this.cache.keys, ...this.cache.values].reduce((sum, buffer) => sum + buffer.sizeBytes, 0);
    return { weightsBytes, kvBytes, arenaBytes: this.device.ledger.bytes - weightsBytes - kvBytes };
  }
}

function modelOf(engine: Engine, defaults: GenerationDefaults, notes: readonly string[]): Model {
  const { architecture, device } = engine;
  return {
    architecture: architecture.name,
    context: engine.context,
    vocabularySize: architecture.vocab,
    bosId: defaults.bosId,
    eosIds: defaults.eosIds,
    generationDefaults: defaults,
    notes,
    adapterName: device.adapterName,
    tunedKernels: engine.tunedKernels,
    generate: (ids, options) => generate(engine, ids, options, defaults.eosIds),
    async *logits(ids, options = {}) {
      for await (const { firstPosition, rows, values } of engine.every("all", ids, options.signal)) {
        yield { firstPosition, rows, values: values.get("logits") ?? new Float32Array() };
      }
    },
    trace: (ids, options = {}) => engine.every("trace", ids, options.signal),
    explain: () => [explain(engine.plan("prefill")), explain(engine.plan("decode"))].join("\n\n"),
    pipelines: () => engine.pipelines(),
    profile: () => device.profiler?.dispatches ?? [],
    memory: () => engine.memory(),
    ledger: () => device.ledger,
    dispose: () => device.dispose(),
  };
}
