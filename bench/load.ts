/** `load`: how long a checkpoint takes to the GPU, beside a plain read of its files, and how much host memory. */
import { Device, type DeviceBuffer } from "../engine/gpu/device.ts";
import { createStaging, stagingParts } from "../engine/gpu/staging.ts";
import { describeCheckpoint, type Folder, type KvFormat, loadModel, type QuantizeOptions } from "../engine/index.ts";
import { pieceBytes } from "../engine/weights/format.ts";
import type { Figure } from "./report.ts";
import { checkedRun } from "./text.ts";

export interface LoadBenchOptions {
  readonly folder: Folder;
  /** Each device takes an adapter of its own; `bytes` is about what it will hold. */
  readonly nextAdapter: (bytes: number) => Promise<GPUAdapter>;
  /** Whether the GPU's memory is host memory. */
  readonly software: boolean;
  readonly kv: KvFormat;
  readonly context: number;
  readonly quantize?: QuantizeOptions;
  readonly repetitions: number;
  /** Tokens that are generated after each load. */
  readonly newTokens: number;
  /** Resident bytes of the process when it had started. */
  readonly startBytes: number;
  readonly onProgress?: (text: string) => void;
}

/** Of the buffers of a plain upload: about as large as matrices. */
const bufferBytes = 32 << 20;

/** Reads all weight files from front to back into one small buffer, and hands on each piece. */
async function plainRead(
  folder: Folder,
  files: readonly string[],
  take?: (piece: Uint8Array<ArrayBuffer>) => Promise<void>,
): Promise<{ ms: number; bytes: number }> {
  const buffer = new Uint8Array(pieceBytes);
  let bytes = 0;
  const began = performance.now();
  for (const file of files) {
    const source = await folder.open(file);
    if (source === undefined) continue;
    for (let at = 0; at < source.sizeBytes; at += pieceBytes) {
      const count = Math.min(pieceBytes, source.sizeBytes - at);
      await source.read(at, count, buffer);
      await take?.(buffer.subarray(0, count));
    }
    bytes += source.sizeBytes;
    await source.close();
  }
  return { ms: performance.now() - began, bytes };
}

/**
 * Reads them so and writes each piece to GPU buffers, which are as new as a model's and of which `keptBytes` stay, by the
 * engine's own staging, which is faster than `GPUQueue.writeBuffer`: what a load would take that did nothing else.
 */
async function plainUpload(
  folder: Folder,
  files: readonly string[],
  adapter: GPUAdapter,
  keptBytes: number,
): Promise<{ ms: number; bytes: number }> {
  const device = await Device.open(adapter);
  try {
    const staging = createStaging(device);
    const create = () =>
      device.createBuffer("plain upload", bufferBytes, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST);
    const full: DeviceBuffer[] = [];
    let buffer = create();
    let filled = 0;
    const began = performance.now();
    const { bytes } = await plainRead(folder, files, async (piece) => {
      const wholeWords = Math.ceil(piece.length / 4) * 4;
      await staging.write(buffer, filled, wholeWords, (into) => into.set(piece));
      filled += pieceBytes;
      if (filled < bufferBytes) return;
      full.push(buffer);
      if (full.length * bufferBytes > keptBytes) full.shift()?.dispose();
      buffer = create();
      filled = 0;
    });
    await device.workDone();
    return { ms: performance.now() - began, bytes };
  } finally {
    device.dispose();
  }
}

const sampleMs = 5;

/**
 * Follows the process's resident memory through a load, by a timer and whenever the load gives occasion. `keptShare` is
 * what stays on the GPU of a byte that is read, 1 where weights keep their bits.
 */
function memoryWatch(startBytes: number, keptShare: number) {
  let peakBytes = 0;
  let ownPeakBytes = 0;
  /** Bytes read for the GPU: by now, when each write was submitted, and of those that are surely in GPU memory. */
  let readBytes = 0;
  const submittedBytes: number[] = [];
  let settledBytes = 0;
  let sampledAt = 0;
  const sample = () => {
    const now = performance.now();
    if (now - sampledAt < sampleMs) return;
    sampledAt = now;
    const rss = process.memoryUsage.rss() - startBytes;
    peakBytes = Math.max(peakBytes, rss);
    ownPeakBytes = Math.max(ownPeakBytes, rss - settledBytes * keptShare);
  };
  const timer = setInterval(sample, sampleMs);
  return {
    onProgress({ doneBytes }: { readonly doneBytes: number }) {
      readBytes = doneBytes;
      sample();
    },
    intercept(call: string, label: string) {
      if (call === "submit" && label === "staging") {
        submittedBytes.push(readBytes);
        settledBytes = submittedBytes.at(-1 - stagingParts) ?? 0; // its memory is used again
      }
      sample();
    },
    stop() {
      clearInterval(timer);
      sampledAt = 0;
      sample();
      return { peakBytes, ownPeakBytes };
    },
  };
}

/** Figures of each load; bytes. */
interface LoadSamples {
  readonly loadMs: number[];
  readonly tokensMs: number[];
  /** Resident memory above the process's start, all of it, and without weights that a software GPU holds there. */
  readonly peakBytes: number[];
  readonly ownBytes: number[];
  readonly gpuBytes: number[];
  readonly keptBytes: number[];
  weightBytes: number;
}

type Loading = Pick<LoadBenchOptions, "folder" | "kv" | "context" | "quantize">;

/** Loads once, generates, and adds what was measured. `keptShare` as in `memoryWatch`. */
async function loadOnce(
  { folder, kv, context, quantize }: Loading,
  adapter: GPUAdapter,
  { newTokens, startBytes, keptShare }: { newTokens: number; startBytes: number; keptShare: number },
  into: LoadSamples,
): Promise<void> {
  const watch = memoryWatch(startBytes, keptShare);
  try {
    const began = performance.now();
    const model = await loadModel({
      ...{ folder, adapter, kv, context, ...(quantize && { quantize }) },
      device: { intercept: watch.intercept },
      onProgress(progress) {
        into.weightBytes = progress.totalBytes;
        watch.onProgress(progress);
      },
    });
    try {
      into.loadMs.push(performance.now() - began);
      const generating = performance.now();
      await checkedRun(model, [model.bosId ?? 0], newTokens);
      into.tokensMs.push(performance.now() - generating);
      into.gpuBytes.push(model.ledger().peakBytes);
      into.keptBytes.push(model.memory().weightsBytes);
    } finally {
      model.dispose();
    }
  } finally {
    const { peakBytes, ownPeakBytes } = watch.stop();
    into.peakBytes.push(peakBytes);
    into.ownBytes.push(ownPeakBytes);
  }
}

/**
 * Loads `repetitions` times and generates `newTokens` tokens each time. On a software adapter host memory is stated without the
 * weights that had reached GPU buffers by then; the cache and the activations count as the host's.
 */
export async function benchLoad(options: LoadBenchOptions): Promise<readonly Figure[]> {
  const { folder, nextAdapter, software, kv, context, quantize, repetitions, newTokens, startBytes } = options;
  const onProgress = options.onProgress ?? (() => {});
  const loading = { kv, context, ...(quantize && { quantize }) };
  const { files, storedBytes, model: described, problem } = await describeCheckpoint(folder, loading);
  if (described === undefined) throw problem;

  const upload = async () => {
    const adapter = await nextAdapter(storedBytes);
    return plainUpload(folder, files, adapter, described.needs(adapter).weightsBytes);
  };
  onProgress("plain read, plain upload");
  const reads = [await plainRead(folder, files)];
  const uploads = [await upload()];
  const samples: LoadSamples = {
    ...{ loadMs: [], tokensMs: [], peakBytes: [], ownBytes: [], gpuBytes: [], keptBytes: [] },
    weightBytes: 0,
  };
  for (let n = 1; n <= repetitions; n++) {
    onProgress(`load ${n} of ${repetitions}`);
    const adapter = await nextAdapter(storedBytes);
    const keptShare = described.needs(adapter).weightsBytes / storedBytes;
    await loadOnce({ folder, ...loading }, adapter, { newTokens, startBytes, keptShare }, samples);
    onProgress("plain upload again");
    uploads.push(await upload());
  }
  onProgress("plain read again");
  reads.push(await plainRead(folder, files));
  return loadFigures(samples, { reads, uploads, software, newTokens });
}

interface Timed {
  readonly ms: number;
  readonly bytes: number;
}

function loadFigures(
  { loadMs, tokensMs, peakBytes, ownBytes, gpuBytes, keptBytes, weightBytes }: LoadSamples,
  { reads, uploads, software, newTokens }: { reads: Timed[]; uploads: Timed[]; software: boolean; newTokens: number },
): readonly Figure[] {
  const rate = (bytes: number, ms: number) => bytes / 1e6 / ms;
  const mib = (list: readonly number[]) => list.map((bytes) => bytes / 2 ** 20);
  const loadRates = loadMs.map((ms) => rate(weightBytes, ms));
  const rates = (runs: readonly Timed[]) => runs.map(({ bytes, ms }) => rate(bytes, ms));
  const readRates = rates(reads);
  const uploadRates = rates(uploads);
  return [
    { name: "load", unit: "s", samples: loadMs.map((ms) => ms / 1000) },
    { name: "load", unit: "GB/s", samples: loadRates },
    { name: "plain read, before and after", unit: "GB/s", samples: readRates },
    { name: "plain read and upload, before and after each load", unit: "GB/s", samples: uploadRates },
    {
      name: "load, of the faster plain read",
      unit: "%",
      samples: loadRates.map((r) => (100 * r) / Math.max(...readRates)),
    },
    // Others on the machine, and the pages that its host has to find, only ever make one slower.
    {
      name: "fastest load, of the fastest plain read and upload",
      unit: "%",
      samples: [(100 * Math.max(...loadRates)) / Math.max(...uploadRates)],
    },
    {
      name: newTokens === 1 ? "first token after the load" : `${newTokens} tokens after the load`,
      unit: "ms",
      samples: tokensMs,
    },
    { name: "weights in the files", unit: "MiB", samples: mib([weightBytes]) },
    { name: "weights on the GPU", unit: "MiB", samples: mib(keptBytes) },
    { name: "GPU buffers at most", unit: "MiB", samples: mib(gpuBytes) },
    { name: "resident memory above the start, at most", unit: "MiB", samples: mib(peakBytes) },
    {
      name: software ? "  less the weights on the software GPU by then" : "  all of it the host's",
      unit: "MiB",
      samples: mib(software ? ownBytes : peakBytes),
    },
  ];
}
