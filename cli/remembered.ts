/**
 * What phi remembers of an adapter, driver and version of itself, in files of the user's cache folder: which kernels
 * passed their check, and which sizes phi tune found. A file that cannot be read or does not make sense counts as empty.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { CheckedKernels, TunedSizes } from "../engine/index.ts";
import { cacheFolder, versionLine } from "./package.ts";

const hash = (text: string) => createHash("sha256").update(text).digest("hex").slice(0, 32);

/** The file of a kind for an adapter, and for what else it depends on. */
function fileOf(kind: "checked" | "tuned", { info }: GPUAdapter, folder: string, ...more: readonly string[]): string {
  const { vendor, architecture, device, description } = info;
  const key = [versionLine(), vendor, architecture, device, description, ...more].join("\n");
  return join(folder, `${kind}-${hash(key)}.json`);
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch {
    return undefined;
  }
}

/** Writes beside the file and renames, so that no reader sees half of it. Throws what the system says. */
function writeJson(file: string, value: unknown): void {
  const partial = `${file}.${process.pid}`;
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(partial, JSON.stringify(value));
    renameSync(partial, file);
  } catch (error) {
    try {
      rmSync(partial, { force: true });
    } catch {
      // There is no such folder, so there is nothing to remove.
    }
    throw error;
  }
}

function readKeys(file: string): readonly string[] {
  const known = readJson(file);
  return Array.isArray(known) ? known.filter((key) => typeof key === "string") : [];
}

/** The kernels known to be right on this adapter. A cache that cannot be written only costs the time of the check. */
export function checkedKernels(adapter: GPUAdapter, folder = cacheFolder()): CheckedKernels {
  const file = fileOf("checked", adapter, folder);
  const known = new Set(readKeys(file));
  return {
    has: (key) => known.has(hash(key)),
    add(keys) {
      if (keys.length === 0) return;
      for (const key of keys) known.add(hash(key));
      try {
        // Another process may have added its own meanwhile.
        writeJson(file, [...new Set([...readKeys(file), ...known])]);
      } catch {
        // They are checked again next time.
      }
    },
  };
}

/** The sizes measured on one adapter with or without optional features, for any models. */
export interface TunedStore {
  readonly file: string;
  /** For `LoadOptions.tuned`, which judges it. */
  read(): unknown;
  /** Replaces what is known of `keys`. Throws what the system says where it cannot be written. */
  write(sizes: TunedSizes, keys: readonly string[]): void;
}

export function tunedStore(adapter: GPUAdapter, features: "all" | "none", folder = cacheFolder()): TunedStore {
  const file = fileOf("tuned", adapter, folder, features);
  const read = () => readJson(file);
  return {
    file,
    read,
    write(sizes, keys) {
      const replaced = new Set(keys);
      const merged = new Map<string, Record<string, unknown>>();
      for (const [family, known] of entries(read())) {
        merged.set(family, Object.fromEntries(entries(known).filter(([key]) => !replaced.has(key))));
      }
      for (const [family, own] of Object.entries(sizes)) merged.set(family, { ...merged.get(family), ...own });
      writeJson(file, Object.fromEntries(merged));
    },
  };
}

function entries(value: unknown): readonly (readonly [string, unknown])[] {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? Object.entries(value) : [];
}

/** Removes what phi tune found on every adapter; returns how many files there were. Throws what the system says. */
export function forgetTuned(folder = cacheFolder()): number {
  let names: readonly string[] = [];
  try {
    names = readdirSync(folder).filter((name) => name.startsWith("tuned-"));
  } catch {
    // There is no such folder.
  }
  for (const name of names) rmSync(join(folder, name));
  return names.length;
}
