/** Streams a checkpoint's weights to the GPU. */

import {
  matrixWords,
  permutationBytes,
  type QuantizedLayout,
  rowBytes,
  scaleRowBytes,
  weightLayouts,
} from "../../kernels/weights/weights.ts";
import { PhiError } from "../errors.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import type { Device, DeviceBuffer } from "../gpu/device.ts";
import { createStaging, type Staging } from "../gpu/staging.ts";
import { type MatrixRef, type RowRange, rowRanges, storedRow, storedRows, type VectorRef } from "../graph/weights.ts";
import type { CheckedWeights } from "./check.ts";
import { refuseFinds, refuseNonFinite } from "./finds.ts";
import { type PackedRows, pieceBytes, type ReadTensor } from "./format.ts";
import { plainBytes, toFloat32 } from "./plain.ts";
import { createQuantizer, type QuantizeJob, type Quantizer } from "./quantize.ts";
import { createScan, type ScanSlot, type WeightScan } from "./scan.ts";
import { tileWriter } from "./tiles.ts";

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

/** What the jobs of one upload share. */
interface Upload {
  readonly device: Device;
  readonly weights: CheckedWeights;
  readonly read: ReadTensor;
  readonly staging: Staging;
  readonly allowNonFinite: boolean;
  readonly tileRows: number;
}

/**
 * Streams all declared weights to the GPU in pieces: while one is read, another is packed. Throws PhiError "checkpoint"
 * for a weight that is not finite, "io", "machine" or "aborted".
 */
export async function uploadWeights(
  device: Device,
  checkpoint: Checkpoint,
  weights: CheckedWeights,
  { signal, onProgress, allowNonFinite = false, tileRows }: UploadOptions,
): Promise<GpuWeights> {
  const matrices = new Map<string, GpuRange[]>();
  const vectors = new Map<string, DeviceBuffer>();
  let doneBytes = 0;
  const read: ReadTensor = async (tensor, offsetBytes, lengthBytes, into) => {
    if (signal?.aborted) throw new PhiError("aborted", "loading was stopped");
    const bytes = await checkpoint.read(tensor, offsetBytes, lengthBytes, into);
    doneBytes += lengthBytes;
    onProgress?.(doneBytes, weights.storedBytes);
    return bytes;
  };

  const { jobs, scan } = planJobs(device, weights);
  const staging = createStaging(device);
  const lanes = Array.from({ length: weights.quantization === undefined ? 2 : 1 }, () => ({
    quantizer: createQuantizer(device, staging),
    memory: new Uint8Array(pieceBytes),
  }));
  const upload: Upload = { device, weights, read, staging, allowNonFinite, tileRows };
  await inLanes(jobs, lanes, async (job, lane) => {
    if (!("range" in job)) vectors.set(job.ref.key, await uploadVector(upload, job.ref));
    else {
      const ranges = matrices.get(job.ref.key) ?? [];
      matrices.set(job.ref.key, ranges);
      ranges[job.index] = await uploadRange(upload, job, lane);
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

/** A job for each vector and each row range of a matrix, and the scan of those that the files have as floats. */
function planJobs(
  device: Device,
  weights: CheckedWeights,
): { readonly jobs: readonly Job[]; readonly scan: WeightScan } {
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
  return { jobs, scan };
}

/** Hands on the rows of a range in pieces of consecutive rows of a part, the first of them row `row` of the range's. */
async function eachPiece(
  { weights, read }: Upload,
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

/** Reads, packs and copies a row range of a matrix. */
async function uploadRange(upload: Upload, { ref, range, slot }: RangeJob, lane: Lane): Promise<GpuRange> {
  const { device, weights, staging, allowNonFinite, tileRows } = upload;
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
  await eachPiece(upload, ref, range, lane.memory, async (piece, row) => {
    if (job !== undefined) return lane.quantizer.add(job, piece, row);
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
  const perm =
    "group" in packing && packing.permuted ? uploadPermutation(upload, ref, range, packing.layout) : undefined;
  return { weight, shape, ...(scales && { scales }), ...(perm && { perm }) };
}

/** The permutation of a range's columns, padded to whole blocks with columns that no input has. */
function uploadPermutation(
  { device, weights }: Upload,
  ref: MatrixRef,
  { firstRow }: RowRange,
  layout: QuantizedLayout,
): DeviceBuffer {
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

async function uploadVector(upload: Upload, ref: VectorRef): Promise<DeviceBuffer> {
  const { device, weights, read, allowNonFinite } = upload;
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
