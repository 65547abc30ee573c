/** Remembers which kernels passed their check, by adapter, driver and version, in a file of the user's cache folder. */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { CheckedKernels } from "../engine/index.ts";
import { cacheFolder, versionLine } from "./package.ts";

const hash = (text: string) => createHash("sha256").update(text).digest("hex").slice(0, 32);

/** What the file knows of an adapter. A file that cannot be read or does not make sense counts as empty. */
function remembered(file: string): ReadonlySet<string> {
  try {
    const known: unknown = JSON.parse(readFileSync(file, "utf8"));
    return new Set(Array.isArray(known) ? known.filter((key) => typeof key === "string") : []);
  } catch {
    return new Set();
  }
}

/** The kernels known to be right on this adapter. A cache that cannot be written only costs the time of the check. */
export function checkedKernels({ info }: GPUAdapter, folder = cacheFolder()): CheckedKernels {
  const { vendor, architecture, device, description } = info;
  const file = join(
    folder,
    `checked-${hash([versionLine(), vendor, architecture, device, description].join("\n"))}.json`,
  );
  const known = new Set(remembered(file));
  return {
    has: (key) => known.has(hash(key)),
    add(keys) {
      if (keys.length === 0) return;
      for (const key of keys) known.add(hash(key));
      const partial = `${file}.${process.pid}`;
      try {
        mkdirSync(dirname(file), { recursive: true });
        // Another process may have added its own meanwhile.
        writeFileSync(partial, JSON.stringify([...new Set([...remembered(file), ...known])]));
        renameSync(partial, file);
      } catch {
        try {
          rmSync(partial, { force: true });
        } catch {
          // There is no such folder, so there is nothing to remove.
        }
      }
    },
  };
}
