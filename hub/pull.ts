/** A model from the hub into the cache: looked at first, by its headers, and then downloaded. */
import { mkdir, stat, statfs } from "node:fs/promises";
import { dirname, join } from "node:path";
import {
  type CheckpointDescription,
  type DescribeOptions,
  describeCheckpoint,
  type Folder,
  PhiError,
  printable,
} from "../engine/index.ts";
import { cachePaths, linkSnapshot, writeRef } from "./cache.ts";
import { type HubClient, hubClient } from "./client.ts";
import { downloadBlob, type OpenFile, writeFailure } from "./download.ts";
import { openRemote, type RemoteFile, type RemoteModel } from "./remote.ts";
import { type Repository, repositoryText } from "./repository.ts";
import type { HubSettings } from "./settings.ts";

export interface HubOptions {
  readonly settings: HubSettings;
  readonly signal: AbortSignal;
  /** Told of what the user should know, one line each. */
  readonly onNote?: (text: string) => void;
  /** First pause before a request is tried again, in milliseconds. Default 1000. */
  readonly pauseMs?: number;
}

/** What a download is about to do. */
export interface PullPlan {
  readonly commit: string;
  readonly files: number;
  readonly totalBytes: number;
  /** What is in the cache already, finished or not, and need not come again. */
  readonly cachedBytes: number;
  /** The cache's folder. */
  readonly cache: string;
}

export interface PullProgress {
  /** Of the plan's bytes, those that are in the cache. */
  readonly doneBytes: number;
  /** Bytes that came over the network so far. */
  readonly receivedBytes: number;
}

export interface PullOptions extends HubOptions {
  /** Without: the tokenizer and the configs only. Default true. */
  readonly weights?: boolean;
  /** As the model is going to be run, for what it takes. */
  readonly describe?: DescribeOptions;
  /** Judges what the headers say, before any weight is fetched; what it throws ends the pull. */
  readonly check?: (description: CheckpointDescription) => void | Promise<void>;
  /** Downloads also what this engine cannot run, for other programs that use the cache. */
  readonly force?: boolean;
  readonly onPlan?: (plan: PullPlan) => void;
  readonly onProgress?: (progress: PullProgress) => void;
  readonly openFile?: OpenFile;
}

export interface PulledModel {
  /** The snapshot. */
  readonly folder: string;
  readonly commit: string;
  readonly totalBytes: number;
  /** Bytes that came over the network. */
  readonly receivedBytes: number;
}

/** What is downloaded beside the weights: all that a tokenizer or a quantized checkpoint may need, and no code. */
const smallFiles =
  /^(?:config|generation_config|model\.safetensors\.index|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|quantize_config|quant_config)\.json$|^(?:merges\.txt|tokenizer\.model|chat_template\.jinja)$|^[^/]+\.tiktoken$/;
const parallelFiles = 4;

function connect({ settings, signal, onNote, pauseMs }: HubOptions): HubClient {
  if (settings.offline) {
    throw new PhiError("io", "expected to reach the hub, got HF_HUB_OFFLINE, which forbids it", [
      "Unset HF_HUB_OFFLINE to download; phi list shows what the cache holds.",
    ]);
  }
  return hubClient(settings, { signal, ...(onNote && { onNote }), ...(pauseMs !== undefined && { pauseMs }) });
}

/** A model on the hub as a folder whose files are fetched in the ranges that are read; nothing is written. */
export async function remoteModelFolder(repository: Repository, options: HubOptions): Promise<Folder> {
  return (await openRemote(connect(options), repository)).folder;
}

/**
 * Downloads a revision, as far as it is not in the cache: first the small files, then the weights, several at a time.
 * Before that, config.json and the headers of the weights are read, and refused if no model comes of them; then the
 * disk's space is looked at. The revision's name is noted last, so that a pull that fails leaves what was there before
 * as it was. Throws a PhiError: "checkpoint" for a model that does not exist or is not supported, "io" otherwise.
 */
export async function pull(repository: Repository, options: PullOptions): Promise<PulledModel> {
  const { settings, weights = true, onPlan, onProgress, onNote = () => {} } = options;
  const client = connect(options);
  const remote = await openRemote(client, repository);
  const wanted = [...remote.files.values()].filter(({ path }) => smallFiles.test(path));
  const weightFiles = weights ? await checkedWeights(remote, options) : [];
  const all = [...wanted, ...weightFiles];
  const paths = cachePaths(settings, repository.id);

  const totalBytes = all.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const present = await Promise.all(all.map((file) => presentBytes(paths.blobs, file)));
  const cachedBytes = present.reduce((sum, bytes) => sum + bytes, 0);
  await mkdir(paths.root, { recursive: true }).catch((error) => {
    throw writeFailure(printable(settings.cache), error);
  });
  await checkSpace(paths.root, totalBytes - cachedBytes);
  onPlan?.({ commit: remote.commit, files: all.length, totalBytes, cachedBytes, cache: settings.cache });

  let doneBytes = 0;
  let receivedBytes = 0;
  // The first failure stops the others; all of them have let go of their files when it is reported.
  const failed = new AbortController();
  const { signal } = failed;
  const stop = () => failed.abort(options.signal.reason);
  options.signal.addEventListener("abort", stop, { once: true });
  if (options.signal.aborted) stop();
  const downloads = hubClient(settings, {
    signal,
    onNote,
    wasReached: true,
    ...(options.pauseMs !== undefined && { pauseMs: options.pauseMs }),
  });
  const take = async (file: RemoteFile) => {
    await downloadBlob(downloads, paths, file, {
      signal,
      onNote,
      ...(options.openFile && { openFile: options.openFile }),
      onBytes(count, from) {
        doneBytes += count;
        if (from === "network") receivedBytes += count;
        onProgress?.({ doneBytes, receivedBytes });
      },
    });
    await linkSnapshot(paths, remote.commit, file.path, file.hash);
  };
  try {
    for (const group of [wanted, weightFiles]) await inParallel(group, parallelFiles, take, failed);
  } finally {
    options.signal.removeEventListener("abort", stop);
  }
  try {
    await writeRef(paths, repository.revision, remote.commit);
  } catch (error) {
    throw writeFailure(repositoryText(repository), error);
  }
  return {
    folder: join(paths.snapshots, remote.commit),
    commit: remote.commit,
    totalBytes,
    receivedBytes,
  };
}

async function checkedWeights(
  remote: RemoteModel,
  { describe = {}, check, force = false }: PullOptions,
): Promise<readonly RemoteFile[]> {
  const description = await describeCheckpoint(remote.folder, describe);
  if (!force) {
    if (description.problem !== undefined) throw withName(description.problem, remote.folder.name);
    await check?.(description);
  }
  return description.files.flatMap((path) => remote.files.get(path) ?? []);
}

/** The same refusal, with the model's name before the file's. */
function withName({ kind, message, advice }: PhiError, name: string): PhiError {
  return new PhiError(kind, message.startsWith(name) ? message : `${name}: ${message}`, advice);
}

async function presentBytes(blobs: string, { hash, sizeBytes }: RemoteFile): Promise<number> {
  const whole = await stat(join(blobs, hash)).catch(() => undefined);
  if (whole?.size === sizeBytes) return sizeBytes;
  const partial = await stat(join(blobs, `${hash}.incomplete`)).catch(() => undefined);
  return partial !== undefined && partial.size <= sizeBytes ? partial.size : 0;
}

async function checkSpace(folder: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize >= neededBytes) return;
  throw new PhiError("io", `${printable(dirname(folder))}: expected ${neededBytes} free bytes, got ${bavail * bsize}`, [
    "Make room (phi list, phi remove), or set HF_HUB_CACHE to a folder on another disk.",
  ]);
}

/** Runs `work` on every item, `width` at a time; the first error ends it, once the others have stopped. */
async function inParallel<T>(
  items: readonly T[],
  width: number,
  work: (item: T) => Promise<void>,
  failed: AbortController,
): Promise<void> {
  const rest = [...items];
  const errors: unknown[] = [];
  const worker = async () => {
    for (let item = rest.shift(); item !== undefined && errors.length === 0; item = rest.shift()) {
      try {
        await work(item);
      } catch (error) {
        errors.push(error);
        failed.abort(error);
      }
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
  if (errors.length > 0) throw errors[0];
}
