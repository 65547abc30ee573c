/** A plan's steps with their pipelines and bind groups: what of a dispatch can be made before the first call. */

import type { Device, DeviceBuffer } from "../gpu/device.ts";
import { bindGroups, type Pipelines } from "../gpu/pipelines.ts";
import type { Chooser, Operand, Plan, Step } from "../graph/plan.ts";
import type { GpuWeights } from "../weights/upload.ts";
import type { Cache } from "./cache.ts";

/** The buffers of one sequence. */
export interface SequenceBuffers {
  /** Uniform, and storage for the choosers: see kernels/choose/next.wgsl. */
  readonly state: DeviceBuffer;
  /** Uniform: what the choosers are told, see kernels/choose/next.wgsl. */
  readonly control: DeviceBuffer;
  /** By token, what the sampler changes its logit by: see kernels/choose/sample.wgsl. */
  readonly marks: DeviceBuffer;
  /** Token ids of the call. */
  readonly ids: DeviceBuffer;
  readonly cache: Cache;
}

/** All that a plan is bound to. */
export interface PlanBuffers {
  readonly weights: GpuWeights;
  /** Values by slot; at least as large as any plan asks for. */
  readonly slots: readonly DeviceBuffer[];
  readonly sequence: SequenceBuffers;
}

export interface BoundStep {
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

export interface BoundPlan {
  readonly steps: readonly BoundStep[];
  /** The steps, with the one that chooses behind them. */
  readonly choosing: ReadonlyMap<Chooser, readonly BoundStep[]>;
}

function bufferOf(operand: Operand, { weights, slots, sequence }: PlanBuffers): DeviceBuffer {
  let buffer: DeviceBuffer | undefined;
  if ("slot" in operand) buffer = slots[operand.slot];
  else if ("matrix" in operand) buffer = weights.matrix(operand.matrix)[operand.range]?.weight;
  else if ("shape" in operand) buffer = weights.matrix(operand.shape)[operand.range]?.shape;
  else if ("scales" in operand) buffer = weights.matrix(operand.scales)[operand.range]?.scales;
  else if ("perm" in operand) buffer = weights.matrix(operand.perm)[operand.range]?.perm;
  else if ("vector" in operand) buffer = weights.vector(operand.vector);
  else if ("cache" in operand) buffer = sequence.cache[operand.cache][operand.layer];
  else buffer = operand.shared === "rope" ? sequence.cache.rope : sequence[operand.shared];
  if (buffer === undefined) throw new Error(`no buffer for ${JSON.stringify(operand)}`);
  return buffer;
}

/** Vectors are bound at their exact length: the norms' kernels take it for the number of columns. */
function resourceOf(operand: Operand, buffers: PlanBuffers): GPUBufferBinding {
  const { gpu } = bufferOf(operand, buffers);
  return "vector" in operand ? { buffer: gpu, size: operand.vector.length * 4 } : { buffer: gpu };
}

/** Bytes of weights, and of keys and values by position, that a step reads. */
function readsOf(
  { kernel, bindings, flopsPerToken }: Step,
  buffers: PlanBuffers,
): Pick<BoundStep, "weightBytes" | "bytesPerPosition"> {
  let weightBytes = 0;
  let bytesPerPosition = 0;
  for (const operand of Object.values(bindings)) {
    const matrix = "matrix" in operand ? operand.matrix : "scales" in operand ? operand.scales : undefined;
    if (matrix !== undefined && flopsPerToken > 0)
      weightBytes += bufferOf(operand, buffers).sizeBytes * matrix.activeShare;
    if ("cache" in operand && /^(a|decodeA)ttention</.test(kernel.name)) {
      bytesPerPosition += bufferOf(operand, buffers).sizeBytes / buffers.sequence.cache.rows;
    }
  }
  return { weightBytes, bytesPerPosition };
}

/** Binds every step of a plan. Throws a PhiError where the device fails, an Error where an operand has no buffer. */
export async function bindPlan(
  device: Device,
  pipelines: Pipelines,
  plan: Plan,
  buffers: PlanBuffers,
): Promise<BoundPlan> {
  async function bindStep(step: Step): Promise<BoundStep> {
    const { kernel, label, flopsPerToken } = step;
    const pipeline = await pipelines.get(kernel);
    const groups = bindGroups(device, label, pipeline, (name) => {
      const operand = step.bindings[name];
      return operand && resourceOf(operand, buffers);
    });
    const { grid } = kernel;
    const reads = readsOf(step, buffers);
    return { pipeline: pipeline.gpu, groups, grid, single: grid(1), flopsPerToken, label, ...reads };
  }

  const steps = await Promise.all(plan.steps.map(bindStep));
  const choosing = new Map<Chooser, readonly BoundStep[]>();
  for (const [chooser, step] of Object.entries(plan.choosers)) {
    choosing.set(chooser as Chooser, [...steps, await bindStep(step)]);
  }
  return { steps, choosing };
}
