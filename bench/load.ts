/** `load`: how long a checkpoint takes to the GPU, beside a plain read of its files, and how much host memory. */
import { type Folder, type KvFormat, loadModel, openCheckpoint } from "../engine/index.ts";
import type { Figure } from "./report.ts";
import { checkedRun } from "./text.ts";

export interface LoadBenchOptions {
  readonly folder: Folder;
  /** Each device takes an adapter of its own. */
  readonly nextAdapter: () => Promise<GPUAdapter>;
  /** Whether the GPU's memory is host memory. */
  readonly software: boolean;
  readonly kv: KvFormat;
  readonly context: number;
  readonly repetitions: number;
  /** Resident bytes of the process when it had started. */
  readonly startBytes: number;
  readonly onProgress?: (text: string) => void;
}

const pieceBytes = 8 << 20;

/** Reads all weight files from front to back into one small buffer. */
async function plainRead(folder: Folder, files: readonly string[]): Promise<{ ms: number; bytes: number }> {
  const buffer = new Uint8Array(pieceBytes);
  let bytes = 0;
  const began = performance.now();
  for (const file of files) {
    const source = await folder.open(file);
    if (source === undefined) continue;
    for (let at = 0; at < source.sizeBytes; at += pieceBytes) {
      await source.read(at, Math.min(pieceBytes, source.sizeBytes - at), buffer);
    }
    bytes += source.sizeBytes;
    await source.close();
  }
  return { ms: performance.now() - began, bytes };
}

const sampleMs = 5;

/** Follows the process's resident memory through a load, by a timer and whenever the load gives occasion. */
function memoryWatch(startBytes: number) {
  let peakBytes = 0;
  let ownPeakBytes = 0;
  /** Bytes read for the GPU, of these: in a batch whose end is awaited, and surely in GPU memory. */
  let readBytes = 0;
  let flushingBytes = 0;
  let settledBytes = 0;
  let sampledAt = 0;
  const sample = () => {
    const now = performance.now();
    if (now - sampledAt < sampleMs) return;
    sampledAt = now;
    const rss = process.memoryUsage.rss() - startBytes;
    peakBytes = Math.max(peakBytes, rss);
    ownPeakBytes = Math.max(ownPeakBytes, rss - settledBytes);
  };
  const timer = setInterval(sample, sampleMs);
  return {
    onProgress({ doneBytes }: { readonly doneBytes: number }) {
      readBytes = doneBytes;
      sample();
    },
    /** The wait for the GPU is over when another call is made. */
    intercept(call: string) {
      settledBytes = flushingBytes;
      if (call === "workDone") flushingBytes = readBytes;
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

/**
 * Loads `repetitions` times, each time to the first token. On a software adapter host memory is stated without the
 * weights that had reached GPU buffers by then; the cache and the activations count as the host's.
 */
export async function benchLoad(options: LoadBenchOptions): Promise<readonly Figure[]> {
  const { folder, nextAdapter, software, kv, context, repetitions, startBytes, onProgress } = options;
  const checkpoint = await openCheckpoint(folder);
  const files = [...new Set([...checkpoint.tensors.values()].map((tensor) => tensor.file))];
  await checkpoint.close();

  onProgress?.("plain read");
  const before = await plainRead(folder, files);
  const loadMs: number[] = [];
  const firstTokenMs: number[] = [];
  const peak: number[] = [];
  const own: number[] = [];
  const gpuBytes: number[] = [];
  let weightBytes = 0;
  for (let n = 1; n <= repetitions; n++) {
    onProgress?.(`load ${n} of ${repetitions}`);
    const adapter = await nextAdapter();
    const watch = memoryWatch(startBytes);
    try {
      const began = performance.now();
      const model = await loadModel({
        folder,
        adapter,
        kv,
        context,
        device: { intercept: watch.intercept },
        onProgress(progress) {
          weightBytes = progress.totalBytes;
          watch.onProgress(progress);
        },
      });
      try {
        loadMs.push(performance.now() - began);
        const generating = performance.now();
        await checkedRun(model, [model.bosId ?? 0], 1);
        firstTokenMs.push(performance.now() - generating);
        gpuBytes.push(model.ledger().peakBytes);
      } finally {
        model.dispose();
      }
    } finally {
      const { peakBytes, ownPeakBytes } = watch.stop();
      peak.push(peakBytes);
      own.push(software ? ownPeakBytes : peakBytes);
    }
  }
  onProgress?.("plain read again");
  const after = await plainRead(folder, files);

  const rate = (bytes: number, ms: number) => bytes / 1e6 / ms;
  const mib = (list: readonly number[]) => list.map((bytes) => bytes / 2 ** 20);
  const loadRates = loadMs.map((ms) => rate(weightBytes, ms));
  const readRates = [before, after].map(({ bytes, ms }) => rate(bytes, ms));
  return [
    { name: "load", unit: "s", samples: loadMs.map((ms) => ms / 1000) },
    { name: "load", unit: "GB/s", samples: loadRates },
    { name: "plain read, before", unit: "GB/s", samples: readRates.slice(0, 1) },
    { name: "plain read, after", unit: "GB/s", samples: readRates.slice(1) },
    {
      name: "load, of the faster plain read",
      unit: "%",
      samples: loadRates.map((r) => (100 * r) / Math.max(...readRates)),
    },
    { name: "first token after the load", unit: "ms", samples: firstTokenMs },
    { name: "weights", unit: "MiB", samples: mib([weightBytes]) },
    { name: "GPU buffers at most", unit: "MiB", samples: mib(gpuBytes) },
    { name: "resident memory above the start, at most", unit: "MiB", samples: mib(peak) },
    {
      name: software ? "  less the weights on the software GPU by then" : "  all of it the host's",
      unit: "MiB",
      samples: mib(own),
    },
  ];
}
