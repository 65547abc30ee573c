/**
 * The cache as huggingface_hub lays it out, so that Python's tools and these share it:
 *
 *   models--microsoft--phi-2/blobs/<hash>                      the files, once each
 *   models--microsoft--phi-2/snapshots/<commit>/config.json    links to them
 *   models--microsoft--phi-2/refs/main                         the commit that a branch or tag stood for
 */
import { randomUUID } from "node:crypto";
import type { Dirent } from "node:fs";
import {
  link,
  mkdir,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join, relative, sep } from "node:path";
import { PhiError, printable } from "../engine/index.ts";
import { commitPattern, type Repository, repositoryText } from "./repository.ts";
import type { HubSettings } from "./settings.ts";

/** Where the parts of one repository are. */
export interface CachePaths {
  readonly root: string;
  readonly blobs: string;
  readonly snapshots: string;
  readonly refs: string;
  readonly locks: string;
}

export function cachePaths({ cache }: HubSettings, id: string): CachePaths {
  const name = `models--${id.replace("/", "--")}`;
  const root = join(cache, name);
  return {
    root,
    blobs: join(root, "blobs"),
    snapshots: join(root, "snapshots"),
    refs: join(root, "refs"),
    locks: join(cache, ".locks", name),
  };
}

/** The folder of a revision's snapshot as far as it is there, without asking the hub. */
export async function cachedSnapshot(settings: HubSettings, { id, revision }: Repository): Promise<string | undefined> {
  const { snapshots, refs } = cachePaths(settings, id);
  const commit = commitPattern.test(revision) ? revision : (await readText(join(refs, revision)))?.trim();
  if (commit === undefined || !commitPattern.test(commit)) return undefined;
  const folder = join(snapshots, commit);
  return (await exists(folder)) ? folder : undefined;
}

/** Whether a snapshot has config.json and every weight file that belongs to it. */
export async function isComplete(snapshot: string): Promise<boolean> {
  if (!(await exists(join(snapshot, "config.json")))) return false;
  const index = await readText(join(snapshot, "model.safetensors.index.json"));
  const files = index === undefined ? await onlyWeights(snapshot) : shardsOf(index);
  const present = await Promise.all(files.map((file) => exists(join(snapshot, file))));
  return files.length > 0 && present.every((isThere) => isThere);
}

async function onlyWeights(snapshot: string): Promise<readonly string[]> {
  return (await entries(snapshot)).map(({ name }) => name).filter((name) => name.endsWith(".safetensors"));
}

/** Whether a snapshot has what turns text into ids. */
export async function hasTokenizer(snapshot: string): Promise<boolean> {
  return (await entries(snapshot)).some(({ name }) => name === "tokenizer.json" || name.endsWith(".tiktoken"));
}

/** The files that an index names; an index that cannot be read names one that does not exist. */
function shardsOf(index: string): readonly string[] {
  try {
    const { weight_map } = JSON.parse(index) as { weight_map?: Record<string, unknown> };
    return [...new Set(Object.values(weight_map ?? {}).map(String))];
  } catch {
    return ["model.safetensors.index.json cannot be read"];
  }
}

/** Makes `snapshots/<commit>/<path>` a link to a blob; one that is there already is replaced at once. */
export async function linkSnapshot(paths: CachePaths, commit: string, path: string, hash: string): Promise<void> {
  const pointer = join(paths.snapshots, commit, ...path.split("/"));
  const blob = join(paths.blobs, hash);
  const target = relative(dirname(pointer), blob);
  if ((await readlink(pointer).catch(() => undefined)) === target) return;
  await mkdir(dirname(pointer), { recursive: true });
  const temporary = `${pointer}.${randomUUID().slice(0, 8)}.tmp`;
  try {
    // Windows lets only administrators make symbolic links; a hard link is as good there.
    await symlink(target, temporary).catch(() => link(blob, temporary));
    await rename(temporary, pointer);
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Notes which commit a branch or tag stands for. */
export async function writeRef({ refs }: CachePaths, revision: string, commit: string): Promise<void> {
  if (commitPattern.test(revision)) return;
  const path = join(refs, revision);
  if ((await readText(path)) === commit) return;
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.${randomUUID().slice(0, 8)}.tmp`;
  try {
    await writeFile(temporary, commit);
    await rename(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}

export interface CachedRevision {
  readonly commit: string;
  /** Branches and tags that stood for it. */
  readonly refs: readonly string[];
  readonly folder: string;
  readonly sizeBytes: number;
  readonly isComplete: boolean;
  /** `architectures` of config.json, else its `model_type`. */
  readonly architecture: string | undefined;
  readonly modified: Date;
}

export interface CachedModel {
  readonly id: string;
  readonly revisions: readonly CachedRevision[];
  /** On the disk: what revisions share counts once, unfinished downloads count too. */
  readonly sizeBytes: number;
}

/** Every model of the cache, by name; a cache that does not exist holds none. */
export async function listCached(settings: HubSettings): Promise<readonly CachedModel[]> {
  const folders = (await entries(settings.cache)).filter(
    (entry) => entry.isDirectory() && /^models--/.test(entry.name),
  );
  const models = await Promise.all(
    folders.map(({ name }) => readModel(settings, name.slice("models--".length).replace("--", "/"))),
  );
  return models.filter((model) => model !== undefined).sort((a, b) => (a.id < b.id ? -1 : 1));
}

async function readModel(settings: HubSettings, id: string): Promise<CachedModel | undefined> {
  const paths = cachePaths(settings, id);
  const refs = new Map<string, string[]>();
  for (const ref of await filesBelow(paths.refs)) {
    const commit = (await readText(join(paths.refs, ref)))?.trim() ?? "";
    refs.set(commit, [...(refs.get(commit) ?? []), ref.split(sep).join("/")]);
  }
  const commits = (await entries(paths.snapshots)).filter(({ name }) => commitPattern.test(name));
  const revisions = await Promise.all(commits.map(({ name }) => readRevision(paths, name, refs.get(name) ?? [])));
  const blobs = await Promise.all((await filesBelow(paths.blobs)).map((name) => sizeOf(join(paths.blobs, name))));
  const sizeBytes = blobs.reduce((sum, size) => sum + size, 0);
  if (revisions.length === 0 && sizeBytes === 0) return undefined;
  return { id, revisions: revisions.sort((a, b) => b.modified.getTime() - a.modified.getTime()), sizeBytes };
}

async function readRevision(paths: CachePaths, commit: string, refs: readonly string[]): Promise<CachedRevision> {
  const folder = join(paths.snapshots, commit);
  const files = await Promise.all(
    (await filesBelow(folder)).map((file) => realpath(join(folder, file)).catch(() => undefined)),
  );
  const sizes = await Promise.all([...new Set(files)].map((file) => (file === undefined ? 0 : sizeOf(file))));
  return {
    commit,
    refs: [...refs].sort(),
    folder,
    sizeBytes: sizes.reduce((sum, size) => sum + size, 0),
    isComplete: await isComplete(folder),
    architecture: architectureOf(await readText(join(folder, "config.json"))),
    modified: (await stat(folder)).mtime,
  };
}

function architectureOf(config: string | undefined): string | undefined {
  try {
    const { architectures, model_type } = JSON.parse(config ?? "") as Record<string, unknown>;
    const name = Array.isArray(architectures) ? architectures[0] : model_type;
    return typeof name === "string" ? name : undefined;
  } catch {
    return undefined;
  }
}

/** What a removal would take away. */
export interface Removal {
  readonly commits: readonly string[];
  /** Bytes that become free. */
  readonly sizeBytes: number;
  /** Removes it; files that another revision uses stay. */
  run(): Promise<void>;
}

/**
 * Plans the removal of one revision (a branch, a tag, or a commit or the beginning of one), or of all of a model where
 * none is given. Throws a PhiError "usage" where the cache has no such thing.
 */
export async function planRemoval(settings: HubSettings, id: string, revision: string | undefined): Promise<Removal> {
  const paths = cachePaths(settings, id);
  const model = await readModel(settings, id);
  const found = (model?.revisions ?? []).filter(
    ({ commit, refs }) =>
      revision === undefined || refs.includes(revision) || (revision.length >= 6 && commit.startsWith(revision)),
  );
  if (model === undefined || (revision !== undefined && found.length !== 1)) {
    const name = revision === undefined ? id : repositoryText({ id, revision });
    const got = found.length > 1 ? `${found.length} of them` : "none";
    throw new PhiError("usage", `${printable(name)}: expected a model in the cache, got ${got}`, [
      "phi list shows what there is.",
    ]);
  }
  const commits = found.map(({ commit }) => commit);
  if (revision === undefined) {
    return {
      commits,
      sizeBytes: model.sizeBytes,
      async run() {
        // Out of sight at once, so that nobody opens half of it.
        const hidden = `${paths.root}.${randomUUID().slice(0, 8)}.removed`;
        await rename(paths.root, hidden);
        await rm(hidden, { recursive: true, force: true });
        await rm(paths.locks, { recursive: true, force: true });
      },
    };
  }
  const used = new Set<string>();
  for (const other of model.revisions.filter(({ commit }) => !commits.includes(commit))) {
    for (const file of await filesBelow(other.folder)) used.add(await blobName(join(other.folder, file)));
  }
  const unused = new Set<string>();
  for (const { folder } of found) {
    for (const file of await filesBelow(folder)) unused.add(await blobName(join(folder, file)));
  }
  for (const name of used) unused.delete(name);
  unused.delete("");
  const blobs = [...unused].map((name) => join(paths.blobs, name));
  const sizes = await Promise.all(blobs.map(sizeOf));
  return {
    commits,
    sizeBytes: sizes.reduce((sum, size) => sum + size, 0),
    async run() {
      for (const ref of found.flatMap(({ refs }) => refs)) await rm(join(paths.refs, ref), { force: true });
      for (const { folder } of found) await rm(folder, { recursive: true, force: true });
      for (const blob of blobs) await rm(blob, { force: true });
    },
  };
}

/** The blob that a snapshot's link names, or "" for a file of its own. */
async function blobName(pointer: string): Promise<string> {
  const target = await readlink(pointer).catch(() => "");
  return /(?:^|[\\/])blobs[\\/]([^\\/]+)$/.exec(target)?.[1] ?? "";
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.size ?? 0;
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined;
}

async function readText(path: string): Promise<string | undefined> {
  return readFile(path, "utf8").catch(() => undefined);
}

async function entries(folder: string): Promise<readonly Dirent[]> {
  return readdir(folder, { withFileTypes: true }).catch(() => []);
}

/** Paths of the files and links below a folder. */
async function filesBelow(folder: string): Promise<readonly string[]> {
  const all = await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []);
  return all
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)));
}
