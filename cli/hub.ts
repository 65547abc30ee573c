/** `phi pull`, `phi list`, `phi remove`, and models that are named in place of a folder. */
import { totalmem } from "node:os";
import { createInterface } from "node:readline/promises";
import { type CheckpointDescription, type Folder, openFolder, PhiError, printable } from "../engine/index.ts";
import {
  cachedSnapshot,
  hasTokenizer,
  hubSettings,
  isComplete,
  listCached,
  type PulledModel,
  type PullProgress,
  planRemoval,
  pull as pullModel,
  type Repository,
  readRepository,
  remoteModelFolder,
  repositoryText,
} from "../hub/index.ts";
import { openAdapter, wantedAdapter } from "./adapter.ts";
import { judge } from "./fit.ts";
import { formatBytes, jsonLine } from "./format.ts";
import { note, print } from "./output.ts";
import { loadOptions, type RunOptions } from "./run.ts";
import { findBundle } from "./swiftshader.ts";

/** What a model's name is opened for, where it is not in the cache yet. */
export interface ModelUse extends Partial<RunOptions> {
  /** `headers` are read from the hub without a download; `text` downloads the tokenizer only. Default `weights`. */
  readonly need?: "weights" | "headers" | "text";
  readonly signal?: AbortSignal;
}

/** The folder of a model by its name: from the cache, or from the hub as far as it is needed. */
export async function openNamedModel(repository: Repository, use: ModelUse): Promise<Folder> {
  const { need = "weights" } = use;
  const settings = await hubSettings();
  const name = repositoryText(repository);
  const snapshot = await cachedSnapshot(settings, repository);
  const isThere = need === "text" ? hasTokenizer : isComplete;
  if (snapshot !== undefined && (await isThere(snapshot))) return named(snapshot, name);
  if (settings.offline) {
    const got = snapshot === undefined ? "none of it" : "a part of it";
    throw new PhiError(
      "io",
      `${name}: expected it in ${printable(settings.cache)}, got ${got}, and HF_HUB_OFFLINE is set`,
      [`There is no folder of that name either. Without HF_HUB_OFFLINE it is downloaded: phi pull ${name}.`],
    );
  }
  try {
    if (need === "headers") return await remoteModelFolder(repository, { settings, ...noted(use) });
    return await named((await download(repository, use)).folder, name);
  } catch (error) {
    if (!(error instanceof PhiError) || error.kind === "machine" || snapshot !== undefined) throw error;
    const advice = [
      `There is no folder ${name} here, so it was taken for a model's name on ${new URL(settings.endpoint).host}.`,
    ];
    throw new PhiError(error.kind, error.message, [...advice, ...error.advice].slice(0, 2), { cause: error });
  }
}

async function named(path: string, name: string): Promise<Folder> {
  return { ...(await openFolder(path)), name };
}

const noted = ({ signal = new AbortController().signal }: Pick<ModelUse, "signal">) => ({ signal, onNote: note });

/** Options of `phi pull`. */
export interface PullCommandOptions extends ModelUse {
  readonly force?: boolean;
}

/** Downloads a model and prints the folder of its snapshot. */
export async function pull(name: string, options: PullCommandOptions, signal: AbortSignal): Promise<void> {
  const { folder } = await download(readRepository(name), { ...options, signal });
  await print(`${folder}\n`);
}

async function download(repository: Repository, options: PullCommandOptions): Promise<PulledModel> {
  const { need = "weights", force = false } = options;
  const name = repositoryText(repository);
  const bar = await progressBar();
  try {
    const pulled = await pullModel(repository, {
      ...noted(options),
      settings: await hubSettings(),
      weights: need === "weights",
      describe: loadOptions(options),
      force,
      check: (description) => checkFit(name, description, options.adapter),
      onPlan({ commit, files, totalBytes, cachedBytes, cache }) {
        const missing = formatBytes(totalBytes - cachedBytes);
        if (cachedBytes < totalBytes) {
          note(
            `downloading ${name} (${commit.slice(0, 8)}) into ${cache}: ${missing} of ${formatBytes(totalBytes)} in ${files} files`,
          );
        }
        bar.start(totalBytes, cachedBytes);
      },
      onProgress: bar.update,
    });
    const { totalBytes, receivedBytes } = pulled;
    bar.stop();
    note(
      receivedBytes === 0
        ? `${name} is complete: ${formatBytes(totalBytes)}`
        : `${name}: ${formatBytes(receivedBytes)} downloaded and checked`,
    );
    return pulled;
  } finally {
    bar.stop();
  }
}

/** Refuses what will not run here, by the numbers, before it is downloaded. */
async function checkFit(name: string, { model }: CheckpointDescription, option: string | undefined): Promise<void> {
  if (model === undefined) return;
  const adapter = await adapterToAsk(option);
  const needs = model.needs(adapter?.adapter);
  adapter?.release();
  const verdict = judge(needs);
  // Where there is no driver, SwiftShader takes this machine's memory.
  const isTooLarge = adapter === undefined && findBundle() !== undefined && needs.totalBytes > totalmem();
  if (verdict.fits !== false && !isTooLarge) return;
  const { totalBytes, weightsBytes, kvBytes, activationBytes } = needs;
  const reason = isTooLarge
    ? `it would compute in this machine's memory of ${formatBytes(totalmem())}`
    : verdict.reason;
  const sizes = `weights ${formatBytes(weightsBytes)}, cache ${formatBytes(kvBytes)} for ${model.context} tokens, activations ${formatBytes(activationBytes)}`;
  throw new PhiError(
    "machine",
    `${name}: expected a model that runs here, got one of ${formatBytes(totalBytes)}: ${reason}`,
    [
      `${sizes}, on ${needs.adapter ?? "SwiftShader"}. Nothing was downloaded.`,
      `--quantize int4 and a smaller --context take less; phi pull --force ${name} downloads it all the same.`,
    ],
  );
}

/** The adapter that the model is to run on; none is no reason not to download, unless one was named. */
async function adapterToAsk(option: string | undefined) {
  if (wantedAdapter(option)?.toLowerCase() === "swiftshader") return undefined;
  try {
    return await openAdapter(option);
  } catch (error) {
    if (wantedAdapter(option) !== undefined || !(error instanceof PhiError && error.kind === "machine")) throw error;
    return undefined;
  }
}

const rateWindowMs = 10_000;

/** A bar with rate and time left on stderr where that is a terminal. */
async function progressBar() {
  if (!process.stderr.isTTY) return { start() {}, update() {}, stop() {} };
  const { SingleBar } = await import("cli-progress");
  const bar = new SingleBar({
    format: "[{bar}] {percentage} %  {done} of {size}, {rate}/s, {left} left",
    stream: process.stderr,
    clearOnComplete: true,
    hideCursor: false,
  });
  const samples: { readonly ms: number; readonly bytes: number }[] = [];
  let isOpen = false;
  return {
    start(totalBytes: number, doneBytes: number) {
      isOpen = doneBytes < totalBytes;
      const texts = { done: formatBytes(doneBytes), rate: formatBytes(0), left: "?" };
      if (isOpen) bar.start(totalBytes, doneBytes, { ...texts, size: formatBytes(totalBytes) });
    },
    update({ doneBytes, receivedBytes }: PullProgress) {
      if (!isOpen) return;
      const now = { ms: performance.now(), bytes: receivedBytes };
      samples.push(now);
      while ((samples[0] ?? now).ms < now.ms - rateWindowMs) samples.shift();
      const from = samples[0] ?? now;
      const bytesPerMs = now.ms > from.ms ? (now.bytes - from.bytes) / (now.ms - from.ms) : 0;
      const leftMs = (bar.getTotal() - doneBytes) / bytesPerMs;
      bar.update(doneBytes, {
        done: formatBytes(doneBytes),
        rate: formatBytes(Math.round(bytesPerMs * 1000)),
        left: Number.isFinite(leftMs) ? duration(leftMs) : "?",
      });
    },
    stop() {
      if (isOpen) bar.stop();
      isOpen = false;
    },
  };
}

/** `3 h 20 min`, `4 min 10 s`, `8 s`. */
function duration(ms: number): string {
  const seconds = Math.ceil(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

/** Prints what models the cache holds. */
export async function list({ json = false }: { readonly json?: boolean }): Promise<void> {
  const settings = await hubSettings();
  const models = await listCached(settings);
  if (json) {
    const revisions = models.flatMap(({ id, revisions }) => revisions.map((revision) => ({ id, ...revision })));
    return print(
      jsonLine(
        revisions.map(({ id, commit, refs, folder, sizeBytes, isComplete, architecture, modified }) => ({
          repository: id,
          revisions: refs,
          commit,
          architecture: architecture ?? null,
          size_bytes: sizeBytes,
          complete: isComplete,
          modified: modified.toISOString(),
          folder,
        })),
      ),
    );
  }
  if (models.length === 0) return note(`no models in ${settings.cache}`);
  const rows = models.flatMap(({ id, revisions, sizeBytes }) =>
    revisions.length === 0
      ? [[id, "", "", formatBytes(sizeBytes), "unfinished"]]
      : revisions.map(({ commit, refs, architecture = "", sizeBytes, isComplete }) => [
          id,
          `${commit.slice(0, 8)}${refs.length > 0 ? ` (${refs.join(", ")})` : ""}`,
          architecture,
          formatBytes(sizeBytes),
          isComplete ? "" : "incomplete",
        ]),
  );
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => printable(row[column] ?? "").length)));
  const line = (row: readonly string[]) =>
    row.map((cell, column) =>
      column === 3 ? cell.padStart(widths[3] ?? 0) : printable(cell).padEnd(widths[column] ?? 0),
    );
  await print(rows.map((row) => `${line(row).join("  ").trimEnd()}\n`).join(""));
}

/** Removes a model or one revision of it from the cache, after a question unless `yes`. */
export async function remove(
  name: string,
  { yes = false }: { readonly yes?: boolean },
  signal: AbortSignal,
): Promise<void> {
  const { id, revision } = readRepository(name);
  const removal = await planRemoval(await hubSettings(), id, name.includes("@") ? revision : undefined);
  const what = `${name} (${formatBytes(removal.sizeBytes)}, ${removal.commits.length} revision${removal.commits.length === 1 ? "" : "s"})`;
  if (!yes && !(await confirmed(`Remove ${what} from the cache? [y/N] `, signal))) return note("nothing was removed");
  await removal.run();
  note(`removed ${what}`);
}

async function confirmed(question: string, signal: AbortSignal): Promise<boolean> {
  if (!process.stdin.isTTY || !process.stderr.isTTY) {
    throw new PhiError("usage", "expected --yes where there is no terminal to ask on, got none");
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(es)?$/i.test((await terminal.question(question, { signal })).trim());
  } finally {
    terminal.close();
  }
}
