/**
 * Kernels alone at the shapes of real models: each output is checked against float64 loops before its time counts, and
 * the time is put beside what this adapter's own copies move and its multiplications compute.
 */
import { Device, type DeviceBuffer } from "../engine/device.ts";
import { PhiError } from "../engine/errors.ts";
import { toFloat32 } from "../engine/formats/plain.ts";
import { unpackQuantized } from "../engine/formats/quantized.ts";
import { createPipelines, type Pipelines } from "../engine/pipelines.ts";
import type { Tuning } from "../engine/plan.ts";
import { tuningFor } from "../engine/tuning.ts";
import { foldedGrid, type Kernel, stateSnippet } from "../kernels/kernel.ts";
import type { Epilogue, LinearShape } from "../kernels/linear.ts";
import { matmul } from "../kernels/matmul.ts";
import { matvec } from "../kernels/matvec.ts";
import { groupShift, type Packing, rowBytes, scaleRowBytes, type WeightLayout } from "../kernels/weights.ts";
import { type Figure, spread } from "./report.ts";

/** The linears of a model, by the name of what they make. */
interface LinearOf {
  readonly name: string;
  readonly rows: number;
  readonly cols: number;
  readonly epilogue?: Epilogue;
}

export const kernelModels = ["smollm2", "phi-2", "phi-3-mini"] as const;
export type KernelModel = (typeof kernelModels)[number];

const linears: Readonly<Record<KernelModel, readonly LinearOf[]>> = {
  smollm2: [
    { name: "qkv", rows: 960, cols: 576 },
    { name: "o", rows: 576, cols: 576 },
    { name: "gate_up", rows: 1536, cols: 576, epilogue: "gated_silu" },
    { name: "down", rows: 576, cols: 1536 },
    { name: "head", rows: 49152, cols: 576 },
  ],
  "phi-2": [
    { name: "qkv", rows: 7680, cols: 2560 },
    { name: "fc1", rows: 10240, cols: 2560 },
    { name: "fc2", rows: 2560, cols: 10240 },
  ],
  "phi-3-mini": [
    { name: "qkv", rows: 9216, cols: 3072 },
    { name: "gate_up", rows: 8192, cols: 3072, epilogue: "gated_silu" },
    { name: "down", rows: 3072, cols: 8192 },
  ],
};

export interface KernelBenchOptions {
  readonly models: readonly KernelModel[];
  readonly layouts: readonly WeightLayout[];
  /** Tokens of a call; 1 is matvec. */
  readonly tokens: readonly number[];
  /** Rounds over all kernels, so that what disturbs one disturbs all. */
  readonly repetitions: number;
  /** Only kernels whose name holds this. */
  readonly only?: string;
  /** Sizes to compare with those of the adapter, by a name that is put behind the kernel's. */
  readonly variants?: Readonly<Record<string, Tuning>>;
  readonly onProgress?: (text: string) => void;
}

/** A kernel with its buffers, ready to run, and what its run moves and computes. */
interface Case {
  readonly name: string;
  readonly bytes: number;
  readonly flops: number;
  readonly kernel: Kernel;
  readonly tokens: number;
  readonly operands: Readonly<Record<string, DeviceBuffer>>;
  /** Throws where the output is wrong; the largest error, in units of what is allowed. */
  check(): Promise<number>;
}

/** Seconds that one measurement should take: long beside the submit, short beside what else the machine does. */
const measureSeconds = 0.1;

export async function benchKernels(adapter: GPUAdapter, options: KernelBenchOptions): Promise<readonly Figure[]> {
  const device = await Device.open(adapter);
  try {
    const bench = { device, pipelines: createPipelines(device), options };
    const limits = { bytes: await copyRate(bench), flops: await computeRate(bench) };
    const figures: Figure[] = [
      { name: "copy", unit: "GB/s", samples: [limits.bytes / 1e9] },
      { name: "multiply-add", unit: "GFLOP/s", samples: [limits.flops / 1e9] },
    ];
    const tunings = { "": tuningFor(device), ...options.variants };
    for (const model of options.models) {
      for (const linear of linears[model]) {
        for (const layout of options.layouts) {
          for (const tokens of options.tokens) {
            figures.push(...(await benchLinear(bench, tunings, { model, linear, layout, tokens }, limits)));
          }
        }
      }
    }
    return figures;
  } finally {
    device.dispose();
  }
}

/**
 * Bytes a second, read and written, that this adapter copies of about `bytes`: a working set that fits into a cache is
 * measured by the cache.
 */
export async function measureCopyRate(adapter: GPUAdapter, bytes: number): Promise<number> {
  const device = await Device.open(adapter);
  try {
    // Half of them are read and half written; a workgroup copies 1 KiB.
    const half = Math.max(1 << 20, Math.ceil(bytes / 2 / 1024) * 1024);
    return await copyRate({ device, pipelines: createPipelines(device) }, half);
  } finally {
    device.dispose();
  }
}

/** Where kernels are run. */
export interface Setup {
  readonly device: Device;
  readonly pipelines: Pipelines;
}

interface Bench extends Setup {
  readonly options: KernelBenchOptions;
}

export type Runner = (times: number) => Promise<number>;

/** Binds a kernel; what it returns runs it some times in one submit and gives the seconds of one. */
export async function runnerOf(
  { device, pipelines }: Setup,
  kernel: Kernel,
  tokens: number,
  operands: Case["operands"],
): Promise<Runner> {
  const pipeline = await pipelines.get(kernel);
  const groups = pipeline.layouts.map((layout, group) => {
    const bound = pipeline.bindings.filter((binding) => binding.group === group);
    const entries = bound.map(({ name, binding }) => {
      const buffer = operands[name];
      if (buffer === undefined) throw new Error(`${kernel.name}: nothing is bound to "${name}"`);
      return { binding, resource: { buffer: buffer.gpu } };
    });
    return device.createBindGroup(kernel.name, layout, entries);
  });
  return async (times) => {
    const encoder = device.gpu.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline.gpu);
    groups.forEach((group, index) => {
      pass.setBindGroup(index, group);
    });
    for (let i = 0; i < times; i++) pass.dispatchWorkgroups(...kernel.grid(tokens));
    pass.end();
    const commands = encoder.finish();
    const beganMs = performance.now();
    device.submit(kernel.name, [commands]);
    await device.workDone();
    return (performance.now() - beganMs) / 1000 / times;
  };
}

/** How often to run a kernel for a measurement. */
export async function timesOf(run: Runner): Promise<number> {
  await run(1); // software drivers compile now
  return Math.max(1, Math.min(1000, Math.round(measureSeconds / (await run(1)))));
}

async function secondsOf(run: Runner, repetitions: number): Promise<readonly number[]> {
  const times = await timesOf(run);
  const samples: number[] = [];
  for (let i = 0; i < repetitions; i++) samples.push(await run(times));
  return samples;
}

export function buffer(
  { device }: Setup,
  data: ArrayBufferView<ArrayBuffer>,
  usage = GPUBufferUsage.STORAGE,
): DeviceBuffer {
  const made = device.createBuffer("bench", data.byteLength, usage | GPUBufferUsage.COPY_DST);
  device.writeBuffer(made, 0, data);
  return made;
}

export function output({ device }: Setup, bytes: number): DeviceBuffer {
  return device.createBuffer("bench output", bytes, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC);
}

export async function read({ device }: Setup, from: DeviceBuffer, bytes: number): Promise<Float32Array> {
  const staging = device.createBuffer("bench staging", bytes, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
  const encoder = device.gpu.createCommandEncoder();
  encoder.copyBufferToBuffer(from.gpu, 0, staging.gpu, 0, bytes);
  device.submit("read", [encoder.finish()]);
  const data = await device.readBack(staging, bytes);
  staging.dispose();
  return new Float32Array(data);
}

function stateOf(bench: Setup, tokens: number): DeviceBuffer {
  return buffer(bench, Uint32Array.of(0, tokens, 0, 0, ...new Array<number>(60).fill(0)), GPUBufferUsage.UNIFORM);
}

/** The most that a copy is measured with: beyond the caches of most GPUs. */
const copyBytes = 64 << 20;

/** Bytes a second, read and written: the better of a kernel's and the copy command, which a CPU does without kernels. */
async function copyRate(bench: Setup, asked = copyBytes): Promise<number> {
  const bytes = Math.min(asked, copyBytes, bench.device.maxBindingBytes);
  const kernel: Kernel = {
    name: "copy",
    files: [new URL("./copy.wgsl", import.meta.url), stateSnippet],
    constants: {},
    tile: {},
    grid: () => foldedGrid(bytes / 16 / 64),
  };
  const x = bench.device.createBuffer("bench", bytes, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC);
  const y = bench.device.createBuffer("bench", bytes, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST);
  const operands = { state: stateOf(bench, 1), x, y };
  const command: Runner = async (times) => {
    const encoder = bench.device.gpu.createCommandEncoder();
    for (let i = 0; i < times; i++) encoder.copyBufferToBuffer(x.gpu, 0, y.gpu, 0, bytes);
    const commands = encoder.finish();
    const beganMs = performance.now();
    bench.device.submit("copy", [commands]);
    await bench.device.workDone();
    return (performance.now() - beganMs) / 1000 / times;
  };
  const kernels = await secondsOf(await runnerOf(bench, kernel, 1, operands), 5);
  const commands = await secondsOf(command, 5);
  for (const one of Object.values(operands)) one.dispose();
  return (2 * bytes) / Math.min(...kernels, ...commands);
}

/** Operations a second on registers. */
async function computeRate(bench: Bench): Promise<number> {
  const workgroups = bench.device.isSoftware ? 64 : 4096;
  const steps = 250;
  const kernel: Kernel = {
    name: "peak",
    files: [new URL("./peak.wgsl", import.meta.url), stateSnippet],
    constants: { STEPS: steps },
    tile: {},
    grid: () => [workgroups, 1, 1],
  };
  const operands = { state: stateOf(bench, 1), y: output(bench, workgroups * 64 * 16) };
  const seconds = await secondsOf(await runnerOf(bench, kernel, 1, operands), 5);
  for (const one of Object.values(operands)) one.dispose();
  return (workgroups * 64 * steps * 512) / Math.min(...seconds);
}

interface LinearCase {
  readonly model: KernelModel;
  readonly linear: LinearOf;
  readonly layout: WeightLayout;
  readonly tokens: number;
}

async function benchLinear(
  bench: Bench,
  tunings: Readonly<Record<string, Tuning>>,
  one: LinearCase,
  limits: { readonly bytes: number; readonly flops: number },
): Promise<readonly Figure[]> {
  const { model, linear, layout, tokens } = one;
  const { options, device } = bench;
  const name = `${model} ${linear.name} ${tokens === 1 ? "matvec" : "matmul"}<${layout}>${tokens === 1 ? "" : ` ${tokens} tokens`}`;
  if (options.only !== undefined && !name.includes(options.only)) return [];
  if (rowBytes(layout, linear.cols) * linear.rows * 2 > device.maxBindingBytes) return [];
  options.onProgress?.(name);
  const cases = linearCases(bench, tunings, one);
  try {
    const runs: { readonly of: Case; readonly run: Runner; readonly times: number; readonly error: number }[] = [];
    for (const of of cases) {
      const run = await runnerOf(bench, of.kernel, tokens, of.operands);
      const times = await timesOf(run);
      runs.push({ of, run, times, error: await of.check() });
    }
    const seconds = runs.map(() => [] as number[]);
    for (let i = 0; i < options.repetitions; i++) {
      for (const [index, { run, times }] of runs.entries()) seconds[index]?.push(await run(times));
    }
    return runs.flatMap(({ of, error }, index) => {
      const samples = seconds[index] ?? [];
      const rate =
        tokens === 1
          ? { unit: "GB/s", work: of.bytes, limit: limits.bytes, share: "  of copy" }
          : { unit: "GFLOP/s", work: of.flops, limit: limits.flops, share: "  of multiply-add" };
      const share = (100 * rate.work) / spread(samples).median / rate.limit;
      return [
        { name: of.name, unit: rate.unit, samples: samples.map((s) => rate.work / s / 1e9) },
        { name: rate.share, unit: "%", samples: [share] },
        ...(error > 0 ? [{ name: "  error", unit: "of its bound", samples: [error] }] : []),
      ];
    });
  } finally {
    for (const made of new Set(cases.flatMap(({ operands }) => Object.values(operands)))) made.dispose();
  }
}

/** Random bits of a packed matrix whose values are small: halves and floats below 1/8, integers with scales around 1/64. */
function randomWeight(layout: WeightLayout, bytes: number): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(bytes / 4);
  let seed = 1;
  for (let i = 0; i < words.length; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const bits = (seed ^ (seed >>> 15)) >>> 0;
    if (layout === "f16") words[i] = (bits & 0x83ff83ff) | 0x2c002c00;
    else if (layout === "bf16") words[i] = (bits & 0x807f807f) | 0x3d803d80;
    else if (layout === "f32") words[i] = (bits & 0x807fffff) | 0x3d800000;
    else words[i] = bits;
  }
  return words;
}

/** The same linear for each tuning, on the same buffers. */
function linearCases(
  bench: Bench,
  tunings: Readonly<Record<string, Tuning>>,
  { model, linear, layout, tokens }: LinearCase,
): readonly Case[] {
  const { rows, cols, epilogue = "none" } = linear;
  const parts = epilogue === "gated_silu" ? 2 : 1;
  const packing: Packing = layout === "q4" || layout === "q8" ? { layout, group: 32 } : { layout };
  const weight = randomWeight(layout, rows * parts * rowBytes(layout, cols));
  const scales = new Uint32Array((rows * parts * scaleRowBytes(packing, cols)) / 4);
  const zero = layout === "q4" ? 0x4700 : 0x57f0; // 7 and 127 as float16
  for (let i = 0; i < scales.length; i++) scales[i] = 0x2400 | ((i * 37) & 0x3ff) | ((zero + (i % 3)) << 16);
  const x = Float32Array.from({ length: tokens * cols }, (_, i) => Math.sin(i * 0.7) + (i % 5) / 8);
  const y = output(bench, tokens * rows * 4);
  const operands = {
    state: stateOf(bench, tokens),
    x: buffer(bench, x),
    y,
    weight: buffer(bench, weight),
    matrix: buffer(bench, Uint32Array.of(0, rows, rows, cols, groupShift(packing), 0, 0, 0), GPUBufferUsage.UNIFORM),
    ...(scales.length > 0 ? { scales: buffer(bench, scales) } : {}),
  };
  const bytes = weight.byteLength + scales.byteLength + x.byteLength + tokens * rows * 4;
  const flops = 2 * rows * parts * cols * tokens;
  const values = (row: number) => rowValues(packing, weight, scales, row, cols);
  const check = () => checkLinear(bench, { x, y, values, rows, cols, tokens, parts });
  const shape: LinearShape = { layout, epilogue, cols, rangeRows: rows };
  return Object.entries(tunings).map(([variant, tuning]) => {
    const kernel = tokens === 1 ? matvec(shape, tuning.matvec) : matmul(shape, tuning.matmul);
    const unrolled = { ...kernel, constants: { ...kernel.constants, UNROLL: tuning.unroll ? 1 : 0 } };
    const name = `${model} ${linear.name} ${kernel.name}${tokens === 1 ? "" : ` ${tokens} tokens`}`;
    const variantName = variant === "" ? name : `${name} ${variant}`;
    return { name: variantName, bytes, flops, kernel: unrolled, tokens, operands, check };
  });
}

/** Row `row` of a packed matrix. */
function rowValues(
  packing: Packing,
  weight: Uint32Array,
  scales: Uint32Array,
  row: number,
  cols: number,
): Float64Array | Float32Array {
  const bytes = new Uint8Array(weight.buffer).subarray(row * rowBytes(packing.layout, cols), (row + 1) * rowBytes(packing.layout, cols)); // biome-ignore format: one line
  if ("group" in packing) {
    const stride = scaleRowBytes(packing, cols);
    const own = new Uint8Array(scales.buffer).subarray(row * stride, (row + 1) * stride);
    return unpackQuantized(packing.layout, { weight: bytes, scales: own }, { rows: 1, cols, group: packing.group });
  }
  const dtype = ({ f32: "F32", f16: "F16", bf16: "BF16" } as const)[packing.layout];
  return toFloat32(bytes, dtype).subarray(0, cols);
}

/** Outputs that are compared: enough to meet every thread of a tile and both ends. */
const sampled = 400;

/** Compares outputs with float64 loops; the error's bound is that of a float32 sum in any order. */
async function checkLinear(
  bench: Bench,
  linear: {
    readonly x: Float32Array;
    readonly y: DeviceBuffer;
    readonly values: (row: number) => ArrayLike<number>;
    readonly rows: number;
    readonly cols: number;
    readonly tokens: number;
    readonly parts: number;
  },
): Promise<number> {
  const { x, rows, cols, tokens, parts } = linear;
  const actual = await read(bench, linear.y, tokens * rows * 4);
  if (actual.every((value) => value === 0)) throw new PhiError("internal", "a kernel wrote nothing but zeros");
  let worst = 0;
  for (let n = 0; n <= sampled; n++) {
    const at = Math.floor((n / sampled) * (rows * tokens - 1));
    const token = Math.floor(at / rows);
    const sums = Array.from({ length: parts }, (_, part) => {
      const w = linear.values(part * rows + (at % rows));
      let sum = 0;
      let size = 0;
      for (let k = 0; k < cols; k++) {
        const product = (w[k] ?? 0) * (x[token * cols + k] ?? 0);
        sum += product;
        size += Math.abs(product);
      }
      return { sum, size };
    });
    const [first, second] = sums;
    if (first === undefined) continue;
    const silu = first.sum / (1 + Math.exp(-first.sum));
    const expected = second === undefined ? first.sum : silu * second.sum;
    // (n + 2) u sum |w x| (Higham, Accuracy and Stability, 3.1); silu's slope is at most 1.1, and its exp is off by 1e-5.
    const u = (cols + 2) * 2 ** -24;
    const bound =
      second === undefined
        ? u * first.size
        : u * (1.1 * first.size * Math.abs(second.sum) + Math.abs(silu) * second.size) + 2e-5 * Math.abs(expected);
    const error = Math.abs((actual[at] ?? Number.NaN) - expected) / bound;
    if (!(error <= 1)) {
      const place = `row ${at % rows}, token ${token}`;
      throw new PhiError("internal", `${place}: expected ${expected} ± ${bound}, got ${actual[at]}`);
    }
    worst = Math.max(worst, error);
  }
  return worst;
}
