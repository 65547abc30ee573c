/** Opening what a command runs: folder, adapter, model and tokenizer. */
import { existsSync } from "node:fs";
import {
  describeCheckpoint,
  type Folder,
  type GpuNeeds,
  type LoadProgress,
  type ModelDescription,
  openFolder,
  PhiError,
  printable,
} from "../engine/index.ts";
import { parseRepository } from "../hub/index.ts";
import type { OpenedAdapter } from "../library/adapter.ts";
import { load, type TextModel } from "../library/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { machineMemory } from "./fit.ts";
import { formatBytes } from "./format.ts";
import type { ModelUse } from "./hub.ts";
import { note } from "./output.ts";
import { bundledModel } from "./package.ts";
import { checkedKernels, tunedStore } from "./remembered.ts";
import { loadOptions, type RunOptions, usedFeatures } from "./run.ts";

/** A loaded model on its adapter. */
export interface OpenedModel {
  readonly model: TextModel;
  readonly adapter: OpenedAdapter;
  dispose(): void;
}

/**
 * What `--model` names: a folder if there is one, else a model of the Hugging Face hub, from the cache or, at its first
 * use, downloaded into it. Without it, the bundled checkpoint.
 */
export async function openModelFolder(
  path: string | undefined,
  allowSymlinks = false,
  use: ModelUse = {},
): Promise<Folder> {
  if (path === "") throw new PhiError("usage", '--model: expected a folder, got ""');
  if (path === undefined) return openFolder(bundledModel());
  if (existsSync(path)) return openFolder(path, { allowSymlinks });
  const repository = parseRepository(path);
  if (repository === undefined) {
    throw new PhiError("checkpoint", `"${printable(path)}": expected a folder, got nothing of that name`, [
      "Give the folder that holds config.json and the *.safetensors files,",
      "or a model's name on the Hugging Face hub, such as microsoft/phi-2: phi models lists them.",
    ]);
  }
  const { openNamedModel } = await import("./hub.ts");
  return openNamedModel(repository, use);
}

/** What the headers say of a model that can be run: whatever can be refused is, before an adapter is looked for. */
export async function describeModel(folder: Folder, options: RunOptions): Promise<ModelDescription> {
  const { model, problem } = await describeCheckpoint(folder, loadOptions(options));
  if (model === undefined) throw problem;
  return model;
}

/**
 * Refuses, before a weight is read, a model that an adapter cannot hold: what is greater than its bindings, and, where a
 * software adapter computes in this machine's memory, more than that: the system would end the process. What memory a GPU
 * has, WebGPU does not tell. Names the largest context that fits, about.
 */
export function checkMemory(
  { context, needs, quantize }: Pick<ModelDescription, "context" | "needs" | "quantize">,
  adapter: GPUAdapter,
  memoryBytes = machineMemory(),
): void {
  const fits = ({ isSoftware, totalBytes, obstacles }: GpuNeeds) =>
    obstacles.length === 0 && (!isSoftware || totalBytes <= memoryBytes);
  const all = needs(adapter, context);
  if (fits(all)) return;
  const { totalBytes, weightsBytes, kvBytes, obstacles } = all;
  const memory = formatBytes(memoryBytes);
  const parts = `${formatBytes(totalBytes)} (weights ${formatBytes(weightsBytes)}, cache of ${context} positions ${formatBytes(kvBytes)})`;
  const fitting = largestContext(context, (positions) => fits(needs(adapter, positions)));
  if (fitting > 0) {
    const why = obstacles[0] ?? `the model needs ${parts}, and this machine has ${memory}`;
    throw new PhiError("machine", `--context: expected at most ${fitting} positions, got ${context}: ${why}`, [
      `Give --context ${fitting}${obstacles.length === 0 ? ", or use a GPU: a software adapter computes in this machine's memory" : ""}.`,
    ]);
  }
  if (obstacles[0] !== undefined) throw new PhiError("machine", `${all.adapter}: ${obstacles[0]}`);
  const int4Bytes = (weightsBytes * 5) / 16;
  throw new PhiError("machine", `expected a model that fits this machine's memory of ${memory}, got one of ${parts}`, [
    quantize.weights === "none" && int4Bytes < memoryBytes
      ? `With --quantize int4 the weights of a 16-bit checkpoint take about ${formatBytes(int4Bytes)}.`
      : "A software adapter computes in this machine's memory: use a GPU, or a smaller model.",
  ]);
}

/** The greatest number of positions below `most` that fit, within an eighth; 0 where not even a few do. */
function largestContext(most: number, fits: (positions: number) => boolean): number {
  let good = most;
  do good = Math.floor(good / 2);
  while (good >= 16 && !fits(good));
  if (good < 16) return 0;
  for (let step = Math.floor(good / 2); step >= good / 8; step = Math.floor(step / 2)) {
    if (fits(good + step)) good += step;
  }
  return good;
}

/**
 * Loads the model, and its tokenizer meanwhile where it is asked for. `check` is given the tokenizer as soon as it is
 * parsed; what it throws ends the loading. Releases the adapter when it fails.
 */
export async function openModel(
  folder: Folder,
  adapter: OpenedAdapter,
  options: RunOptions,
  tokenizer: "none" | "optional" | "required",
  signal: AbortSignal,
  check: (tokenizer: Tokenizer | undefined) => void = () => {},
): Promise<OpenedModel> {
  const progress = await loadProgress();
  try {
    const features = usedFeatures(options);
    const model = await load(folder, {
      adapter: adapter.adapter,
      ...loadOptions(options),
      allowNonFinite: options.allowNanWeights ?? false,
      device: { features, profile: options.profile !== undefined },
      checked: checkedKernels(adapter.adapter),
      tuned: tunedStore(adapter.adapter, features).read(),
      tokenizer,
      onTokenizer: check,
      signal,
      onProgress: progress.update,
    });
    for (const line of model.notes) note(line);
    const dispose = () => {
      model.dispose();
      adapter.release();
    };
    return { model, adapter, dispose };
  } catch (error) {
    adapter.release();
    throw error;
  } finally {
    progress.stop();
  }
}

const progressDelayMs = 1000;

/** A progress bar on stderr where that is a terminal and loading takes more than a second. */
export async function loadProgress(): Promise<{ update(progress: LoadProgress): void; stop(): void }> {
  if (!process.stderr.isTTY) return { update() {}, stop() {} };
  const { SingleBar } = await import("cli-progress");
  const startMs = performance.now();
  let bar: InstanceType<typeof SingleBar> | undefined;
  return {
    update({ stage, doneBytes, totalBytes }) {
      if (performance.now() - startMs < progressDelayMs || totalBytes === 0) return;
      const doneMiB = Math.round(doneBytes / 2 ** 20);
      const totalMiB = Math.max(1, Math.round(totalBytes / 2 ** 20));
      if (bar === undefined) {
        bar = new SingleBar({
          format: "{stage} [{bar}] {value}/{total} MiB, {eta_formatted} left",
          stream: process.stderr,
          clearOnComplete: true,
          hideCursor: false,
        });
        bar.start(totalMiB, doneMiB, { stage });
      } else bar.update(doneMiB, { stage });
    },
    stop() {
      bar?.stop();
    },
  };
}
