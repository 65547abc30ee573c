/**
 * Runs one kernel on arrays. All tests of a process share one device and its pipelines. Every run happens inside error
 * scopes that must come back empty; what lies behind inputs and outputs, and in outputs that nothing writes, is a NaN.
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { onTestFinished } from "vitest";
import { packPlain } from "../../engine/check/problems/numbers.ts";
import { Device, type DeviceBuffer } from "../../engine/gpu/device.ts";
import { bindGroups, createPipelines, type Pipelines } from "../../engine/gpu/pipelines.ts";
import { packQuantized } from "../../engine/weights/packed.ts";
import { tiled } from "../../engine/weights/tiles.ts";
import { type Kernel, stateSnippet } from "../../kernels/kernel.ts";
import { matrixWords, type Packing, rowBytes, scaleRowBytes, weightLayouts } from "../../kernels/weights/weights.ts";
import { testAdapter } from "../gpu.ts";
import { coordinates, type NastyMode, randomValues } from "../reference/compare.ts";
import { decodeHalves, dequantize, encodeHalves, type Numbers } from "../reference/ops.ts";
import { randomQuantized } from "../reference/quantized.ts";

interface Setup {
  readonly device: Device;
  readonly pipelines: Pipelines;
}

const shared: { setup?: Promise<Setup> } = {};

/** The process's device: it lives as long as the process, for no test file knows whether it is the last one. */
export function kernelSetup(): Promise<Setup> {
  shared.setup ??= (async () => {
    const device = await Device.open(await testAdapter(), { watchdogMs: 120_000 }); // software drivers compile slowly
    return { device, pipelines: createPipelines(device) };
  })();
  return shared.setup;
}

/** What an output holds before the kernel runs: a NaN as f32, and as either f16. No kernel's arithmetic makes it. */
const unwritten = 0xfff1fdad;
/** Words behind the end of every buffer: an input's must not reach a result, an output's must stay. */
const guardWords = 16;

/**
 * An input; a model's vector, which is bound at its exact length, as kernels take that for the number of columns; an
 * output with its length in words (float32 or u32); or one that is changed in place.
 */
export type Operand =
  | Float32Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>
  | { readonly vector: Float32Array<ArrayBuffer> }
  | { readonly output: number }
  | { readonly inPlace: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer> };
type Written = { readonly output: number } | { readonly inPlace: unknown };
type Outputs<Operands> = {
  readonly [Name in keyof Operands as Operands[Name] extends Written ? Name : never]: Float32Array;
};

/**
 * Runs a kernel for `seq` tokens at positions past …; `operands` by their names in the WGSL file, `state` only
 * where a kernel writes it.
 * Loops are kept from being unrolled, where the kernel's constants do not say otherwise: software drivers compile long.
 */
export async function runKernel<Operands extends Readonly<Record<string, Operand>>>(
  given: Kernel,
  { seq, past = 0, kvRows = 0 }: { readonly seq: number; readonly past?: number; readonly kvRows?: number },
  operands: Operands,
): Promise<Outputs<Operands>> {
  const { device, pipelines } = await kernelSetup();
  const hasState = given.files.includes(stateSnippet);
  const kernel = hasState ? { ...given, constants: { UNROLL: 0, ...given.constants } } : given;
  const buffers: DeviceBuffer[] = [];
  const make = (label: string, bytes: number, usage: GPUBufferUsageFlags): DeviceBuffer => {
    const buffer = device.createBuffer(label, bytes, usage);
    buffers.push(buffer);
    return buffer;
  };
  device.gpu.pushErrorScope("out-of-memory");
  device.gpu.pushErrorScope("validation");
  const outputs: Record<string, Float32Array> = {};
  try {
    const pipeline = await pipelines.get(kernel);
    const bound = new Map<string, GPUBufferBinding>();
    const state = Uint32Array.of(past, seq, 0, kvRows);
    const all: Readonly<Record<string, Operand>> = { ...(hasState ? { state } : {}), ...operands };
    for (const [name, operand] of Object.entries(all)) {
      const data = dataOf(operand);
      const words = "output" in operand ? operand.output : (data?.length ?? 0);
      const image = new Uint32Array(words + guardWords).fill(unwritten);
      if (data !== undefined) image.set(new Uint32Array(data.buffer, data.byteOffset, words));
      const kind = pipeline.bindings.find((binding) => binding.name === name)?.type;
      if (kind === undefined) throw new Error(`${kernel.name} has no binding "${name}"`);
      const usage = kind === "uniform" ? GPUBufferUsage.UNIFORM : GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
      const buffer = make(name, image.byteLength, usage | GPUBufferUsage.COPY_DST);
      device.writeBuffer(buffer, 0, image);
      bound.set(name, { buffer: buffer.gpu, size: "vector" in operand ? words * 4 : image.byteLength });
    }
    const groups = bindGroups(device, kernel.name, pipeline, (name) => bound.get(name));
    const encoder = device.createCommandEncoder(kernel.name);
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline.gpu);
    groups.forEach((group, index) => {
      pass.setBindGroup(index, group);
    });
    pass.dispatchWorkgroups(...kernel.grid(seq));
    pass.end();
    const results = Object.entries(operands).flatMap(([name, operand]) => {
      const source = bound.get(name);
      const words = "output" in operand ? operand.output : "inPlace" in operand ? operand.inPlace.length : undefined;
      if (words === undefined || source === undefined) return [];
      const bytes = (words + guardWords) * 4;
      const copy = make(`${name} copy`, bytes, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
      encoder.copyBufferToBuffer(source.buffer, 0, copy.gpu, 0, bytes);
      return [{ name, words, copy, bytes }];
    });
    device.submit(kernel.name, [encoder.finish()]);
    for (const { name, words, copy, bytes } of results) {
      const data = await device.readBack(copy, bytes);
      const guard = new Uint32Array(data, words * 4);
      const hit = guard.findIndex((word) => word !== unwritten);
      if (hit >= 0) throw new Error(`${kernel.name}: element ${words + hit} of "${name}" [${words}] was written`);
      outputs[name] = new Float32Array(data, 0, words);
    }
  } finally {
    const problems = [await device.gpu.popErrorScope(), await device.gpu.popErrorScope()];
    for (const buffer of buffers) buffer.dispose();
    const problem = problems.find((error) => error !== null);
    // biome-ignore lint/correctness/noUnsafeFinally: a refused call explains whatever else went wrong
    if (problem) throw new Error(`${kernel.name}: ${problem.message}`);
  }
  return outputs as Outputs<Operands>;
}

/** What an operand holds before the kernel runs; undefined for an output. */
function dataOf(operand: Operand): Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer> | undefined {
  if ("output" in operand) return undefined;
  if ("vector" in operand) return operand.vector;
  return "inPlace" in operand ? operand.inPlace : operand;
}

/** Buffers that are alive on the shared device: 0 between runs. */
export async function liveBuffers(): Promise<number> {
  return (await kernelSetup()).device.ledger.buffers;
}

/** Rounding of one float32 operation. */
export const u = 2 ** -24;
/** Smallest normal float32: WGSL lets a driver flush what is smaller to zero, at any step. */
export const smallest = 2 ** -126;

/**
 * Checks each element against a bound of its own, which follows from the condition of what is computed. Throws an error
 * with the worst case in units of its bound, its coordinates and the count of offenders. A NaN matches only a NaN, which
 * stands for "not written", an infinity only itself.
 */
export function expectWithin(
  actual: Numbers,
  expected: Numbers,
  bound: (index: number) => number,
  { shape, what }: { readonly shape: readonly number[]; readonly what: string },
): void {
  const count = shape.reduce((product, size) => product * size, 1);
  if (actual.length !== count || expected.length !== count) {
    throw new Error(`${what}: expected ${count} elements [${shape}], got ${actual.length} and ${expected.length}`);
  }
  let offenders = 0;
  let worst = { index: 0, excess: -1, bound: 0 };
  for (let index = 0; index < count; index++) {
    const a = actual[index] ?? Number.NaN;
    const e = expected[index] ?? Number.NaN;
    const allowed = bound(index);
    if (Object.is(a, e) || Math.abs(a - e) <= allowed) continue;
    offenders++;
    const excess = Math.abs(a - e) / allowed;
    if (!(excess <= worst.excess)) worst = { index, excess, bound: allowed };
  }
  if (offenders === 0) return;
  const at = coordinates(worst.index, shape);
  throw new Error(
    `${what}: ${offenders} of ${count} elements differ by more than their bound; worst at ${at}: ` +
      `expected ${expected[worst.index]} ± ${worst.bound}, got ${actual[worst.index]}`,
  );
}

/** A weight [rows, cols] in a packed layout, and the values that it has there. */
export interface PackedWeight {
  readonly values: Float32Array;
  /** Words of the packed rows first … first + rows. */
  words(first: number, rows: number): Uint32Array<ArrayBuffer>;
  /** Words of their scales and zeros; none in plain layouts. */
  scales(first: number, rows: number): Uint32Array<ArrayBuffer>;
}

/** The operands of group 1 for rows first … first + rows of each of `parts` parts. */
export function weightOperands(
  { weight, packing, cols }: { readonly weight: PackedWeight; readonly packing: Packing; readonly cols: number },
  range: { first: number; rows: number; rowsTotal: number; parts?: number; tileRows?: number },
): Record<string, Operand> {
  const { first, rows, rowsTotal, parts = 1, tileRows = 8 } = range;
  const starts = Array.from({ length: parts }, (_, part) => part * rowsTotal + first);
  const all = rows * parts;
  const lay = (part: PackedWeight["words"], itemBytes: number) =>
    tiled(joined(...starts.map((start) => part(start, rows))), { rows: all, itemBytes, tileRows });
  return {
    weight: lay(weight.words, weightLayouts[packing.layout].bytesPerBlock),
    matrix: matrixWords({ ...range, cols, packing, tileRows }),
    ...("group" in packing ? { scales: lay(weight.scales, 4) } : {}),
  };
}

/** Random weights: rounded to the layout, each row padded to whole blocks; in quantized layouts random integers. */
export function packedWeight(
  seed: number,
  packing: Packing,
  rows: number,
  cols: number,
  mode: NastyMode = "normal",
): PackedWeight {
  const { layout } = packing;
  if ("group" in packing) {
    const matrix = randomQuantized(seed, packing.layout, { rows, cols, group: packing.group }, mode);
    const { weight, scales } = packQuantized(packing.layout, matrix);
    const part = (bytes: Uint8Array<ArrayBuffer>, stride: number) => (first: number, count: number) =>
      new Uint32Array(bytes.slice(first * stride, (first + count) * stride).buffer);
    return {
      values: Float32Array.from(dequantize(matrix)), // exact: 11 bits times 9 bits
      words: part(weight, rowBytes(layout, cols)),
      scales: part(scales, scaleRowBytes(packing, cols)),
    };
  }
  const raw = randomValues(seed, rows * cols, mode);
  const values = packing.layout === "f32" ? raw : decodeHalves(encodeHalves(raw, packing.layout), packing.layout);
  const { buffer } = packPlain(packing.layout, values, cols);
  const stride = rowBytes(layout, cols);
  return {
    values,
    words: (first, count) => new Uint32Array(buffer.slice(first * stride, (first + count) * stride)),
    scales: () => new Uint32Array(),
  };
}

/** Words one after the other. */
export function joined(...parts: readonly Uint32Array[]): Uint32Array<ArrayBuffer> {
  const out = new Uint32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** The kernel with a mistake, for the test that calls: `from`, which must stand in one of its files, becomes `to`. */
export async function broken(kernel: Kernel, from: string, to: string): Promise<Kernel> {
  let found = 0;
  const folder = await mkdtemp(join(tmpdir(), "phi-kernel-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const files = await Promise.all(
    kernel.files.map(async (url, index) => {
      const text = await readFile(url, "utf8");
      if (!text.includes(from)) return url;
      found++;
      const path = join(folder, `${index}.wgsl`);
      await writeFile(path, text.replaceAll(from, to));
      return pathToFileURL(path);
    }),
  );
  if (found !== 1) throw new Error(`${kernel.name}: "${from}" stands in ${found} of its files`);
  return { ...kernel, name: `${kernel.name} broken`, files };
}
