/** A plan on the buffers of a sequence: encodes calls with nothing left to allocate. */

import { stateWords } from "../../kernels/choose/next.ts";
import { PhiError } from "../errors.ts";
import type { Device } from "../gpu/device.ts";
import type { DispatchFacts, Profiler } from "../gpu/profile.ts";
import type { Chooser, Plan } from "../graph/plan.ts";
import type { BoundPlan, BoundStep, SequenceBuffers } from "./binding.ts";

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

/** Operations of one submit: about a tenth of a second, on a slow GPU and on a CPU that stands in for one. */
const defaultSubmitFlops = { gpu: 2e11, software: 1e9 };

/** What a submit is made of. */
interface Submission {
  readonly steps: readonly BoundStep[];
  /** How often the steps run. */
  readonly count: number;
  /** Tokens each time, the first at position `past`. */
  readonly seq: number;
  readonly past: number;
}

/** A runner of a bound plan; `buffers` are those of the sequence that it is bound to. */
export function createRunner(
  device: Device,
  plan: Plan,
  bound: BoundPlan,
  buffers: SequenceBuffers,
  { profiler, submitFlops }: { readonly profiler: Profiler | undefined; readonly submitFlops: number | undefined },
): Runner {
  const budget = submitFlops ?? defaultSubmitFlops[device.isSoftware ? "software" : "gpu"];
  const { cache } = buffers;
  const stateHead = new Uint32Array(stateWords.head);
  const idWords = new Uint32Array(plan.maxSeq);

  function stepsOf(chooser: Chooser | undefined): readonly BoundStep[] {
    const steps = chooser === undefined ? bound.steps : bound.choosing.get(chooser);
    if (steps === undefined) throw new Error(`${plan.kind}: chooses no token`);
    return steps;
  }

  /** Encodes dispatches from `first` on into one pass, as many as the budget allows; the index of the next one. */
  function encode(encoder: GPUCommandEncoder, { steps, count, seq }: Submission, first: number): number {
    const total = steps.length * count;
    const pass = encoder.beginComputePass();
    let lastGroups: readonly GPUBindGroup[] = [];
    let flops = 0;
    let next = first;
    for (; next < total && (next === first || flops < budget); next++) {
      const step = steps[next % steps.length];
      if (step === undefined) break;
      lastGroups = dispatch(pass, step, seq, lastGroups);
      flops += step.flopsPerToken * seq;
    }
    pass.end();
    return next;
  }

  /** The same with a pass for each dispatch, whose times the profiler takes. */
  function encodeProfiled(
    encoder: GPUCommandEncoder,
    { steps, count, seq, past }: Submission,
    first: number,
    profiler: Profiler,
  ): { readonly next: number; readonly facts: readonly DispatchFacts[] } {
    const total = steps.length * count;
    const facts: DispatchFacts[] = [];
    let flops = 0;
    let next = first;
    for (; next < total && (next === first || flops < budget) && facts.length < profiler.mostDispatches; next++) {
      const step = steps[next % steps.length];
      if (step === undefined) break;
      const pass = profiler.beginPass(encoder, next - first);
      dispatch(pass, step, seq, []);
      pass.end();
      const positions = Math.min(past + Math.floor(next / steps.length) + seq, cache.rows);
      const readBytes = step.weightBytes + step.bytesPerPosition * positions;
      facts.push({ label: step.label, readBytes, flops: step.flopsPerToken * seq });
      flops += step.flopsPerToken * seq;
    }
    profiler.resolve(encoder, facts.length);
    return { next, facts };
  }

  /** Encodes and submits, in as many parts as the budget asks for. */
  async function submit(what: Submission, { last, signal }: RunOptions): Promise<void> {
    const total = what.steps.length * what.count;
    let first = 0;
    while (first < total) {
      const encoder = device.createCommandEncoder(plan.kind);
      const profiled = profiler && encodeProfiled(encoder, what, first, profiler);
      first = profiled?.next ?? encode(encoder, what, first);
      if (first >= total) last?.(encoder);
      device.submit(plan.kind, [encoder.finish()]);
      if (profiled !== undefined) await profiler?.collect(plan.kind, profiled.facts);
      if (first < total) {
        await device.workDone();
        if (signal?.aborted) throw new PhiError("aborted", "stopped");
      }
    }
  }

  function writeState(seq: number, past: number, drawn: number): void {
    if (seq < 1 || seq > plan.maxSeq) throw new Error(`${plan.kind}: ${seq} tokens in a plan for ${plan.maxSeq}`);
    stateHead.fill(0);
    stateHead[stateWords.past] = past;
    stateHead[stateWords.seq] = seq;
    stateHead[stateWords.kvRows] = cache.rows;
    stateHead[stateWords.drawn] = drawn;
    device.writeBuffer(buffers.state, 0, stateHead);
  }

  return {
    plan,
    async feed(ids, past, drawn, options = {}) {
      const seq = ids.length;
      const steps = stepsOf(options.chooser);
      writeState(seq, past, drawn);
      idWords.set(ids);
      device.writeBuffer(buffers.ids, 0, idWords.subarray(0, seq));
      const wanted = options.cacheOnly ? steps.slice(0, plan.cacheSteps) : steps;
      await submit({ steps: wanted, count: 1, seq, past }, options);
    },
    async repeat(count, past, options) {
      await submit({ steps: stepsOf(options.chooser), count, seq: 1, past }, options);
    },
    async measure(seq, past, times) {
      writeState(seq, past, 0);
      await device.workDone();
      const beganMs = performance.now();
      await submit({ steps: bound.steps, count: times, seq, past }, {});
      await device.workDone();
      return (performance.now() - beganMs) / 1000 / times;
    },
  };
}

/** Encodes a step; bind groups that `lastGroups` has are set already. Returns those that are set now. */
function dispatch(
  pass: GPUComputePassEncoder,
  { pipeline, groups, grid, single }: BoundStep,
  seq: number,
  lastGroups: readonly GPUBindGroup[],
): readonly GPUBindGroup[] {
  pass.setPipeline(pipeline);
  for (let index = 0; index < groups.length; index++) {
    const group = groups[index];
    if (group !== undefined && group !== lastGroups[index]) pass.setBindGroup(index, group);
  }
  const [x, y, z] = seq === 1 ? single : grid(seq);
  pass.dispatchWorkgroups(x, y, z);
  return groups;
}
