/** Opening what a command runs: folder, adapter, model and tokenizer. */
import {
  describeCheckpoint,
  type Folder,
  type LoadProgress,
  loadModel,
  type Model,
  type ModelDescription,
  openFolder,
  PhiError,
  printable,
} from "../engine/index.ts";
import { loadTokenizer, type Tokenizer } from "../tokenizer/index.ts";
import type { OpenedAdapter } from "./adapter.ts";
import { bundledModel } from "./package.ts";

/** Options of every command that runs a model. */
export interface RunOptions {
  readonly model?: string;
  readonly adapter?: string;
  readonly kv: "f16" | "f32";
  readonly context?: number;
  readonly allowSymlinks?: boolean;
  readonly allowNanWeights?: boolean;
}

/** A loaded model on its adapter. */
export interface OpenedModel {
  readonly folder: Folder;
  readonly model: Model;
  readonly adapter: OpenedAdapter;
  /** Undefined where it was not asked for, or the folder has none. */
  readonly tokenizer: Tokenizer | undefined;
  dispose(): Promise<void>;
}

/** The folder of `--model`, or of the bundled checkpoint. */
export function openModelFolder(path: string | undefined, allowSymlinks = false): Promise<Folder> {
  if (path === "") throw new PhiError("usage", '--model: expected a folder, got ""');
  return openFolder(path ?? bundledModel(), { allowSymlinks });
}

/** Files of a tokenizer are read whole; a vocabulary of 200,000 pieces takes 20 MB. */
const mostTokenizerBytes = 200_000_000;

async function readSmallFile(folder: Folder, name: string): Promise<Uint8Array | undefined> {
  const source = await folder.open(name);
  if (source === undefined) return undefined;
  try {
    if (source.sizeBytes > mostTokenizerBytes) {
      const expected = `at most ${mostTokenizerBytes} bytes`;
      throw new PhiError("checkpoint", `${name}: expected ${expected}, got ${source.sizeBytes}`);
    }
    return await source.read(0, source.sizeBytes);
  } finally {
    await source.close();
  }
}

/**
 * How many tokens the model has, for the tokenizer's own check against it; undefined in a folder with a tokenizer only.
 * The config itself is judged by the engine.
 */
async function vocabularySize(folder: Folder): Promise<number | undefined> {
  const bytes = await readSmallFile(folder, "config.json");
  if (bytes === undefined) return undefined;
  try {
    const { vocab_size } = JSON.parse(new TextDecoder().decode(bytes)) as { vocab_size?: unknown };
    return typeof vocab_size === "number" ? vocab_size : undefined;
  } catch {
    return undefined;
  }
}

/** The tokenizer of a folder, or undefined where it has no tokenizer.json. */
export async function openTokenizer(folder: Folder): Promise<Tokenizer | undefined> {
  const tokenizerJson = await readSmallFile(folder, "tokenizer.json");
  if (tokenizerJson === undefined) return undefined;
  const rows = await vocabularySize(folder);
  const tokenizerConfigJson = await readSmallFile(folder, "tokenizer_config.json");
  const chatTemplateJinja = await readSmallFile(folder, "chat_template.jinja");
  const specialTokensMapJson = await readSmallFile(folder, "special_tokens_map.json");
  return loadTokenizer(
    {
      folderName: folder.name,
      tokenizerJson,
      ...(tokenizerConfigJson && { tokenizerConfigJson }),
      ...(chatTemplateJinja && { chatTemplateJinja }),
      ...(specialTokensMapJson && { specialTokensMapJson }),
    },
    rows === undefined ? {} : { vocabularySize: rows },
  );
}

/** What to do about a folder without tokenizer.json. */
export function noTokenizer(folder: Folder): PhiError {
  return new PhiError("checkpoint", `${printable(folder.name)}: expected tokenizer.json, got no such file`, [
    "Copy the tokenizer's files of the model beside its weights, or give token ids with --ids.",
  ]);
}

/** What the headers say of a model that can be run: whatever can be refused is, before an adapter is looked for. */
export async function describeModel(folder: Folder, options: RunOptions): Promise<ModelDescription> {
  const { model, problem } = await describeCheckpoint(folder, {
    kv: options.kv,
    ...(options.context !== undefined && { context: options.context }),
  });
  if (model === undefined) throw problem;
  return model;
}

/**
 * Loads the model, and its tokenizer meanwhile where `tokenizer` is asked for: "optional" makes its failure a note.
 * `check` is given the tokenizer as soon as it is parsed; what it throws ends the loading. Releases the adapter when it
 * fails.
 */
export async function openModel(
  folder: Folder,
  adapter: OpenedAdapter,
  options: RunOptions,
  tokenizer: "none" | "optional" | "required",
  signal: AbortSignal,
  check: (tokenizer: Tokenizer | undefined) => void = () => {},
): Promise<OpenedModel> {
  const failed = new AbortController();
  const progress = await loadProgress();
  const loading = loadModel({
    folder,
    adapter: adapter.adapter,
    kv: options.kv,
    allowNonFinite: options.allowNanWeights ?? false,
    ...(options.context !== undefined && { context: options.context }),
    signal: AbortSignal.any([signal, failed.signal]),
    onProgress: progress.update,
  });
  // The tokenizer is parsed while the GPU takes the weights.
  const refused: { error?: unknown } = {};
  const refuse = (error: unknown): never => {
    refused.error = error;
    failed.abort();
    throw error;
  };
  const parsing = async () => {
    if (tokenizer === "none") return undefined;
    let text: Tokenizer | undefined;
    try {
      text = await openTokenizer(folder);
      if (text === undefined && tokenizer === "required") throw noTokenizer(folder);
    } catch (error) {
      if (tokenizer === "required") refuse(error);
      throw error;
    }
    try {
      check(text);
    } catch (error) {
      refuse(error);
    }
    return text;
  };
  const [loaded, parsed] = await Promise.allSettled([loading, parsing()]);
  progress.stop();
  const dispose = async () => {
    if (loaded.status === "fulfilled") await loaded.value.dispose();
    adapter.release();
  };
  try {
    if (refused.error !== undefined) throw refused.error;
    if (loaded.status === "rejected") throw loaded.reason;
    const text = parsed.status === "fulfilled" ? parsed.value : undefined;
    if (parsed.status === "rejected") note(`no text: ${parsed.reason instanceof Error ? parsed.reason.message : ""}`);
    for (const line of loaded.value.notes) note(line);
    return { folder, model: loaded.value, adapter, tokenizer: text, dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** A remark on stderr. */
export function note(text: string): void {
  process.stderr.write(`note: ${printable(text)}\n`);
}

const progressDelayMs = 1000;

/** A progress bar on stderr where that is a terminal and loading takes more than a second. */
async function loadProgress(): Promise<{ update(progress: LoadProgress): void; stop(): void }> {
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
