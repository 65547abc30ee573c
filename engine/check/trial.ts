/** A kernel bound to a problem on a device: compared with what float64 loops make of it, and timed. */

import { stateWords } from "../../kernels/choose/next.ts";
import type { Kernel } from "../../kernels/kernel.ts";
import type { Device, DeviceBuffer } from "../gpu/device.ts";
import { bindGroups, type Pipelines } from "../gpu/pipelines.ts";
import type { Output, Problem } from "./problems/problem.ts";

/** Dispose it. */
export interface Trial {
  /**
   * Runs once, as the first thing, and compares `samples` numbers of each output, or all. Returns the largest difference
   * from float64 in units of what is allowed: right up to 1.
   */
  compare(samples?: number): Promise<number>;
  /** Runs some times in one submit; returns the seconds of one run. */
  run(times: number): Promise<number>;
  /** Bytes of what is bound. */
  readonly boundBytes: number;
  dispose(): void;
}

/** Throws a PhiError where the device fails, an Error where the problem is not the kernel's. */
export async function createTrial(
  device: Device,
  pipelines: Pipelines,
  kernel: Kernel,
  problem: Problem,
): Promise<Trial> {
  const { seq, past, kvRows, inputs, outputs, vectors = [], leastWorkgroups = 1 } = problem;
  const pipeline = await pipelines.get(kernel);
  const label = `trial ${kernel.name}`;
  const buffers: DeviceBuffer[] = [];
  const make = (name: string, bytes: number, usage: GPUBufferUsageFlags) => {
    const buffer = device.createBuffer(`${label} ${name}`, bytes, usage);
    buffers.push(buffer);
    return buffer;
  };
  const dispose = () => {
    for (const buffer of buffers) buffer.dispose();
  };
  try {
    const state = new Uint32Array(stateWords.all);
    state[stateWords.past] = past;
    state[stateWords.seq] = seq;
    state[stateWords.kvRows] = kvRows;
    const bound = new Map<string, GPUBufferBinding>();
    const results: { readonly output: Output; readonly buffer: DeviceBuffer }[] = [];
    for (const { name, type } of pipeline.bindings) {
      const output = outputs[name];
      const data = name === "state" ? state : (inputs[name] ?? (output && new Uint32Array(output.words)));
      if (data === undefined) throw new Error(`${kernel.name}: the problem has nothing for "${name}"`);
      const usage = type === "uniform" ? GPUBufferUsage.UNIFORM : GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
      const buffer = make(name, data.byteLength, usage | GPUBufferUsage.COPY_DST);
      device.writeBuffer(buffer, 0, data);
      bound.set(name, { buffer: buffer.gpu, ...(vectors.includes(name) && { size: data.byteLength }) });
      if (output !== undefined) results.push({ output, buffer });
    }
    const boundBytes = buffers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const groups = bindGroups(device, label, pipeline, (name) => bound.get(name));
    const [x, y, z] = kernel.grid(seq);
    const encode = (times: number) => {
      const encoder = device.createCommandEncoder(label);
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline.gpu);
      groups.forEach((group, index) => {
        pass.setBindGroup(index, group);
      });
      for (let i = 0; i < times; i++) pass.dispatchWorkgroups(Math.max(x, leastWorkgroups), y, z);
      pass.end();
      return encoder;
    };
    return {
      boundBytes,
      async compare(samples) {
        const encoder = encode(1);
        const copies = results.map(({ output, buffer }) => {
          const copy = make("copy", output.words * 4, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
          encoder.copyBufferToBuffer(buffer.gpu, 0, copy.gpu, 0, output.words * 4);
          return { output, copy };
        });
        device.submit(label, [encoder.finish()]);
        let error = 0;
        for (const { output, copy } of copies) {
          const words = new Uint32Array(await device.readBack(copy, output.words * 4));
          error = Math.max(error, difference(output, words, samples));
          copy.dispose();
        }
        return error;
      },
      async run(times) {
        const commands = encode(times).finish();
        const beganMs = performance.now();
        device.submit(label, [commands]);
        await device.workDone();
        return (performance.now() - beganMs) / 1000 / times;
      },
      dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

/**
 * The largest difference in units of the tolerance; infinite where a number is not finite, or all are zero that should
 * not be. Samples lie everywhere and, a quarter of them, at the end, where a cache has what was appended last.
 */
function difference(
  { count, expected, read, tolerance }: Output,
  words: Uint32Array<ArrayBuffer>,
  samples = count,
): number {
  const floats = new Float32Array(words.buffer);
  const actual = read?.(words) ?? ((index: number) => floats[index] ?? Number.NaN);
  const points = Math.min(samples, count);
  const last = points < count ? Math.floor(points / 4) : 0;
  let largest = 1;
  let worst = 0;
  let isWritten = false;
  let isZero = true;
  for (let n = 0; n < points; n++) {
    const index = n < points - last ? Math.floor((n * count) / (points - last)) : count - points + n;
    const [found, should] = [actual(index), expected(index)];
    const off = Math.abs(found - should);
    largest = Math.max(largest, Math.abs(should));
    isWritten ||= found !== 0;
    isZero &&= should === 0;
    if (!(off <= worst)) worst = Number.isNaN(off) ? Number.POSITIVE_INFINITY : off;
  }
  if (!isWritten && !isZero) return Number.POSITIVE_INFINITY;
  return worst === 0 ? 0 : worst / largest / tolerance;
}

/** Seconds that one measurement should take: long beside the submit, short beside what else the machine does. */
const measureSeconds = 0.1;

/** How often to run a kernel for a measurement of `seconds`, `most` times at most. */
export async function timesOf(run: Trial["run"], seconds = measureSeconds, most = 1000): Promise<number> {
  await run(1); // software drivers compile now
  return Math.max(1, Math.min(most, Math.round(seconds / (await run(1)))));
}
