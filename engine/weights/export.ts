/** A float checkpoint with its linear layers quantized on the GPU, written as a GPTQ checkpoint (version 2). */

import type { ZeroKind } from "../../kernels/loading/quantize.ts";
import { type GroupSize, groupSizes, rowBytes, scaleRowBytes } from "../../kernels/weights/weights.ts";
import { PhiError, printable } from "../errors.ts";
import { type Checkpoint, openCheckpoint } from "../files/checkpoint.ts";
import { bitsPerElement, safetensorsHeader, type TensorInfo, type TensorSpec } from "../files/safetensors.ts";
import type { Folder } from "../files/source.ts";
import { Device, type DeviceBuffer, type DeviceOptions } from "../gpu/device.ts";
import { createStaging } from "../gpu/staging.ts";
import type { MatrixRef, TensorNeed } from "../graph/weights.ts";
import { declareWeights } from "../models/architecture.ts";
import { readArchitecture } from "../models/table.ts";
import { type CheckedWeights, checkWeights } from "./check.ts";
import { refuseFinds, refuseNonFinite } from "./finds.ts";
import type { ReadTensor } from "./format.ts";
import { type GptqModule, gptqGroupIndex, gptqGroups, gptqTensors, gptqWords } from "./gptq_write.ts";
import { isPlain, type PlainDType, plainBytes, toFloat32 } from "./plain.ts";
import { createQuantizer, type QuantizeScheme, quantizeTargets } from "./quantize.ts";
import { createScan } from "./scan.ts";

/** A file of known size that is written in pieces, in any order. */
export interface OutputFile {
  write(offsetBytes: number, bytes: Uint8Array): Promise<void>;
  /** Ends it: what was written is kept. */
  close(): Promise<void>;
}

/** A place for the files of a checkpoint. */
export interface OutputFolder {
  create(name: string, sizeBytes: number): Promise<OutputFile>;
}

export interface ExportOptions {
  readonly folder: Folder;
  readonly adapter: GPUAdapter;
  readonly output: OutputFolder;
  readonly weights: "int4" | "int8";
  /** Columns that share a scale and a zero; default 32. */
  readonly groupSize?: GroupSize;
  /** Whether every zero is the middle of the levels. */
  readonly symmetric?: boolean;
  /** Tensors are put into files of at most about so much; default 4 GiB. */
  readonly shardBytes?: number;
  /** Packed rows that are held at a time, on the GPU and three times on the host; default 32 MiB. */
  readonly stripBytes?: number;
  /** Called before anything is written, with the bytes that will be. */
  readonly onSize?: (totalBytes: number) => void;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  readonly signal?: AbortSignal;
  readonly device?: DeviceOptions;
}

export interface ExportedCheckpoint {
  readonly files: readonly string[];
  readonly bytes: number;
  /** Modules that were quantized. */
  readonly modules: number;
  readonly notes: readonly string[];
}

/** Files of a checkpoint that are neither weights nor config.json, where they are there. */
const copiedFiles = [
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "tokenizer.model",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
];

const defaults = { shardBytes: 4 * 2 ** 30, stripBytes: 32 << 20 };
const pieceBytes = 8 << 20;

/** A module that is quantized. */
interface Module extends GptqModule {
  readonly ref: MatrixRef;
  readonly need: TensorNeed;
  readonly group: GroupSize;
}

/** What is written in place of one tensor: itself, or the tensors of a module. */
type Item = { readonly specs: readonly TensorSpec[] } & ({ readonly copied: TensorInfo } | { readonly module: Module });

interface Shard {
  readonly name: string;
  readonly items: readonly Item[];
}

/**
 * Quantizes the linear layers and writes a checkpoint that loads as the source does with `quantize: { weights, head:
 * "none", groupSize, scheme: "integer-zeros" }` (or "symmetric"), bit for bit. Head, embedding, norms and biases are
 * copied. Throws a PhiError: "checkpoint" for a source that is quantized already or whose shapes GPTQ does not have,
 * "usage", "io", "gpu", "machine" or "aborted"; what was written by then is the caller's to remove.
 */
export async function exportQuantized(options: ExportOptions): Promise<ExportedCheckpoint> {
  const { folder, output, groupSize = 32, symmetric = false } = options;
  const scheme: QuantizeScheme = symmetric ? "symmetric" : "integer-zeros";
  const checkpoint = await openCheckpoint(folder);
  try {
    const architecture = readArchitecture(checkpoint.config);
    const targets = quantizeTargets(architecture, { weights: options.weights, head: "none", groupSize, scheme });
    const weights = await checkWeights(checkpoint, architecture, declareWeights(architecture), targets);
    if (checkpoint.config.has("quantization_config")) {
      checkpoint.config.fail("quantization_config", "none, for what is quantized already is not quantized again", [
        "Give the original checkpoint, with float weights.",
      ]);
    }
    const refs = new Map<string, MatrixRef>();
    for (const ref of weights.declared.values()) {
      if (ref.kind !== "matrix" || targets.packing(ref) === undefined) continue;
      for (const need of ref.tensors) refs.set(need.name, moduleMatrix(need));
    }
    const modules = modulesOf(refs, options.weights === "int4" ? 4 : 8, groupSize);
    const shards = planShards(checkpoint, modules, options.shardBytes ?? defaults.shardBytes);
    const config = await quantizedConfig(checkpoint, { ...options, groupSize, symmetric });
    const total = shards.reduce((sum, { items }) => sum + specsBytes(items.flatMap(({ specs }) => specs)), 0);
    options.onSize?.(total);

    const device = await Device.open(options.adapter, options.device);
    try {
      if (device.isNull) throw new PhiError("usage", "--adapter: expected one that computes, got null");
      await writeShards(device, checkpoint, weights, shards, { ...options, zero: targets.zero });
    } finally {
      device.dispose();
    }
    await checkpoint.assertUnchanged();
    const files = [...shards.map(({ name }) => name)];
    const small: (readonly [string, Uint8Array])[] = [["config.json", config]];
    if (shards.length > 1) small.push([indexFile, indexOf(shards, total)]);
    const ranks = (await folder.list()).filter((name) => name.endsWith(".tiktoken"));
    for (const name of [...copiedFiles, ...ranks]) {
      const bytes = await readFile(folder, name);
      if (bytes !== undefined) small.push([name, bytes]);
    }
    for (const [name, bytes] of small) {
      const file = await output.create(name, bytes.length);
      await file.write(0, bytes);
      await file.close();
      files.push(name);
    }
    return { files, bytes: total, modules: modules.size, notes: [...checkpoint.notes, ...weights.notes] };
  } finally {
    await checkpoint.close();
  }
}

/** A stored tensor as a matrix by itself. */
function moduleMatrix(need: TensorNeed): MatrixRef {
  const [rows = 0, cols = 0] = need.shape;
  return {
    kind: "matrix",
    key: need.name,
    leaf: need.name,
    tensors: [need],
    runs: [{ need, first: 0, rows }],
    alternating: false,
    rows,
    cols,
    parts: 1,
    activeShare: 1,
    quantizable: true,
  };
}

function modulesOf(refs: ReadonlyMap<string, MatrixRef>, bits: 4 | 8, group: GroupSize): ReadonlyMap<string, Module> {
  const perWord = 32 / bits;
  return new Map(
    [...refs].map(([name, ref]) => {
      const { rows, cols } = ref;
      const shown = `tensor "${printable(name)}"`;
      if (cols % group !== 0) {
        const possible = groupSizes.filter((size) => cols % size === 0);
        throw new PhiError(
          "usage",
          `--group-size: expected a divisor of ${cols}, the columns of ${shown}, got ${group}`,
          possible.length > 0 ? [`It can be ${possible.join(", ")} here.`] : [],
        );
      }
      if (rows % perWord !== 0) {
        throw new PhiError("checkpoint", `${shown}: expected a multiple of ${perWord} rows, as GPTQ has, got ${rows}`);
      }
      const [need] = ref.tensors;
      if (need === undefined) throw new Error(`${name} has no tensor`);
      return [name, { ref, need, rows, cols, bits, group }];
    }),
  );
}

/** Tensors in the order of the source, the tensors of a module in one file, widest elements first in each. */
function planShards(
  { tensors }: Checkpoint,
  modules: ReadonlyMap<string, Module>,
  shardBytes: number,
): readonly Shard[] {
  const groups: Item[][] = [[]];
  let bytes = 0;
  const inOrder = [...tensors.values()].sort((a, b) =>
    a.file === b.file ? a.offsetBytes - b.offsetBytes : a.file < b.file ? -1 : 1,
  );
  for (const tensor of inOrder) {
    const module = modules.get(tensor.name);
    const { name, dtype, shape } = tensor;
    const item: Item = module
      ? { module, specs: gptqTensors(name.replace(/\.weight$/, ""), module) }
      : { copied: tensor, specs: [{ name, dtype, shape }] };
    const size = specsBytes(item.specs);
    if (bytes > 0 && bytes + size > shardBytes) {
      groups.push([]);
      bytes = 0;
    }
    groups.at(-1)?.push(item);
    bytes += size;
  }
  const number = (n: number) => String(n).padStart(5, "0");
  return groups.map((items, i) => ({
    name: groups.length === 1 ? "model.safetensors" : `model-${number(i + 1)}-of-${number(groups.length)}.safetensors`,
    items,
  }));
}

function specsBytes(specs: readonly TensorSpec[]): number {
  return specs.reduce(
    (sum, { dtype, shape }) => sum + (bitsPerElement(dtype) / 8) * shape.reduce((product, n) => product * n, 1),
    0,
  );
}

const indexFile = "model.safetensors.index.json";

function indexOf(shards: readonly Shard[], totalBytes: number): Uint8Array {
  const names = shards.flatMap(({ name, items }) =>
    items.flatMap(({ specs }) => specs.map((spec) => [spec.name, name] as const)),
  );
  const index = { metadata: { total_size: totalBytes }, weight_map: Object.fromEntries(names) };
  return new TextEncoder().encode(`${JSON.stringify(index, undefined, 2)}\n`);
}

async function readFile(folder: Folder, name: string): Promise<Uint8Array | undefined> {
  const source = await folder.open(name);
  if (source === undefined) return undefined;
  try {
    return await source.read(0, source.sizeBytes);
  } finally {
    await source.close();
  }
}

/** The source's config.json as it is written, for numbers keep their digits so, and `quantization_config` after it. */
async function quantizedConfig(
  checkpoint: Checkpoint,
  { weights, groupSize, symmetric }: { weights: "int4" | "int8"; groupSize: number; symmetric: boolean },
): Promise<Uint8Array> {
  const quantization = {
    quant_method: "gptq",
    checkpoint_format: "gptq_v2",
    bits: weights === "int4" ? 4 : 8,
    group_size: groupSize,
    sym: symmetric,
    desc_act: false,
    lm_head: false,
  };
  const bytes = await readFile(checkpoint.folder, "config.json");
  const text = new TextDecoder().decode(bytes).replace(/"quantization_config"\s*:\s*null\s*,?/, "");
  const member = `"quantization_config": ${JSON.stringify(quantization, undefined, 2).replaceAll("\n", "\n  ")}`;
  const open = text.slice(0, text.lastIndexOf("}")).trimEnd().replace(/,$/, "");
  return new TextEncoder().encode(`${open}${open.endsWith("{") ? "" : ","}\n  ${member}\n}\n`);
}

async function writeShards(
  device: Device,
  checkpoint: Checkpoint,
  weights: CheckedWeights,
  shards: readonly Shard[],
  options: ExportOptions & { readonly zero: ZeroKind },
): Promise<void> {
  const { output, signal, onProgress } = options;
  const items = shards.flatMap((shard) => shard.items);
  const sourceBytes = items.reduce(
    (sum, item) => sum + ("copied" in item ? item.copied.sizeBytes : weights.source(item.module.need).storedBytes),
    0,
  );
  let doneBytes = 0;
  const read: ReadTensor = async (tensor, offsetBytes, lengthBytes, into) => {
    if (signal?.aborted) throw new PhiError("aborted", "quantizing was stopped");
    const bytes = await checkpoint.read(tensor, offsetBytes, lengthBytes, into);
    doneBytes += lengthBytes;
    onProgress?.(doneBytes, sourceBytes);
    return bytes;
  };
  const write = moduleWriter(device, weights, items, read, options);
  for (const shard of shards) {
    const specs = shard.items
      .flatMap((item) => item.specs)
      .toSorted((a, b) => bitsPerElement(b.dtype) - bitsPerElement(a.dtype));
    const header = safetensorsHeader(specs, new Map([["format", "pt"]]));
    const offsets = new Map<string, number>();
    let end = header.length;
    for (const spec of specs) {
      offsets.set(spec.name, end);
      end += specsBytes([spec]);
    }
    const file = await output.create(shard.name, end);
    try {
      await file.write(0, header);
      for (const item of shard.items) {
        const place = ({ name }: TensorSpec) => offsets.get(name) ?? 0;
        if ("module" in item) await write.module(item.module, item.specs.map(place), file);
        else {
          const [to = 0] = item.specs.map(place);
          for (let at = 0; at < item.copied.sizeBytes; at += pieceBytes) {
            const count = Math.min(pieceBytes, item.copied.sizeBytes - at);
            const bytes = await read(item.copied, at, count);
            checkFinite(item.copied, at, bytes);
            await file.write(to + at, bytes);
          }
        }
      }
    } finally {
      await file.close();
    }
  }
  await write.end();
}

/** The bits of an exponent that says infinite or NaN; float64 is judged as the float32 that it is loaded as. */
const exponentBits: Readonly<Record<PlainDType, number>> = {
  F16: 0x7c00,
  BF16: 0x7f80,
  F32: 0x7f800000,
  F64: 0x7f800000,
};

/** Throws a PhiError "checkpoint" where bytes of a float tensor, from the `offsetBytes`-th on, hold no finite number. */
function checkFinite(tensor: TensorInfo, offsetBytes: number, bytes: Uint8Array): void {
  const { dtype, shape } = tensor;
  if (!isPlain(dtype)) return;
  const exponent = exponentBits[dtype];
  // Aligned, whatever the piece's own place.
  const copy = dtype === "F64" ? toFloat32(bytes, dtype).buffer : bytes.slice().buffer;
  const words = plainBytes(dtype) === 2 ? new Uint16Array(copy) : new Uint32Array(copy);
  const bad = words.findIndex((word) => (word & exponent) === exponent);
  if (bad < 0) return;
  const size = plainBytes(dtype);
  const [value] = toFloat32(bytes.subarray(bad * size, (bad + 1) * size), dtype);
  const element = offsetBytes / size + bad;
  const cols = shape.at(-1) ?? 1;
  refuseNonFinite(tensor, shape.length > 1 ? [Math.floor(element / cols), element % cols] : [element], value);
}

/** Quantizes modules a strip of rows at a time: to the GPU, back, turned, and to the file. */
function moduleWriter(
  device: Device,
  weights: CheckedWeights,
  items: readonly Item[],
  read: ReadTensor,
  { zero, stripBytes = defaults.stripBytes }: { readonly zero: ZeroKind; readonly stripBytes?: number },
) {
  const packedRow = ({ cols, bits }: Module) => rowBytes(bits === 4 ? "q4" : "q8", cols);
  const stripRows = (module: Module) => {
    const most = Math.floor(Math.min(stripBytes, device.maxBindingBytes) / packedRow(module) / 8) * 8;
    return Math.max(8, Math.min(module.rows, most));
  };
  const modules = items.flatMap((item) => ("module" in item ? [item.module] : []));
  const scan = createScan(
    device,
    modules.reduce((sum, module) => sum + Math.ceil(module.rows / stripRows(module)), 0),
  );
  const quantizer = createQuantizer(device, createStaging(device));
  const buffers = new Map<string, DeviceBuffer>();
  /** A buffer of a kind, at least so large; the one before it goes. */
  const buffer = (label: string, bytes: number, usage: GPUBufferUsageFlags): DeviceBuffer => {
    const known = buffers.get(label);
    if (known !== undefined && known.sizeBytes >= bytes) return known;
    known?.dispose();
    const made = device.createBuffer(label, bytes, usage);
    buffers.set(label, made);
    return made;
  };
  const onGpu = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
  const onHost = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;

  return {
    async module(module: Module, places: readonly number[], file: OutputFile): Promise<void> {
      const { ref, need, rows, cols, bits, group } = module;
      const [qweight = 0, qzeros = 0, gIdx = 0, scaleStart = 0] = places;
      const layout = bits === 4 ? "q4" : "q8";
      const perWord = 32 / bits;
      const groups = cols / group;
      const { packing } = weights.source(need);
      if ("group" in packing) throw new Error(`${need.name} is quantized`);
      const most = stripRows(module);
      for (let first = 0; first < rows; first += most) {
        const count = Math.min(most, rows - first);
        const range = { firstRow: first, rows: count };
        const weightBytes = count * packedRow(module);
        const scaleBytes = count * scaleRowBytes({ layout, group }, cols);
        const weight = buffer("packed", weightBytes, onGpu);
        const scales = buffer("scales", scaleBytes, onGpu);
        const slot = scan.slot(ref, range, packing.layout);
        const job = { key: need.name, from: packing.layout, to: layout, group, zero, rows: count, cols } as const;
        let row = 0;
        for await (const piece of weights.source(need).rows(read, first, count, packing)) {
          await quantizer.add({ ...job, weight, scales, slot }, piece, row);
          row += piece.rows;
        }
        const staging = buffer("packed staging", weightBytes, onHost);
        const scaleStaging = buffer("scales staging", scaleBytes, onHost);
        const encoder = device.createCommandEncoder(need.name);
        encoder.copyBufferToBuffer(weight.gpu, 0, staging.gpu, 0, weightBytes);
        encoder.copyBufferToBuffer(scales.gpu, 0, scaleStaging.gpu, 0, scaleBytes);
        device.submit(need.name, [encoder.finish()]);
        const packed = new Uint32Array(await device.readBack(staging, weightBytes));
        const found = gptqGroups(new Uint32Array(await device.readBack(scaleStaging, scaleBytes)), bits, groups);
        const columns = { rows, first, count };
        await writeStrip(file, qweight, 4, columns, gptqWords(packed, layout, cols));
        await writeStrip(file, scaleStart, 2, columns, found.scales);
        const words = { rows: rows / perWord, first: first / perWord, count: count / perWord };
        await writeStrip(file, qzeros, 4, words, found.qzeros);
      }
      await file.write(gIdx, gptqGroupIndex(module));
    },
    /** Throws a PhiError "checkpoint" that names the first weight that cannot be quantized. */
    async end(): Promise<void> {
      await refuseFinds(await scan.finds(), weights, read);
    },
  };
}

/** Writes columns `first` … of a tensor [any, rows] whose data begins at `start`. */
async function writeStrip(
  file: OutputFile,
  start: number,
  elementBytes: number,
  { rows, first, count }: { readonly rows: number; readonly first: number; readonly count: number },
  elements: Uint32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>,
): Promise<void> {
  const bytes = new Uint8Array(elements.buffer);
  if (count === rows) return file.write(start, bytes);
  const length = count * elementBytes;
  for (let at = 0, line = 0; at < bytes.length; at += length, line++) {
    await file.write(start + (line * rows + first) * elementBytes, bytes.subarray(at, at + length));
  }
}
