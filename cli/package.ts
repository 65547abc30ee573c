/** Facts about this package, found from where its compiled code lies. */
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder of package.json, above this file (`dist/cli` when built, `cli` in the tests). */
function packageRoot(): string {
  const start = dirname(fileURLToPath(import.meta.url));
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json"))) return folder;
    if (folder === dirname(folder)) throw new Error(`${start}: no package.json above it`);
  }
}

/** Where what phi keeps from one run to the next lies: `XDG_CACHE_HOME` or `~/.cache`. */
export function cacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  return join(environment.XDG_CACHE_HOME || join(homedir(), ".cache"), "phi-webgpu");
}

/** The bundled phi-tiny checkpoint, the model when none is named. */
export function bundledModel(): string {
  return join(packageRoot(), "models", "phi-tiny");
}

function versionIn(file: string): string {
  return String((JSON.parse(readFileSync(file, "utf8")) as { version?: unknown }).version);
}

/** One line for `--version`: this package, Node, Dawn's package and the system. */
export function versionLine(): string {
  const require = createRequire(import.meta.url);
  const dawn = join(dirname(require.resolve("webgpu")), "package.json");
  const system = `${process.platform}-${process.arch}`;
  const version = versionIn(join(packageRoot(), "package.json"));
  return `phi ${version} (webgpu ${versionIn(dawn)}, Node ${process.versions.node}, ${system})`;
}
