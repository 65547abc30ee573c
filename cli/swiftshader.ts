/**
 * The software Vulkan driver for machines that have none: SwiftShader, from the dev dependency `@sparticuz/chromium`.
 * The dynamic linker and the Vulkan loader read their variables when a process starts, so a process that wants this
 * driver has to be started with `swiftShaderEnvironment`; the command line starts itself anew for that.
 */
import { spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { homedir, tmpdir } from "node:os";
import { basename, delimiter, dirname, join } from "node:path";
import { brotliDecompressSync } from "node:zlib";
import { PhiError } from "../engine/errors.ts";
import { cacheFolder } from "./package.ts";

const icdName = "vk_swiftshader_icd.json";
const driverFiles: readonly string[] = [icdName, "libvk_swiftshader.so", "libvulkan.so.1"];

/** Where the packed driver lies: the archive and the version of the package that holds it. */
interface Bundle {
  readonly archive: string;
  readonly version: string;
}

/** The packed driver, or undefined where the package is not installed or its binaries are not for this system. */
export function findBundle(): Bundle | undefined {
  if (process.platform !== "linux" || process.arch !== "x64") return undefined;
  const require = createRequire(import.meta.url);
  for (const folder of require.resolve.paths("@sparticuz/chromium") ?? []) {
    const root = join(folder, "@sparticuz", "chromium");
    const archive = join(root, "bin", "swiftshader.tar.br");
    if (!existsSync(archive)) continue;
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version?: unknown };
    return { archive, version: String(version) };
  }
  return undefined;
}

/** The files of a plain (ustar) archive by name: its headers are 512 bytes, the name at 0 and the octal size at 124. */
export function* tarFiles(archive: Buffer): Generator<{ readonly name: string; readonly bytes: Buffer }> {
  for (let offset = 0; offset + 512 <= archive.length && archive[offset] !== 0; ) {
    const text = (start: number, length: number) =>
      archive.toString("latin1", offset + start, offset + start + length).replace(/\0.*$/s, "");
    const sizeBytes = Number.parseInt(text(124, 12), 8);
    const start = offset + 512;
    yield { name: text(0, 100), bytes: archive.subarray(start, start + sizeBytes) };
    offset = start + Math.ceil(sizeBytes / 512) * 512;
  }
}

function isComplete(folder: string): boolean {
  return driverFiles.every((name) => existsSync(join(folder, name)));
}

function unpackInto(bundle: Bundle, folder: string): void {
  const archive = brotliDecompressSync(readFileSync(bundle.archive));
  for (const { name, bytes } of tarFiles(archive)) {
    if (driverFiles.includes(name)) writeFileSync(join(folder, name), bytes, { mode: 0o755 });
  }
  if (!isComplete(folder)) throw new Error(`${bundle.archive} does not hold ${driverFiles.join(", ")}`);
}

/**
 * Unpacks the driver once into the user's cache folder, whole or not at all (renamed into place), and gives its folder.
 * Where the cache cannot be written it goes into a fresh folder of the system's temporary one, `temporary` then.
 */
export function unpackSwiftShader(
  bundle: Bundle,
  environment: NodeJS.ProcessEnv = process.env,
): { readonly folder: string; readonly temporary: boolean } {
  const cache = cacheFolder(environment);
  const folder = join(cache, `swiftshader-${bundle.version}`);
  if (isComplete(folder)) return { folder, temporary: false };
  let partial: string | undefined;
  try {
    mkdirSync(cache, { recursive: true });
    partial = mkdtempSync(`${folder}.`);
    unpackInto(bundle, partial);
    rmSync(folder, { recursive: true, force: true });
    renameSync(partial, folder);
    return { folder, temporary: false };
  } catch {
    if (partial !== undefined) rmSync(partial, { recursive: true, force: true });
    // Another process may have put it there in the meantime.
    if (isComplete(folder)) return { folder, temporary: false };
  }
  // Never a fixed name under the shared temporary folder: anyone could have put a library there.
  const fresh = mkdtempSync(join(tmpdir(), "phi-webgpu-"));
  unpackInto(bundle, fresh);
  return { folder: fresh, temporary: true };
}

/** The environment of a process that is to use the driver in `folder`. */
export function swiftShaderEnvironment(
  folder: string,
  environment: NodeJS.ProcessEnv = process.env,
): Record<string, string> {
  const icd = join(folder, icdName);
  const libraries = environment.LD_LIBRARY_PATH;
  return {
    VK_DRIVER_FILES: icd,
    VK_ICD_FILENAMES: icd,
    LD_LIBRARY_PATH: libraries ? `${folder}${delimiter}${libraries}` : folder,
  };
}

/** Whether this process was started with `swiftShaderEnvironment`. */
export function hasSwiftShaderEnvironment(environment: NodeJS.ProcessEnv = process.env): boolean {
  const icd = environment.VK_DRIVER_FILES;
  if (icd === undefined || basename(icd) !== icdName) return false;
  return (environment.LD_LIBRARY_PATH ?? "").split(delimiter).includes(dirname(icd));
}

/**
 * Whether the Vulkan loader would find any driver's manifest, by its documented search path. Asking Dawn instead costs
 * a start of the loader and prints its complaints on stderr.
 */
export function hasVulkanManifest(environment: NodeJS.ProcessEnv = process.env): boolean {
  const split = (paths: string) => paths.split(delimiter).filter((path) => path !== "");
  const hasManifest = (path: string): boolean => {
    if (path.endsWith(".json")) return existsSync(path);
    try {
      return readdirSync(path).some((name) => name.endsWith(".json"));
    } catch {
      return false;
    }
  };
  const chosen = environment.VK_DRIVER_FILES ?? environment.VK_ICD_FILENAMES;
  if (chosen !== undefined) return split(chosen).some(hasManifest);
  const home = homedir();
  const roots = [
    environment.XDG_CONFIG_HOME || join(home, ".config"),
    ...split(environment.XDG_CONFIG_DIRS || "/etc/xdg"),
    "/etc",
    environment.XDG_DATA_HOME || join(home, ".local/share"),
    ...split(environment.XDG_DATA_DIRS || "/usr/local/share:/usr/share"),
    "/usr/local/share",
    "/usr/share",
    "/run/opengl-driver/share", // NixOS
  ];
  return [...split(environment.VK_ADD_DRIVER_FILES ?? ""), ...roots.map((root) => join(root, "vulkan/icd.d"))].some(
    hasManifest,
  );
}

/**
 * Runs this same command line again on SwiftShader, sharing stdin, stdout and stderr, and ends this process as the new
 * one ends: with its exit code or by its signal. Signals that reach this process are handed on.
 */
export async function restartWithSwiftShader(bundle: Bundle): Promise<void> {
  let unpacked: ReturnType<typeof unpackSwiftShader>;
  try {
    unpacked = unpackSwiftShader(bundle);
  } catch (error) {
    throw new PhiError("machine", `cannot unpack SwiftShader: ${error instanceof Error ? error.message : error}`, [
      "Make the cache folder (XDG_CACHE_HOME or ~/.cache) or the temporary folder writable, or install a Vulkan driver.",
    ]);
  }
  const environment = { ...process.env, ...swiftShaderEnvironment(unpacked.folder) };
  const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    stdio: "inherit",
    env: environment,
  });
  const handOn = (signal: NodeJS.Signals) => void child.kill(signal);
  const signals: readonly NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP"];
  // This process only waits from here on: its own way to end on a signal is taken away.
  for (const signal of signals) process.removeAllListeners(signal).on(signal, handOn);
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code, signal) => resolve([code, signal]));
  });
  for (const signal of signals) process.off(signal, handOn);
  if (unpacked.temporary) rmSync(unpacked.folder, { recursive: true, force: true });
  if (signal !== null) process.kill(process.pid, signal);
  else process.exitCode = code ?? 1;
}
