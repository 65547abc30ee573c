/**
 * What lives as long as a model: its device, weights, pipelines and plans, and the slots that the values of a call pass
 * through. It knows no sequence: whoever has one binds plans to its buffers (`generation/sequence.ts`). The calls of all
 * sequences run one after the other; what a call leaves in the slots is gone with the next one, so what is wanted of it is
 * copied in the call's own last submit.
 */

import type { KvFormat } from "../../kernels/attention/kv/kv.ts";
import type { Kernel } from "../../kernels/kernel.ts";
import type { ActivationFormat } from "../../kernels/linear/linear.ts";
import { PhiError } from "../errors.ts";
import type { Device, DeviceBuffer } from "../gpu/device.ts";
import { createPipelines, type Pipelines } from "../gpu/pipelines.ts";
import { createProfiler, type Profiler } from "../gpu/profile.ts";
import { buildPlan } from "../graph/build.ts";
import { Graph, type GraphKind } from "../graph/graph.ts";
import { allSteps, type Plan } from "../graph/plan.ts";
import type { Tuning } from "../graph/sizes.ts";
import { tuningFor } from "../graph/sizes.ts";
import { matrixBytes, Weights } from "../graph/weights.ts";
import type { Architecture } from "../models/architecture.ts";
import type { CheckedWeights } from "../weights/check.ts";
import type { GpuWeights } from "../weights/upload.ts";
import { bindPlan, type SequenceBuffers } from "./binding.ts";
import { createRunner, type Runner } from "./runner.ts";

/** Kinds of runner: the graph kinds, and the one of all positions with its named values kept. */
export type RunnerKind = GraphKind | "trace";

export interface RuntimeOptions {
  /** What the caches of sequences keep their numbers in. */
  readonly kv: KvFormat;
  readonly activations: ActivationFormat;
  /** Positions of a sequence. */
  readonly context: number;
  /** Tokens of a call at most. */
  readonly chunkTokens: number;
  /** Sizes that were measured (check/tune.ts), from wherever they were kept. */
  readonly tuned?: unknown;
  /** Operations of one submit; default about a tenth of a second's. */
  readonly submitFlops?: number;
}

/** Bytes that a call of all positions may leave to be read back. */
const mostReadBytes = 64 << 20;

export class Runtime {
  readonly device: Device;
  readonly architecture: Architecture;
  readonly options: RuntimeOptions;
  readonly pipelines: Pipelines;
  /** Where the device was opened for a profile. */
  readonly profiler: Profiler | undefined;
  readonly #weights: CheckedWeights;
  #tuning: Tuning;
  readonly #plans = new Map<RunnerKind, Plan>();
  #gpuWeights: GpuWeights | undefined;
  readonly #slots: DeviceBuffer[] = [];
  #slotsVersion = 0;
  /** Ends when the calls so far have ended. */
  #calls: Promise<unknown> = Promise.resolve();

  constructor(device: Device, architecture: Architecture, weights: CheckedWeights, options: RuntimeOptions) {
    this.device = device;
    this.architecture = architecture;
    this.options = options;
    this.pipelines = createPipelines(device);
    this.profiler = device.isProfiled ? createProfiler(device) : undefined;
    this.#weights = weights;
    this.#tuning = tuningFor(device, options.tuned);
  }

  /** The sizes of this model's kernels. */
  get tuning(): Tuning {
    return this.#tuning;
  }

  /** Other sizes from now on. What is bound keeps its own: to be called before the first plan is bound. */
  retune(tuning: Tuning): void {
    this.#tuning = tuning;
    this.#plans.clear();
  }

  /** The plan of a kind in this model's sizes. */
  plan(kind: RunnerKind): Plan {
    const plan = this.#plans.get(kind) ?? this.planFor(kind, this.#tuning);
    this.#plans.set(kind, plan);
    return plan;
  }

  /** The plan of a kind in other sizes. Throws a PhiError "machine" where a value does not fit into a binding. */
  planFor(kind: RunnerKind, tuning: Tuning): Plan {
    const { kv, activations, chunkTokens } = this.options;
    const { architecture, device } = this;
    const graph = new Graph(kind === "trace" ? "all" : kind);
    const logits = architecture.forward(graph, new Weights());
    const keptCols = kind === "trace" ? [...graph.taps.values()].reduce((sum, { cols }) => sum + cols, 0) : 0;
    const rowBytes = (architecture.vocab + keptCols) * 4;
    const allRows = Math.max(1, Math.floor(Math.min(device.maxBindingBytes, mostReadBytes) / rowBytes));
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

  /** The kernels of generation in a size that was measured (`RuntimeOptions.tuned`), by name. */
  get tunedKernels(): readonly string[] {
    const { tuned = {} } = this.#tuning;
    const names = this.#generationSteps().flatMap(({ kernel, size }) =>
      size !== undefined && tuned[size.family]?.[size.key] !== undefined ? [kernel.name] : [],
    );
    return [...new Set(names)];
  }

  /** The kernels that generation runs, one for each step. */
  get kernels(): readonly Kernel[] {
    return this.#generationSteps().map(({ kernel }) => kernel);
  }

  #generationSteps() {
    return (["prefill", "decode"] as const).flatMap((kind) => allSteps(this.plan(kind)));
  }

  /** Gives the weights, which are there from now on. */
  attach(weights: GpuWeights): void {
    this.#gpuWeights = weights;
  }

  /** Runs a call, of as many submits as it takes, when the calls before it have ended. Throws what it throws. */
  alone<T>(call: () => Promise<T>): Promise<T> {
    const running = this.#calls.then(call);
    this.#calls = running.catch(() => undefined); // its own caller is told
    return running;
  }

  /**
   * Makes slots as large as any of the plans asks for. Returns their version: what is bound to another one has lost a
   * slot, and is to be bound again.
   */
  reserve(plans: readonly Plan[]): number {
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
      const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
      this.#slots[index] = this.device.createBuffer(`slot #${index}`, n, usage);
    });
    if (replaced) this.#slotsVersion++;
    return this.#slotsVersion;
  }

  /** Plans on the buffers of a sequence; they serve until `reserve` gives another version. */
  async bind(plans: readonly Plan[], buffers: SequenceBuffers): Promise<readonly Runner[]> {
    const weights = this.#gpuWeights;
    if (weights === undefined) throw new Error("the weights are not there yet");
    this.reserve(plans);
    const all = { weights, slots: this.#slots, sequence: buffers };
    return Promise.all(
      plans.map(async (plan) => {
        const bound = await bindPlan(this.device, this.pipelines, plan, all);
        return createRunner(this.device, plan, bound, buffers, {
          profiler: this.profiler,
          submitFlops: this.options.submitFlops,
        });
      }),
    );
  }

  /** The buffer of a slot. */
  slot(index: number): DeviceBuffer {
    const buffer = this.#slots[index];
    if (buffer === undefined) throw new Error(`there is no slot ${index}`);
    return buffer;
  }

  /** Bytes of the weights on the GPU. */
  get weightsBytes(): number {
    let bytes = 0;
    for (const ref of this.#weights.declared.values()) {
      bytes +=
        ref.kind === "matrix"
          ? matrixBytes(ref, this.#weights.packing(ref), this.device.maxBindingBytes)
          : ref.length * 4;
    }
    return bytes;
  }
}
