/** A plan bound to buffers and pipelines: encodes calls with nothing left to allocate. */

import { stateWords } from "../../kernels/choose/next.ts";
import { PhiError } from "../errors.ts";
import type { Device, DeviceBuffer } from "../gpu/device.ts";
import { bindGroups, type Pipelines } from "../gpu/pipelines.ts";
import type { DispatchFacts } from "../gpu/profile.ts";
import type { Chooser, Operand, Plan, Step } from "../graph/plan.ts";
import type { GpuWeights } from "../weights/upload.ts";
import type { Cache } from "./cache.ts";

/** The buffers that all plans of a model share. */
export interface SharedBuffers {
  /** Uniform, and storage for the choosers: see kernels/choose/next.wgsl. */
  readonly state: DeviceBuffer;
  /** Uniform: what the choosers are told, see kernels/choose/next.wgsl. */
  readonly control: DeviceBuffer;
  /** By token, what the sampler changes its logit by: see kernels/choose/sample.wgsl. */
  readonly marks: DeviceBuffer;
  /** Token ids of the call. */
  readonly ids: DeviceBuffer;
  /** Values by slot; at least as large as any plan asks for. */
  readonly slots: readonly DeviceBuffer[];
}

/** What a run does besides computing logits. */
export interface RunOptions {
  /** How the next token is chosen; without it the state stays as the host wrote it. */
  readonly chooser?: Chooser;
  /** Nothing is wanted but what the cache gets: the steps behind the last one that writes it are left out. */
  readonly cacheOnly?: boolean;
  /** Added to the last command buffer, behind the dispatches. */
  readonly last?: (encoder: GPUCommandEncoder) => void;
  /** A run that is estimated to take long is submitted in parts, so that this stops it between two of them. */
  readonly signal?: AbortSignal | undefined;
}

export interface Runner {
  readonly plan: Plan;
  /** Runs the plan for `ids` at positions `past` …: writes state and ids and submits. `drawn` tokens are chosen already. */
  feed(ids: readonly number[], past: number, drawn: number, options?: RunOptions): Promise<void>;
  /** Runs `count` steps of one token from position `past` on, each for the token that the one before chose: writes nothing. */
  repeat(count: number, past: number, options: RunOptions & { readonly chooser: Chooser }): Promise<void>;
  /** Runs the steps `times` times for `seq` tokens at position `past`, whatever their inputs hold; seconds of one time. */
  measure(seq: number, past: number, times: number): Promise<number>;
}

interface BoundStep {
  readonly pipeline: GPUComputePipeline;
  readonly groups: readonly GPUBindGroup[];
  readonly grid: (seq: number) => readonly [number, number, number];
  /** Its grid for one token. */
  readonly single: readonly [number, number, number];
  readonly flopsPerToken: number;
  /** For profiles. */
  readonly label: string;
  readonly weightBytes: number;
  /** Of the keys and values that it reads. */
  readonly bytesPerPosition: number;
}

/** Operations of one submit: about a tenth of a second, on a slow GPU and on a CPU that stands in for one. */
const submitFlops = { gpu: 2e11, software: 1e9 };

export async function createRunner(
  device: Device,
  plan: Plan,
  pipelines: Pipelines,
  shared: SharedBuffers,
  weights: GpuWeights,
  cache: Cache,
): Promise<Runner> {
  const slots = shared.slots;
  function resource(operand: Operand): DeviceBuffer {
    let buffer: DeviceBuffer | undefined;
    if ("slot" in operand) buffer = slots[operand.slot];
    else if ("matrix" in operand) buffer = weights.matrix(operand.matrix)[operand.range]?.weight;
    else if ("shape" in operand) buffer = weights.matrix(operand.shape)[operand.range]?.shape;
    else if ("scales" in operand) buffer = weights.matrix(operand.scales)[operand.range]?.scales;
    else if ("perm" in operand) buffer = weights.matrix(operand.perm)[operand.range]?.perm;
    else if ("vector" in operand) buffer = weights.vector(operand.vector);
    else if ("cache" in operand) buffer = cache[operand.cache][operand.layer];
    else buffer = operand.shared === "rope" ? cache.rope : shared[operand.shared];
    if (buffer === undefined) throw new Error(`no buffer for ${JSON.stringify(operand)}`);
    return buffer;
  }

  /** Vectors are bound at their exact length: the norms' kernels take it for the number of columns. */
  function bound(operand: Operand): GPUBufferBinding {
    const { gpu } = resource(operand);
    return "vector" in operand ? { buffer: gpu, size: operand.vector.length * 4 } : { buffer: gpu };
  }

  async function bindStep(step: Step): Promise<BoundStep> {
    const { kernel } = step;
    const pipeline = await pipelines.get(kernel);
    const groups = bindGroups(device, step.label, pipeline, (name) => {
      const operand = step.bindings[name];
      return operand && bound(operand);
    });
    return {
      pipeline: pipeline.gpu,
      groups,
      grid: kernel.grid,
      single: kernel.grid(1),
      flopsPerToken: step.flopsPerToken,
      label: step.label,
      ...readsOf(step),
    };
  }

  function readsOf({ kernel, bindings, flopsPerToken }: Step): Pick<BoundStep, "weightBytes" | "bytesPerPosition"> {
    let weightBytes = 0;
    let bytesPerPosition = 0;
    for (const operand of Object.values(bindings)) {
      const matrix = "matrix" in operand ? operand.matrix : "scales" in operand ? operand.scales : undefined;
      if (matrix !== undefined && flopsPerToken > 0) weightBytes += resource(operand).sizeBytes * matrix.activeShare;
      if ("cache" in operand && /^(a|decodeA)ttention</.test(kernel.name)) {
        bytesPerPosition += resource(operand).sizeBytes / cache.rows;
      }
    }
    return { weightBytes, bytesPerPosition };
  }

  const steps = await Promise.all(plan.steps.map(bindStep));
  /** The steps, with the one that chooses behind them. */
  const lists = new Map<Chooser | undefined, readonly BoundStep[]>([[undefined, steps]]);
  for (const [chooser, step] of Object.entries(plan.choosers)) {
    lists.set(chooser as Chooser, [...steps, await bindStep(step)]);
  }
  function listOf(chooser: Chooser | undefined): readonly BoundStep[] {
    const list = lists.get(chooser);
    if (list === undefined) throw new Error(`${plan.kind}: chooses no token`);
    return list;
  }

  const { profiler } = device;
  const budget = device.isSoftware ? submitFlops.software : submitFlops.gpu;

  /** Encodes and submits `list` as often as `count` says, for `seq` tokens a time. */
  async function submit(
    list: readonly BoundStep[],
    count: number,
    seq: number,
    past: number,
    { last, signal }: RunOptions,
  ): Promise<void> {
    const total = list.length * count;
    let first = 0;
    while (first < total) {
      const encoder = device.createCommandEncoder(plan.kind);
      let pass = profiler?.beginPass(encoder, 0) ?? encoder.beginComputePass();
      const bound: (GPUBindGroup | undefined)[] = [];
      const facts: DispatchFacts[] = [];
      let flops = 0;
      let next = first;
      for (; next < total && (next === first || flops < budget); next++) {
        const step = list[next % list.length];
        if (step === undefined) break;
        if (profiler !== undefined) {
          if (facts.length === profiler.mostDispatches) break;
          if (next > first) {
            pass.end();
            pass = profiler.beginPass(encoder, next - first);
            bound.length = 0;
          }
          const positions = Math.min(past + Math.floor(next / list.length) + seq, cache.rows);
          const readBytes = step.weightBytes + step.bytesPerPosition * positions;
          facts.push({ label: step.label, readBytes, flops: step.flopsPerToken * seq });
        }
        pass.setPipeline(step.pipeline);
        const { groups } = step;
        for (let index = 0; index < groups.length; index++) {
          const group = groups[index];
          if (group === undefined || group === bound[index]) continue;
          pass.setBindGroup(index, group);
          bound[index] = group;
        }
        const [x, y, z] = seq === 1 ? step.single : step.grid(seq);
        pass.dispatchWorkgroups(x, y, z);
        flops += step.flopsPerToken * seq;
      }
      pass.end();
      profiler?.resolve(encoder, facts.length);
      if (next >= total) last?.(encoder);
      device.submit(plan.kind, [encoder.finish()]);
      await profiler?.collect(plan.kind, facts);
      first = next;
      if (first < total) {
        await device.workDone();
        if (signal?.aborted) throw new PhiError("aborted", "stopped");
      }
    }
  }

  const stateHead = new Uint32Array(stateWords.head);
  const idWords = new Uint32Array(plan.maxSeq);

  function writeState(seq: number, past: number, drawn: number): void {
    if (seq < 1 || seq > plan.maxSeq) throw new Error(`${plan.kind}: ${seq} tokens in a plan for ${plan.maxSeq}`);
    stateHead.fill(0);
    stateHead[stateWords.past] = past;
    stateHead[stateWords.seq] = seq;
    stateHead[stateWords.kvRows] = cache.rows;
    stateHead[stateWords.drawn] = drawn;
    device.writeBuffer(shared.state, 0, stateHead);
  }

  return {
    plan,
    async feed(ids, past, drawn, options = {}) {
      const seq = ids.length;
      const list = listOf(options.chooser);
      writeState(seq, past, drawn);
      idWords.set(ids);
      device.writeBuffer(shared.ids, 0, idWords.subarray(0, seq));
      await submit(options.cacheOnly ? list.slice(0, plan.cacheSteps) : list, 1, seq, past, options);
    },
    async repeat(count, past, options) {
      await submit(listOf(options.chooser), count, 1, past, options);
    },
    async measure(seq, past, times) {
      writeState(seq, past, 0);
      await device.workDone();
      const beganMs = performance.now();
      await submit(steps, times, seq, past, {});
      await device.workDone();
      return (performance.now() - beganMs) / 1000 / times;
    },
  };
}
