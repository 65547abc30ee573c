/**
 * Kernels alone at the sizes of real models: each output is compared with float64 loops before its time counts, and the
 * time is put beside what this adapter's own copies move and its multiplications compute.
 */

import type { Problem, ProblemSize } from "../engine/check/problems/problem.ts";
import { problemOf, sizeOf } from "../engine/check/problems.ts";
import { kernelKey } from "../engine/check/selfcheck.ts";
import { createTrial, type Trial, timesOf } from "../engine/check/trial.ts";
import { PhiError } from "../engine/errors.ts";
import { readConfig } from "../engine/files/config.ts";
import { Device, type DeviceOptions } from "../engine/gpu/device.ts";
import { createPipelines, type Pipelines } from "../engine/gpu/pipelines.ts";
import { buildPlan } from "../engine/graph/build.ts";
import { Graph } from "../engine/graph/graph.ts";
import { allSteps, type PlanOptions, type Step } from "../engine/graph/plan.ts";
import { tileRowsFor, tuningFor } from "../engine/graph/sizes.ts";
import { type MatrixRef, Weights } from "../engine/graph/weights.ts";
import type { Architecture } from "../engine/models/architecture.ts";
import type { Config } from "../engine/models/declared.ts";
import { readArchitecture } from "../engine/models/table.ts";
import { quantizeTargets } from "../engine/weights/quantize.ts";
import type { KvFormat } from "../kernels/attention/kv/kv.ts";
import { foldedGrid, type Kernel, stateSnippet } from "../kernels/kernel.ts";
import type { ActivationFormat } from "../kernels/linear/linear.ts";
import { quantize } from "../kernels/loading/quantize.ts";
import { scan } from "../kernels/loading/scan.ts";
import { type Packing, rowBytes, type WeightLayout } from "../kernels/weights/weights.ts";
import { type Figure, spread } from "./report.ts";
import type { Roofline } from "./roofline.ts";
import { planSynthetic, type SyntheticPreset } from "./synthetic.ts";
import { workOf } from "./work.ts";

export interface KernelBenchOptions {
  readonly models: readonly SyntheticPreset[];
  /** Other values for keys of config.json, such as a smaller `vocab_size`. */
  readonly config?: Config;
  readonly layouts: readonly WeightLayout[];
  readonly kv: readonly KvFormat[];
  readonly activations: readonly ActivationFormat[];
  /** Tokens of a call; 1 is a step of decode. */
  readonly tokens: readonly number[];
  /** Positions that attention sees, those of the call included. */
  readonly contexts: readonly number[];
  /** Timed runs of each. */
  readonly repetitions: number;
  /** Only kernels whose name holds this. */
  readonly only?: string;
  readonly device?: DeviceOptions;
  readonly onProgress?: (text: string) => void;
}

/** A kernel at a size. */
interface Case {
  readonly name: string;
  readonly kernel: Kernel;
  readonly size: ProblemSize;
}

/** Outputs that are compared: enough to meet every thread of a tile and both ends. */
const compared = 512;

/** The figures of each kernel, and what a roofline shows of them. Throws a PhiError "gpu" for a wrong output. */
export async function benchKernels(
  adapter: GPUAdapter,
  options: KernelBenchOptions,
): Promise<{ readonly figures: readonly Figure[]; readonly roofline: Roofline }> {
  const { onProgress } = options;
  const device = await Device.open(adapter, options.device);
  try {
    const setup = { device, pipelines: createPipelines(device) };
    onProgress?.("copy and multiply-add");
    const copies = copyRates(setup);
    const [copy, peak] = [await copies(copyBytes), await computeRate(setup)];
    const figures: Figure[] = [
      { name: "copy", unit: "GB/s", samples: [copy / 1e9] },
      { name: "multiply-add", unit: "GFLOP/s", samples: [peak / 1e9] },
    ];
    const points: Roofline["points"][number][] = [];
    let fastestCopy = copy;
    const cases = options.models.flatMap((preset) => modelCases(preset, device, options));
    const wanted = cases.filter(({ name }) => name.includes(options.only ?? ""));
    const measured = new Set<string>();
    for (const one of wanted) {
      const key = JSON.stringify([kernelKey(one.kernel), one.size]);
      if (measured.has(key)) continue; // under the name of the first that has it
      measured.add(key);
      onProgress?.(one.name);
      const { seconds, error, work } = await measure(setup, one, options.repetitions);
      const bandwidth = await copies(work.bytes);
      const isCompute = work.flops / peak > work.bytes / bandwidth;
      const rate = isCompute
        ? { unit: "GFLOP/s", work: work.flops, limit: peak, share: "  of multiply-add" }
        : { unit: "GB/s", work: work.bytes, limit: bandwidth, share: "  of copy" };
      const { median } = spread(seconds);
      const share = (100 * rate.work) / median / rate.limit;
      fastestCopy = Math.max(fastestCopy, bandwidth);
      figures.push(
        { name: one.name, unit: rate.unit, samples: seconds.map((s) => rate.work / s / 1e9) },
        { name: rate.share, unit: "%", samples: [share] },
        ...(error > 0 ? [{ name: "  error", unit: "of its bound", samples: [error] }] : []),
      );
      if (work.flops > 0) {
        points.push({ name: one.name, intensity: work.flops / work.bytes, gflops: work.flops / median / 1e9, share });
      }
    }
    const roofs = { copyGBps: copy / 1e9, cacheGBps: fastestCopy / 1e9, peakGflops: peak / 1e9 };
    return { figures, roofline: { ...roofs, points } };
  } finally {
    device.dispose();
  }
}

/** Where kernels are run. */
export interface Setup {
  readonly device: Device;
  readonly pipelines: Pipelines;
}

/** A published config; of Phi's also with the norms of heads, which no published model has and the architecture does. */
function configsOf(preset: SyntheticPreset, config: Config | undefined): readonly Config[] {
  const { config: published } = planSynthetic({ preset, config });
  return published.model_type === "phi" ? [published, { ...published, qk_layernorm: true }] : [published];
}

const chunkBytes = 8 << 20; // what an upload quantizes at a time

/** Every kernel that a model runs, each once, and those that its weights go through as they are loaded. */
function modelCases(preset: SyntheticPreset, device: Device, options: KernelBenchOptions): readonly Case[] {
  const { layouts, kv: formats, activations, tokens } = options;
  const tileRows = tileRowsFor(device);
  return configsOf(preset, options.config).flatMap((config) => {
    const architecture = readArchitecture(readConfig("config.json", new TextEncoder().encode(JSON.stringify(config))));
    const plans = layouts.flatMap((layout) =>
      formats.flatMap((kv) =>
        activations.flatMap((format) =>
          tokens.flatMap((seq) => {
            const packing = packingOf(architecture, layout);
            return planCases(architecture, device, { seq, kv, activations: format, packing }, options);
          }),
        ),
      ),
    );
    const cols = architecture.hidden;
    const rows = Math.floor(chunkBytes / rowBytes("f16", cols));
    const loading = [
      ...layouts.flatMap((to) =>
        to === "q4" || to === "q8" ? [quantize({ from: "f16", to, group: 32, zero: "any", cols })] : [],
      ),
      scan("f16", rows * rowBytes("f16", cols)),
    ].map((kernel) => ({ name: `weights ${kernel.name}`, kernel, size: { rows, cols, tileRows } }));
    return [...plans, ...loading].map((one) => ({ ...one, name: `${preset} ${one.name}` }));
  });
}

/** As the engine lays matrices: with integers, head and embedding in 8 bits and a router in floats. */
function packingOf(architecture: Architecture, layout: WeightLayout): PlanOptions["packing"] {
  if (layout !== "q4" && layout !== "q8") return () => ({ layout });
  const { packing } = quantizeTargets(architecture, { weights: layout === "q4" ? "int4" : "int8" });
  return (ref: MatrixRef): Packing => packing(ref) ?? { layout: "f16" };
}

function planCases(
  architecture: Architecture,
  device: Device,
  { seq, ...formats }: { readonly seq: number } & Pick<PlanOptions, "kv" | "activations" | "packing">,
  { contexts }: KernelBenchOptions,
): readonly Case[] {
  const kind = seq === 1 ? "decode" : "prefill";
  const graph = new Graph(kind);
  const logits = architecture.forward(graph, new Weights());
  const { rotary } = architecture.rope;
  const { maxBindingBytes } = device;
  const tuning = tuningFor(device);
  const options = { maxSeq: seq, ...formats, rotary, maxBindingBytes, tuning, tileRows: tileRowsFor(device) };
  const plan = buildPlan(graph, logits, options);
  // What follows the last row in a prefill is what a decode step runs too.
  const last = plan.steps.findIndex(({ kernel }) => kernel.name === "lastRow");
  const steps = seq === 1 ? allSteps(plan) : plan.steps.slice(0, last + 1);
  return steps.flatMap((step) => {
    const name = stepName(step, seq);
    const caseAt = (past: number, where = "") => ({
      name: name + where,
      kernel: step.kernel,
      size: sizeOf(step, plan, options, { seq, past }),
    });
    if (!("keys" in step.bindings && "o" in step.bindings)) return [caseAt(0)];
    const fitting = contexts.filter((context) => context >= seq && context <= architecture.maxPositions);
    return fitting.map((context) => caseAt(context - seq, ` at ${context}`));
  });
}

/** Without its layer, and with the tokens of the call: `self_attn.qkv_proj matmul<q4,none> 128 tokens`. */
function stepName({ label }: Step, seq: number): string {
  return `${label.replace(/^layer\.\d+\//, "")}${seq === 1 ? "" : ` ${seq} tokens`}`;
}

/**
 * Compares a kernel's output and warms it up: the trial, and how often to run it at a time. Throws a PhiError "gpu" for a
 * wrong output.
 */
export async function openChecked(
  { device, pipelines }: Setup,
  { name, kernel, problem }: { readonly name: string; readonly kernel: Kernel; readonly problem: Problem },
): Promise<{ readonly trial: Trial; readonly times: number; readonly error: number }> {
  const trial = await createTrial(device, pipelines, kernel, problem);
  try {
    const error = await trial.compare(compared);
    if (!(error <= 1)) {
      throw new PhiError(
        "gpu",
        `${name}: expected what float64 loops give, got numbers off by ${error} times what is allowed`,
        ["The kernel computes wrong numbers on this adapter: its time means nothing. phi doctor checks them all."],
      );
    }
    return { trial, error, times: await timesOf(trial.run) };
  } catch (failure) {
    trial.dispose();
    throw failure;
  }
}

async function measure(setup: Setup, { name, kernel, size }: Case, repetitions: number) {
  const problem = problemOf(kernel, size);
  if (problem === undefined) throw new Error(`${kernel.name}: no reference`);
  const { trial, times, error } = await openChecked(setup, { name, kernel, problem });
  try {
    const seconds: number[] = [];
    for (let n = 0; n < repetitions; n++) seconds.push(await trial.run(times));
    return { seconds, error, work: workOf(kernel, problem, trial.boundBytes) };
  } finally {
    trial.dispose();
  }
}

/** The most that a copy is measured with: beyond the caches of most GPUs. */
const copyBytes = 64 << 20;
const leastCopyBytes = 1 << 20;

/** Bytes a second that this adapter copies, read and written, by how many there are in all: caches are faster. */
function copyRates(setup: Setup): (bytes: number) => Promise<number> {
  const known = new Map<number, Promise<number>>();
  return (bytes) => {
    const power = 2 ** Math.ceil(Math.log2(bytes));
    const size = Math.max(leastCopyBytes, Math.min(copyBytes, power, setup.device.maxBindingBytes));
    const rate = known.get(size) ?? copyRate(setup, size);
    known.set(size, rate);
    return rate;
  };
}

/**
 * Bytes a second, read and written, that this adapter copies where about `bytes` are read or written in all: a working
 * set that fits into a cache is measured by the cache.
 */
export async function measureCopyRate(adapter: GPUAdapter, bytes: number): Promise<number> {
  const device = await Device.open(adapter);
  try {
    return await copyRates({ device, pipelines: createPipelines(device) })(bytes);
  } finally {
    device.dispose();
  }
}

/** Multiplications and additions a second on registers. */
export async function measureComputeRate(adapter: GPUAdapter): Promise<number> {
  const device = await Device.open(adapter);
  try {
    return await computeRate({ device, pipelines: createPipelines(device) });
  } finally {
    device.dispose();
  }
}

/** The better of a kernel's rate and the copy command's, which a CPU does without kernels. */
async function copyRate({ device, pipelines }: Setup, bytes: number): Promise<number> {
  const half = bytes / 2;
  const kernel: Kernel = {
    name: "copy",
    files: [new URL("./copy.wgsl", import.meta.url), stateSnippet],
    constants: {},
    tile: {},
    grid: () => foldedGrid(half / 16 / 64),
  };
  const problem = unchecked({ x: half }, { y: half });
  const trial = await createTrial(device, pipelines, kernel, problem);
  const x = device.createBuffer("copy source", half, GPUBufferUsage.COPY_SRC);
  const y = device.createBuffer("copy target", half, GPUBufferUsage.COPY_DST);
  const command = async (times: number) => {
    const encoder = device.createCommandEncoder("copy");
    for (let i = 0; i < times; i++) encoder.copyBufferToBuffer(x.gpu, 0, y.gpu, 0, half);
    const commands = encoder.finish();
    const beganMs = performance.now();
    device.submit("copy", [commands]);
    await device.workDone();
    return (performance.now() - beganMs) / 1000 / times;
  };
  try {
    return bytes / Math.min(await fastest(trial.run), await fastest(command));
  } finally {
    trial.dispose();
    x.dispose();
    y.dispose();
  }
}

/** The better of fma() and of a multiplication and an addition, which some drivers do not make one of. */
async function computeRate({ device, pipelines }: Setup): Promise<number> {
  const workgroups = device.isSoftware ? 64 : 4096;
  const steps = 250;
  const seconds: number[] = [];
  for (const FUSED of [0, 1]) {
    const kernel: Kernel = {
      name: "peak",
      files: [new URL("./peak.wgsl", import.meta.url), stateSnippet],
      constants: { STEPS: steps, FUSED },
      tile: {},
      grid: () => [workgroups, 1, 1],
    };
    const trial = await createTrial(device, pipelines, kernel, unchecked({}, { y: workgroups * 64 * 4 }));
    seconds.push(await fastest(trial.run));
    trial.dispose();
  }
  return (workgroups * 64 * steps * 160) / Math.min(...seconds);
}

/** Operands of a kernel that measures the adapter, by their bytes. */
function unchecked(inputs: Readonly<Record<string, number>>, outputs: Readonly<Record<string, number>>): Problem {
  const zeros = Object.entries(inputs).map(([name, bytes]) => [name, new Uint32Array(bytes / 4)] as const);
  const written = Object.entries(outputs).map(
    ([name, bytes]) => [name, { words: bytes / 4, count: 0, expected: () => 0, tolerance: 1 }] as const,
  );
  return {
    ...{ seq: 1, past: 0, kvRows: 1 },
    inputs: Object.fromEntries(zeros),
    outputs: Object.fromEntries(written),
  };
}

/** Seconds of the fastest of some measurements: what others on the machine do makes none faster. */
async function fastest(run: (times: number) => Promise<number>): Promise<number> {
  const times = await timesOf(run);
  let best = Number.POSITIVE_INFINITY;
  for (let n = 0; n < 5; n++) best = Math.min(best, await run(times));
  return best;
}
