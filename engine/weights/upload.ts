/** Checks a checkpoint's tensors against what a model asks for, and streams them to the GPU. */

import type { ZeroKind } from "../../kernels/loading/quantize.ts";
import {
  groupSizes,
  matrixWords,
  type Packing,
  permutationBytes,
  type QuantizedLayout,
  rowBytes,
  scaleRowBytes,
  weightLayouts,
} from "../../kernels/weights/weights.ts";
import { PhiError, printable } from "../errors.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { openQuantization, type Quantization } from "../files/quantization.ts";
import type { TensorInfo } from "../files/safetensors.ts";
import type { Device, DeviceBuffer } from "../gpu/device.ts";
import { createStaging } from "../gpu/staging.ts";
import {
  type MatrixRef,
  type RowRange,
  rowRanges,
  storedRow,
  storedRows,
  type TensorNeed,
  type VectorRef,
  type WeightRef,
} from "../graph/weights.ts";
import { type Architecture, limits } from "../models/architecture.ts";
import { awq } from "./awq.ts";
import {
  type MatrixFormat,
  type MatrixSource,
  type PackedRows,
  type Problem,
  pieceBytes,
  type ReadTensor,
} from "./format.ts";
import { gptq } from "./gptq.ts";
import { type FloatTensor, floatTensor, isPlain, plain, plainBytes, toFloat32 } from "./plain.ts";
import { createQuantizer, type QuantizeJob, type Quantizer, type QuantizeTargets } from "./quantize.ts";
import { createScan, type Finds, type ScanSlot } from "./scan.ts";
import { tileWriter } from "./tiles.ts";

const maxNamesShown = 20;
/** Modules whose order of columns is read at the same time: over a network each is an answer to wait for. */
const openedAtOnce = 16;

/** The checkpoint's tensors as the model will use them. */
export interface CheckedWeights {
  readonly declared: ReadonlyMap<string, WeightRef>;
  /** How the checkpoint says that it is quantized. */
  readonly quantization: Quantization | undefined;
  /** How a matrix lies on the GPU. */
  packing(ref: MatrixRef): Packing;
  /** How the files' rows of a matrix reach the GPU: as they will lie there, or plain rows that are quantized there. */
  delivered(ref: MatrixRef): Packing;
  /** Which zeros those get. */
  readonly zero: ZeroKind;
  /** Where the rows of a matrix come from. */
  source(need: TensorNeed): MatrixSource;
  /** The tensor of a vector. */
  tensor(need: TensorNeed): FloatTensor;
  /** Parameters that the model uses. */
  readonly parameters: number;
  /** Bytes that are read from the files. */
  readonly storedBytes: number;
  /** Tensors in the file that the model does not use. */
  readonly notes: readonly string[];
}

/** The on-disk encodings that are looked for, in this order: each module has the one whose tensors are there. */
function formatsOf(quantization: Quantization | undefined): readonly MatrixFormat[] {
  if (quantization === undefined) return [plain];
  return [quantization.method === "gptq" ? gptq(quantization) : awq(quantization), plain];
}

/**
 * Compares names, shapes and dtypes; of quantized modules also reads how their columns are ordered. What the files hold
 * as floats gets the packing of `quantize`. Throws one PhiError "checkpoint" that names all the missing tensors, or all
 * the mis-shaped ones (up to 20 and a count), and refuses tensors of layers past the config's last.
 */
export async function checkWeights(
  checkpoint: Pick<Checkpoint, "name" | "config" | "quantizeConfig" | "tensors" | "read">,
  architecture: Pick<Architecture, "name" | "layers" | "layerPattern">,
  declared: ReadonlyMap<string, WeightRef>,
  quantize?: QuantizeTargets,
): Promise<CheckedWeights> {
  const { tensors } = checkpoint;
  const quantization = await openQuantization(checkpoint);
  const formats = formatsOf(quantization);
  const refs = [...declared.values()];
  const needs = refs.flatMap((ref) => ref.tensors.map((need) => ({ need, kind: ref.kind })));
  const formatOf = (need: TensorNeed) => formats.find((format) => format.stores(tensors, need));
  const missing = needs.filter(({ need, kind }) =>
    kind === "matrix" ? formatOf(need) === undefined : !tensors.has(need.name),
  );
  if (missing.length > 0) {
    const names = list(missing.map(({ need }) => `"${printable(need.name)}" [${need.shape.join(", ")}]`));
    throw new PhiError(
      "checkpoint",
      `${printable(checkpoint.name)}: expected ${needs.length} tensors, got ${needs.length - missing.length}; missing: ${names}`,
      ["Is the download complete, and is config.json from the same checkpoint?"],
    );
  }
  const wrong: string[] = [];
  const sources = new Map<string, MatrixSource>();
  const vectors = new Map<string, FloatTensor>();
  const open = async ({ need, kind }: (typeof needs)[number]): Promise<MatrixSource | FloatTensor | Problem> => {
    const stored = tensors.get(need.name);
    const opened =
      kind === "matrix"
        ? await formatOf(need)?.open(tensors, need, checkpoint.read)
        : stored && floatTensor(stored, need);
    if (opened === undefined) throw new Error(`${need.name} is missing`);
    return opened;
  };
  for (let first = 0; first < needs.length; first += openedAtOnce) {
    const batch = needs.slice(first, first + openedAtOnce);
    for (const [i, opened] of (await Promise.all(batch.map(open))).entries()) {
      const name = batch[i]?.need.name ?? "";
      if ("problem" in opened) wrong.push(opened.problem);
      else if ("packing" in opened) sources.set(name, opened);
      else vectors.set(name, opened);
    }
  }
  if (wrong.length > 0) {
    throw new PhiError("checkpoint", list(wrong, "; "), ["Is this config.json from another checkpoint?"]);
  }
  const used = new Set([...vectors.keys(), ...[...sources.values()].flatMap((s) => s.tensors.map(({ name }) => name))]);
  const surplus = [...tensors.keys()].filter((name) => !used.has(name));
  const deeper = surplus.filter(
    (name) => Number(architecture.layerPattern.exec(name)?.[1] ?? -1) >= architecture.layers,
  );
  if (deeper.length > 0) {
    const names = list(deeper.map((name) => `"${printable(name)}"`));
    throw new PhiError(
      "checkpoint",
      `config.json: "num_hidden_layers": expected a layer for every tensor of the files, got ${architecture.layers}; beyond it: ${names}`,
      ["Is this config.json from another checkpoint?"],
    );
  }
  const matrices = refs.filter((ref) => ref.kind === "matrix");
  const biases = surplus.flatMap((name) => {
    const module = name.replace(/\.bias$/, "");
    const isMatrix = module !== name && sources.has(`${module}.weight`);
    return isMatrix ? (tensors.get(name) ?? []) : [];
  });
  await refuseBiases(biases, checkpoint.read, architecture);
  const known = <Found>(found: ReadonlyMap<string, Found>, { name }: TensorNeed): Found => {
    const entry = found.get(name);
    if (entry === undefined) throw new Error(`${name} was not declared`);
    return entry;
  };
  const source = (need: TensorNeed) => known(sources, need);
  const tensor = (need: TensorNeed) => known(vectors, need);
  const packings = new Map(
    matrices.map((ref) => [
      ref.key,
      commonPacking(
        ref,
        ref.tensors.map((need) => source(need).packing),
      ),
    ]),
  );
  const delivered = (ref: MatrixRef): Packing => packings.get(ref.key) ?? { layout: "f32" };
  const packing = (ref: MatrixRef): Packing => {
    const stored = delivered(ref);
    return "group" in stored ? stored : (quantize?.packing(ref) ?? stored);
  };
  const unpacked = matrices.filter(
    (ref) => packing(ref).layout === "f32" && ref.tensors.some((need) => source(need).isQuantized),
  );
  const widened =
    unpacked.length === 0
      ? []
      : [
          `${unpacked.length} quantized matrices become float32, for their groups are of unequal sizes or differ from part to part: ${list(unpacked.map(({ key }) => printable(key)))}`,
        ];
  const asked = matrices.filter((ref) => quantize?.packing(ref) !== undefined);
  const keptCount = asked.filter((ref) => "group" in delivered(ref)).length;
  const kept = keptCount > 0 ? [`${keptCount} matrices are quantized in the files and stay as they are stored`] : [];
  const unused =
    surplus.length === 0
      ? []
      : [`${surplus.length} tensors of the files are not used: ${list(surplus.map(printable))}`];
  const count = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1);
  return {
    declared,
    quantization,
    packing,
    delivered,
    zero: quantize?.zero ?? "any",
    source,
    tensor,
    parameters: needs.reduce((sum, { need }) => sum + count(need.shape), 0),
    storedBytes: needs.reduce(
      (sum, { need, kind }) =>
        sum + (kind === "matrix" ? source(need).storedBytes : count(need.shape) * plainBytes(tensor(need).dtype)),
      0,
    ),
    notes: [...(quantization?.notes ?? []), ...widened, ...kept, ...unused],
  };
}

/**
 * The packing of matrices that are stacked: their own; where they are integers of the same size, that of the smallest
 * groups, in an order of columns for each; else float32.
 */
function commonPacking(ref: MatrixRef, packings: readonly Packing[]): Packing {
  const plain = { layout: "f32" } as const;
  const common = packings.reduce((all, one) => {
    if (!("group" in all && "group" in one)) return all.layout === one.layout ? all : plain;
    const permuted = all.permuted || one.permuted;
    const group = all.group < one.group ? all.group : one.group;
    return all.layout === one.layout ? { layout: all.layout, group, ...(permuted && { permuted }) } : plain;
  });
  // The rows of a dispatch share its input, and so the order of its columns: a range each does not do for two parts,
  // nor for experts.
  const oneInput = ref.parts === 2 || ref.activeShare < 1;
  return "group" in common && common.permuted && oneInput && ref.tensors.length > 1 ? plain : common;
}

/**
 * A bias that the model has no use for must do nothing: AutoGPTQ writes zeros for modules without one. Throws a
 * PhiError "checkpoint" for any other.
 */
async function refuseBiases(
  biases: readonly TensorInfo[],
  read: ReadTensor,
  architecture: Pick<Architecture, "name">,
): Promise<void> {
  for (const bias of biases) {
    if (!isPlain(bias.dtype)) continue;
    const values = toFloat32(await read(bias, 0, Math.min(bias.sizeBytes, 4 * limits.ffn.max)), bias.dtype);
    if (values.every((value) => value === 0)) continue;
    throw new PhiError(
      "checkpoint",
      `${printable(bias.file)}: tensor "${printable(bias.name)}": expected zeros, for ${architecture.name} has no such bias, got others`,
      ["Is this config.json from another checkpoint?"],
    );
  }
}

function list(items: readonly string[], separator = ", "): string {
  const shown = items.slice(0, maxNamesShown).join(separator);
  return items.length > maxNamesShown ? `${shown}${separator}and ${items.length - maxNamesShown} more` : shown;
}

/** A row range of a matrix on the GPU. */
export interface GpuRange {
  readonly weight: DeviceBuffer;
  /** Uniform Matrix: see kernels/weights/matrix.wgsl. */
  readonly shape: DeviceBuffer;
  /** Scales and zeros of a quantized weight: see kernels/weights/scales.wgsl. */
  readonly scales?: DeviceBuffer;
  /** The order of a permuted weight's columns: see kernels/linear/activations/permuted.wgsl. */
  readonly perm?: DeviceBuffer;
}

export interface GpuWeights {
  matrix(ref: MatrixRef): readonly GpuRange[];
  vector(ref: VectorRef): DeviceBuffer;
}

/** Throws the PhiError "checkpoint" of a number that is not finite. */
export function refuseNonFinite(
  tensor: TensorInfo,
  index: readonly number[],
  value: number | undefined,
  more = 0,
): never {
  throw new PhiError(
    "checkpoint",
    `${printable(tensor.file)}: tensor "${printable(tensor.name)}": expected finite numbers, got ${value} at [${index.join(", ")}]${more > 0 ? ` and ${more} more` : ""}`,
    ["The file is damaged, or its training failed; --allow-nan-weights loads it all the same."],
  );
}

function refuseTooLarge(tensor: TensorInfo, row: number, firstCol: number, values: Float32Array, more: number): never {
  const largest = values.reduce((at, value, i) => (Math.abs(value) > Math.abs(values[at] ?? 0) ? i : at), 0);
  const others = more > 0 ? `, and ${more} more groups of columns` : "";
  throw new PhiError(
    "checkpoint",
    `${printable(tensor.file)}: tensor "${printable(tensor.name)}": expected numbers that have a float16 scale, got ${values[largest]} at [${row}, ${firstCol + largest}]${others}`,
    ["Such weights cannot be quantized; load them as they are, with --quantize none."],
  );
}

/** Throws a PhiError "checkpoint" for what was found in weights, with the first of them as the files have it. */
export async function refuseFinds(
  { nonFinite, tooLarge }: Partial<Finds>,
  { source }: Pick<CheckedWeights, "source">,
  read: ReadTensor,
): Promise<void> {
  const readRow = async (need: TensorNeed, row: number): Promise<Float32Array> => {
    for await (const { weight } of source(need).rows(read, row, 1, { layout: "f32" })) {
      return new Float32Array(weight.slice().buffer);
    }
    throw new Error(`${need.name} has no row ${row}`);
  };
  const storedTensor = (need: TensorNeed): TensorInfo => {
    const [tensor] = source(need).tensors;
    if (tensor === undefined) throw new Error(`${need.name} has no tensor`);
    return tensor;
  };
  if (nonFinite !== undefined) {
    const { need, row, col, count } = nonFinite;
    const [value] = (await readRow(need, row)).subarray(col);
    refuseNonFinite(storedTensor(need), [row, col], value, count - 1);
  }
  if (tooLarge !== undefined) {
    const { need, row, col, count } = tooLarge;
    const values = (await readRow(need, row)).subarray(col, col + Math.max(...groupSizes));
    refuseTooLarge(storedTensor(need), row, col, values, count - 1);
  }
}

/** Rows `first`, `first` + 2, … of some rows. */
function everySecond({ rows, weight, scales }: PackedRows, first: number): PackedRows {
  const count = Math.ceil((rows - first) / 2);
  const pick = (bytes: Uint8Array): Uint8Array => {
    const rowBytes = bytes.length / rows;
    const out = new Uint8Array(count * rowBytes);
    for (let row = 0; row < count; row++) {
      const from = (2 * row + first) * rowBytes;
      out.set(bytes.subarray(from, from + rowBytes), row * rowBytes);
    }
    return out;
  };
  return { rows: count, weight: pick(weight), ...(scales && { scales: pick(scales) }) };
}

/** A row range of a matrix that is to be loaded. */
interface RangeJob {
  readonly ref: MatrixRef;
  readonly range: RowRange;
  /** Of the ranges of the matrix. */
  readonly index: number;
  /** Where what is found in its rows is counted, if the files have plain ones. */
  readonly slot: ScanSlot | undefined;
}

interface VectorJob {
  readonly ref: VectorRef;
}

type Job = VectorJob | RangeJob;

/** What one of the jobs that run at a time has for itself. */
interface Lane {
  readonly quantizer: Quantizer;
  /** For pieces of rows. */
  readonly memory: Uint8Array;
}

/**
 * Runs jobs, each lane one after the other, in their order. Throws the error of the first job that fails, when those that
 * had begun have ended.
 */
async function inLanes<Job, Lane>(
  jobs: readonly Job[],
  lanes: readonly Lane[],
  run: (job: Job, lane: Lane) => Promise<void>,
): Promise<void> {
  const waiting = [...jobs.entries()];
  const failed = new Map<number, unknown>();
  await Promise.all(
    lanes.map(async (lane) => {
      for (let next = waiting.shift(); next !== undefined && failed.size === 0; next = waiting.shift()) {
        const [index, job] = next;
        await run(job, lane).catch((error: unknown) => failed.set(index, error));
      }
    }),
  );
  if (failed.size > 0) throw failed.get(Math.min(...failed.keys()));
}

interface UploadOptions {
  /** Take weights that are NaN or infinite. */
  readonly allowNonFinite?: boolean | undefined;
  /** Rows of a tile (kernels/weights/matrix.wgsl): `tileRowsFor` of the device. */
  readonly tileRows: number;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

/**
 * Streams all declared weights to the GPU in pieces: while one is read, another is packed. Throws PhiError "checkpoint"
 * for a weight that is not finite, "io", "machine" or "aborted".
 */
export async function uploadWeights(
  device: Device,
  checkpoint: Checkpoint,
  weights: CheckedWeights,
  { signal, onProgress, allowNonFinite, tileRows }: UploadOptions,
): Promise<GpuWeights> {
  const matrices = new Map<string, GpuRange[]>();
  const vectors = new Map<string, DeviceBuffer>();
  let doneBytes = 0;
  const targets = [...weights.declared.values()].flatMap((ref): readonly (VectorJob | Omit<RangeJob, "slot">)[] => {
    if (ref.kind === "vector") return [{ ref }];
    return rowRanges(ref, weights.packing(ref), device.maxBindingBytes).map((range, index) => ({ ref, range, index }));
  });
  const scan = createScan(device, targets.length);
  const jobs = targets.map((target): Job => {
    if (!("range" in target)) return target;
    const delivered = weights.delivered(target.ref);
    const slot = "group" in delivered ? undefined : scan.slot(target.ref, target.range, delivered.layout);
    return { ...target, slot };
  });
  const staging = createStaging(device);
  const lanes = Array.from({ length: weights.quantization === undefined ? 2 : 1 }, () => ({
    quantizer: createQuantizer(device, staging),
    memory: new Uint8Array(pieceBytes),
  }));

  const read: ReadTensor = async (tensor, offsetBytes, lengthBytes, into) => {
    if (signal?.aborted) throw new PhiError("aborted", "loading was stopped");
    const bytes = await checkpoint.read(tensor, offsetBytes, lengthBytes, into);
    doneBytes += lengthBytes;
    onProgress?.(doneBytes, weights.storedBytes);
    return bytes;
  };

  /** Hands on the rows of a range in pieces of consecutive rows of a part, the first of them row `row` of the range's. */
  async function eachPiece(
    ref: MatrixRef,
    range: RowRange,
    memory: Uint8Array,
    take: (piece: PackedRows, row: number) => Promise<void>,
  ): Promise<void> {
    const delivered = weights.delivered(ref);
    for (const { need, first, rows, part, partRow } of storedRows(ref, range)) {
      let before = 0;
      const rowOf = (half: number, n: number) => half * range.rows + partRow + n - range.firstRow;
      for await (const piece of weights.source(need).rows(read, first, rows, delivered, memory)) {
        if (part !== "alternating") await take(piece, rowOf(part, before));
        else {
          for (const half of [0, 1]) {
            await take(everySecond(piece, (before + half) % 2), rowOf(half, Math.ceil((before - half) / 2)));
          }
        }
        before += piece.rows;
      }
    }
  }

  async function uploadRange({ ref, range, slot }: RangeJob, { memory, quantizer }: Lane): Promise<GpuRange> {
    const packing = weights.packing(ref);
    const weightRow = rowBytes(packing.layout, ref.cols);
    const scaleRow = scaleRowBytes(packing, ref.cols);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
    const rows = range.rows * ref.parts;
    const weight = device.createBuffer(ref.key, rows * weightRow, usage);
    const scales = scaleRow > 0 ? device.createBuffer(`${ref.key} scales`, rows * scaleRow, usage) : undefined;
    const delivered = weights.delivered(ref);
    const job: QuantizeJob | undefined =
      scales !== undefined && slot !== undefined && "group" in packing && !("group" in delivered)
        ? {
            ...{ key: ref.key, from: delivered.layout, to: packing.layout, group: packing.group, zero: weights.zero },
            ...{ rows, cols: ref.cols, tileRows, weight, scales, slot },
          }
        : undefined;
    const scanned = "group" in packing || allowNonFinite || device.isNull ? undefined : slot;
    const isTiled = tileRows > 1;
    const { bytesPerBlock } = weightLayouts[packing.layout];
    const takeRows = tileWriter({ rows, rowBytes: weightRow, itemBytes: bytesPerBlock, tileRows }, (...tiles) =>
      staging.write(weight, ...tiles),
    );
    const takeScales =
      scales &&
      tileWriter({ rows, rowBytes: scaleRow, itemBytes: 4, tileRows }, (...tiles) => staging.write(scales, ...tiles));
    await eachPiece(ref, range, memory, async (piece, row) => {
      if (job !== undefined) return quantizer.add(job, piece, row);
      // Rows that become tiles on the host are scanned there too, while they are in its caches.
      if (isTiled) scanned?.look(piece.weight, row);
      await takeRows(row, piece.weight);
      if (piece.scales !== undefined) await takeScales?.(row, piece.scales);
    });
    const { parts, cols, rows: rowsTotal } = ref;
    const words = matrixWords({ rows: range.rows, cols, first: range.firstRow, rowsTotal, parts, packing, tileRows });
    const uniformUsage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    const shape = device.createBuffer(`${ref.key} rows`, words.byteLength, uniformUsage);
    device.writeBuffer(shape, 0, words);
    if (!isTiled) await scanned?.scan(weight);
    const perm = "group" in packing && packing.permuted ? uploadPermutation(ref, range, packing.layout) : undefined;
    return { weight, shape, ...(scales && { scales }), ...(perm && { perm }) };
  }

  /** The permutation of a range's columns, padded to whole blocks with columns that no input has. */
  function uploadPermutation(ref: MatrixRef, { firstRow }: RowRange, layout: QuantizedLayout): DeviceBuffer {
    const { need } = storedRow(ref, 0, firstRow);
    const order = weights.source(need).permutation?.();
    if (order === undefined) throw new Error(`${ref.key} has no permutation`);
    const padded = new Uint32Array(permutationBytes(layout, ref.cols) / 4).fill(0xffffffff);
    padded.set(order);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
    const buffer = device.createBuffer(`${ref.key} perm`, padded.byteLength, usage);
    device.writeBuffer(buffer, 0, padded);
    return buffer;
  }

  async function uploadVector(ref: VectorRef): Promise<DeviceBuffer> {
    const buffer = device.createBuffer(ref.key, ref.length * 4, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST);
    const vector = Float32Array.from(ref.values ?? new Float32Array(ref.length));
    let at = 0;
    for (const { need, first, rows } of ref.runs) {
      const tensor = weights.tensor(need);
      const elementBytes = plainBytes(tensor.dtype);
      const values = toFloat32(await read(tensor, first * elementBytes, rows * elementBytes), tensor.dtype);
      const bad = allowNonFinite ? -1 : values.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0) refuseNonFinite(tensor, [first + bad], values[bad]);
      vector.set(values, at);
      at += rows;
    }
    const half = ref.length / 2;
    const ordered = ref.alternating ? vector.map((_, i) => vector[2 * (i % half) + Math.floor(i / half)] ?? 0) : vector;
    device.writeBuffer(buffer, 0, ordered);
    return buffer;
  }

  await inLanes(jobs, lanes, async (job, lane) => {
    if (!("range" in job)) vectors.set(job.ref.key, await uploadVector(job.ref));
    else {
      const ranges = matrices.get(job.ref.key) ?? [];
      matrices.set(job.ref.key, ranges);
      ranges[job.index] = await uploadRange(job, lane);
    }
  });
  await device.workDone();
  const { nonFinite, tooLarge } = device.isNull ? {} : await scan.finds();
  scan.dispose();
  for (const { quantizer } of lanes) quantizer.dispose();
  staging.dispose();
  await refuseFinds({ nonFinite: allowNonFinite ? undefined : nonFinite, tooLarge }, weights, read);
  await checkpoint.assertUnchanged();

  return {
    matrix: (ref) => matrices.get(ref.key) ?? [],
    vector(ref) {
      const buffer = vectors.get(ref.key);
      if (buffer === undefined) throw new Error(`${ref.key} was not declared`);
      return buffer;
    },
  };
}
