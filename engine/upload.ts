/** Checks a checkpoint's tensors against what a model asks for, and streams them to the GPU. */

import { rowBytes, type WeightLayout } from "../kernels/weights.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { Device, DeviceBuffer } from "./device.ts";
import { PhiError, printable } from "./errors.ts";
import type { PlainDType } from "./formats/plain.ts";
import { isPackedAsStored, isPlain, packRows, plainBytes, plainLayout, toFloat32 } from "./formats/plain.ts";
import type { Architecture } from "./models/architecture.ts";
import type { TensorInfo } from "./safetensors.ts";
import { createScan } from "./scan.ts";
import {
  type MatrixRef,
  type RowRange,
  rowRanges,
  storedRows,
  type TensorNeed,
  type VectorRef,
  type WeightRef,
} from "./weights.ts";

const maxNamesShown = 20;

/** A tensor that passed the checks. */
type FloatTensor = TensorInfo & { readonly dtype: PlainDType };

/** The checkpoint's tensors as the model will use them. */
export interface CheckedWeights {
  readonly declared: ReadonlyMap<string, WeightRef>;
  layout(ref: MatrixRef): WeightLayout;
  tensor(need: TensorNeed): FloatTensor;
  /** Parameters that the model uses. */
  readonly parameters: number;
  /** Bytes that are read from the files. */
  readonly storedBytes: number;
  /** Tensors in the file that the model does not use. */
  readonly notes: readonly string[];
}

/**
 * Compares names, shapes and dtypes. Throws one PhiError "checkpoint" that names all the missing tensors, or all the
 * mis-shaped ones (up to 20 and a count), and refuses tensors of layers past the config's last.
 */
export function checkWeights(
  checkpoint: Checkpoint,
  architecture: Architecture,
  declared: ReadonlyMap<string, WeightRef>,
): CheckedWeights {
  const needs = [...declared.values()].flatMap((ref) => ref.tensors);
  const missing = needs.filter(({ name }) => !checkpoint.tensors.has(name));
  if (missing.length > 0) {
    const names = list(missing.map(({ name, shape }) => `"${printable(name)}" [${shape.join(", ")}]`));
    throw new PhiError(
      "checkpoint",
      `${printable(checkpoint.name)}: expected ${needs.length} tensors, got ${needs.length - missing.length}; missing: ${names}`,
      ["Is the download complete, and is config.json from the same checkpoint?"],
    );
  }
  const wrong: string[] = [];
  const tensors = new Map<string, FloatTensor>();
  for (const need of needs) {
    const tensor = checkpoint.tensors.get(need.name);
    if (tensor === undefined) continue;
    const where = `${printable(tensor.file)}: tensor "${printable(need.name)}"`;
    if (!isPlain(tensor.dtype)) wrong.push(`${where}: expected F32, F16 or BF16, got ${tensor.dtype}`);
    else if (!hasShape(tensor, need)) {
      const orMore = need.mayHaveMoreRows ? " or more rows" : "";
      wrong.push(`${where}: expected [${need.shape.join(", ")}]${orMore}, got [${tensor.shape.join(", ")}]`);
    } else tensors.set(need.name, { ...tensor, dtype: tensor.dtype });
  }
  if (wrong.length > 0) {
    throw new PhiError("checkpoint", list(wrong, "; "), ["Is this config.json from another checkpoint?"]);
  }
  const surplus = [...checkpoint.tensors.keys()].filter((name) => !tensors.has(name));
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
  const tensor = (need: TensorNeed): FloatTensor => {
    const info = tensors.get(need.name);
    if (info === undefined) throw new Error(`${need.name} was not declared`);
    return info;
  };
  const count = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1);
  return {
    declared,
    layout: (ref) => plainLayout(ref.tensors.map((need) => tensor(need).dtype)),
    tensor,
    parameters: needs.reduce((sum, need) => sum + count(need.shape), 0),
    storedBytes: needs.reduce((sum, need) => sum + count(need.shape) * plainBytes(tensor(need).dtype), 0),
    notes:
      surplus.length === 0
        ? []
        : [`${surplus.length} tensors of the files are not used: ${list(surplus.map(printable))}`],
  };
}

function hasShape(tensor: TensorInfo, need: TensorNeed): boolean {
  return (
    tensor.shape.length === need.shape.length &&
    tensor.shape.every((n, i) => (i === 0 && need.mayHaveMoreRows ? n >= (need.shape[i] ?? 0) : n === need.shape[i]))
  );
}

function list(items: readonly string[], separator = ", "): string {
  const shown = items.slice(0, maxNamesShown).join(separator);
  return items.length > maxNamesShown ? `${shown}${separator}and ${items.length - maxNamesShown} more` : shown;
}

/** A row range of a matrix on the GPU. */
export interface GpuRange {
  readonly weight: DeviceBuffer;
  /** Uniform { first, rows, rowsTotal, cols }: see kernels/weights/matrix.wgsl. */
  readonly shape: DeviceBuffer;
}

export interface GpuWeights {
  matrix(ref: MatrixRef): readonly GpuRange[];
  vector(ref: VectorRef): DeviceBuffer;
}

const pieceBytes = 8 << 20; // read and written at a time: the host holds one piece
const flushBytes = 64 << 20; // a writeBuffer's staging memory is freed by the next finished submit

function refuseNonFinite(tensor: TensorInfo, index: readonly number[], value: number | undefined, more = 0): never {
  throw new PhiError(
    "checkpoint",
    `${printable(tensor.file)}: tensor "${printable(tensor.name)}": expected finite numbers, got ${value} at [${index.join(", ")}]${more > 0 ? ` and ${more} more` : ""}`,
    ["The file is damaged, or its training failed; --allow-nan-weights loads it all the same."],
  );
}

/** Rows `first`, `first` + 2, … of rows of `rowBytes` bytes. */
function everySecond(rows: Uint8Array, first: number, rowBytes: number): Uint8Array {
  const out = new Uint8Array(rows.length / 2);
  for (let at = 0; at < out.length; at += rowBytes) {
    const from = 2 * at + first * rowBytes;
    out.set(rows.subarray(from, from + rowBytes), at);
  }
  return out;
}

interface UploadOptions {
  /** Take weights that are NaN or infinite. */
  readonly allowNonFinite?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

/**
 * Streams all declared weights to the GPU, a piece at a time. Throws PhiError "checkpoint" for a weight that is not
 * finite, "io", "machine" or "aborted".
 */
export async function uploadWeights(
  device: Device,
  checkpoint: Checkpoint,
  weights: CheckedWeights,
  { signal, onProgress, allowNonFinite }: UploadOptions,
): Promise<GpuWeights> {
  const matrices = new Map<string, GpuRange[]>();
  const vectors = new Map<string, DeviceBuffer>();
  let doneBytes = 0;
  let pendingBytes = 0;
  const ranges = [...weights.declared.values()].flatMap((ref) =>
    ref.kind === "matrix" ? rowRanges(ref, weights.layout(ref), device.maxBindingBytes) : [],
  );
  const scan = allowNonFinite || device.isNull ? undefined : createScan(device, ranges.length);

  async function write(buffer: DeviceBuffer, offsetBytes: number, data: Uint8Array<ArrayBuffer>): Promise<void> {
    device.writeBuffer(buffer, offsetBytes, data);
    pendingBytes += data.byteLength;
    if (pendingBytes >= flushBytes) await flush();
  }

  async function flush(): Promise<void> {
    device.submit("weights", []);
    await device.workDone();
    pendingBytes = 0;
  }

  async function read(tensor: TensorInfo, offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
    if (signal?.aborted) throw new PhiError("aborted", "loading was stopped");
    const bytes = await checkpoint.read(tensor, offsetBytes, lengthBytes);
    doneBytes += lengthBytes;
    onProgress?.(doneBytes, weights.storedBytes);
    return bytes;
  }

  /** The rows of a range to a buffer, packed: part after part. */
  async function writeRows(ref: MatrixRef, range: RowRange, buffer: DeviceBuffer) {
    const layout = weights.layout(ref);
    const packedBytes = rowBytes(layout, ref.cols);
    const writePart = async (part: number, partRow: number, dtype: PlainDType, stored: Uint8Array) => {
      const asStored = isPackedAsStored(dtype, layout, ref.cols);
      const packed = asStored ? stored : packRows(stored, dtype, layout, ref.cols);
      const row = part * range.rows + partRow - range.firstRow;
      await write(buffer, row * packedBytes, packed as Uint8Array<ArrayBuffer>);
    };
    for (const { need, first, rows, part, partRow } of storedRows(ref, range)) {
      const tensor = weights.tensor(need);
      const storedBytes = ref.cols * plainBytes(tensor.dtype);
      // Of alternating rows an even number is read, so that each piece starts with the first part.
      const rowsPerPiece = 2 * Math.max(1, Math.floor(pieceBytes / storedBytes / 2));
      for (let row = 0; row < rows; row += rowsPerPiece) {
        const count = Math.min(rowsPerPiece, rows - row);
        const bytes = await read(tensor, (first + row) * storedBytes, count * storedBytes);
        if (part !== "alternating") await writePart(part, partRow + row, tensor.dtype, bytes);
        else {
          for (const half of [0, 1]) {
            await writePart(half, partRow + row / 2, tensor.dtype, everySecond(bytes, half, storedBytes));
          }
        }
      }
    }
  }

  async function uploadMatrix(ref: MatrixRef): Promise<GpuRange[]> {
    const layout = weights.layout(ref);
    const ranges: GpuRange[] = [];
    for (const range of rowRanges(ref, layout, device.maxBindingBytes)) {
      const partBytes = range.rows * rowBytes(layout, ref.cols);
      const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
      const weight = device.createBuffer(ref.key, partBytes * ref.parts, usage);
      await writeRows(ref, range, weight);
      const uniform = device.createBuffer(`${ref.key} rows`, 16, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
      device.writeBuffer(uniform, 0, new Uint32Array([range.firstRow, range.rows, ref.rows, ref.cols]));
      await scan?.add(ref, range, layout, weight);
      ranges.push({ weight, shape: uniform });
    }
    return ranges;
  }

  async function uploadVector(ref: VectorRef): Promise<DeviceBuffer> {
    const buffer = device.createBuffer(ref.key, ref.length * 4, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST);
    const vector = new Float32Array(ref.length);
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
    await write(buffer, 0, new Uint8Array(ordered.buffer));
    return buffer;
  }

  for (const ref of weights.declared.values()) {
    if (ref.kind === "matrix") matrices.set(ref.key, await uploadMatrix(ref));
    else vectors.set(ref.key, await uploadVector(ref));
  }
  await flush();
  const bad = await scan?.first();
  scan?.dispose();
  if (bad !== undefined) {
    const tensor = weights.tensor(bad.need);
    const bytes = plainBytes(tensor.dtype);
    const [value] = toFloat32(
      await read(tensor, (bad.row * (bad.need.shape[1] ?? 0) + bad.col) * bytes, bytes),
      tensor.dtype,
    );
    refuseNonFinite(tensor, [bad.row, bad.col], value, bad.count - 1);
  }
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
