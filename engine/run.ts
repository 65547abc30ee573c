/** A plan bound to buffers and pipelines: encodes a call with nothing left to allocate. */

import type { Cache } from "./cache.ts";
import type { Device, DeviceBuffer } from "./device.ts";
import { PhiError } from "./errors.ts";
import type { Pipelines } from "./pipelines.ts";
import type { Operand, Plan } from "./plan.ts";
import type { GpuWeights } from "./upload.ts";

/** The buffers that all plans of a model share. */
export interface SharedBuffers {
  /** Uniform: see kernels/state.wgsl. */
  readonly state: DeviceBuffer;
  /** Token ids of the call. */
  readonly ids: DeviceBuffer;
  /** What `argmax` found. */
  readonly choice: DeviceBuffer;
  /** Values by slot; at least as large as any plan asks for. */
  readonly slots: readonly DeviceBuffer[];
}

export interface Runner {
  readonly plan: Plan;
  /**
   * Runs the plan for `ids` at positions `past` …: writes state and ids and submits. A call that is estimated to take
   * long is submitted in parts, so that `signal` stops it between two of them.
   */
  run(ids: readonly number[], past: number, signal?: AbortSignal): Promise<void>;
}

interface BoundStep {
  readonly pipeline: GPUComputePipeline;
  readonly groups: readonly GPUBindGroup[];
  readonly grid: (seq: number) => readonly [number, number, number];
  readonly flopsPerToken: number;
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

  const steps: BoundStep[] = await Promise.all(
    plan.steps.map(async (step) => {
      const pipeline = await pipelines.get(step.kernel);
      const groups = pipeline.layouts.map((layout, group) => {
        const entries = pipeline.bindings
          .filter((binding) => binding.group === group)
          .map(({ name, binding }) => {
            const operand = step.bindings[name];
            if (operand === undefined) throw new Error(`${step.label}: nothing is bound to "${name}"`);
            return { binding, resource: bound(operand) };
          });
        return device.createBindGroup(step.label, layout, entries);
      });
      return { pipeline: pipeline.gpu, groups, grid: step.kernel.grid, flopsPerToken: step.flopsPerToken };
    }),
  );

  const stateWords = new Uint32Array(4);
  const idWords = new Uint32Array(plan.maxSeq);
  const budget = device.isSoftware ? submitFlops.software : submitFlops.gpu;

  return {
    plan,
    async run(ids, past, signal) {
      const seq = ids.length;
      if (seq < 1 || seq > plan.maxSeq) throw new Error(`${plan.kind}: ${seq} tokens in a plan for ${plan.maxSeq}`);
      stateWords[0] = past;
      stateWords[1] = seq;
      stateWords[3] = cache.rows;
      idWords.set(ids);
      device.writeBuffer(shared.state, 0, stateWords);
      device.writeBuffer(shared.ids, 0, idWords.subarray(0, seq));

      let first = 0;
      while (first < steps.length) {
        const encoder = device.gpu.createCommandEncoder();
        const pass = encoder.beginComputePass();
        let flops = 0;
        let next = first;
        for (; next < steps.length && (next === first || flops < budget); next++) {
          const step = steps[next];
          if (step === undefined) break;
          pass.setPipeline(step.pipeline);
          step.groups.forEach((group, index) => {
            pass.setBindGroup(index, group);
          });
          pass.dispatchWorkgroups(...step.grid(seq));
          flops += step.flopsPerToken * seq;
        }
        pass.end();
        device.submit(plan.kind, [encoder.finish()]);
        first = next;
        if (first < steps.length) {
          await device.workDone();
          if (signal?.aborted) throw new PhiError("aborted", "stopped");
        }
      }
    },
  };
}
