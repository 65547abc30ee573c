/**
 * Before the tests: `dist` is built when it is older than a source, for the command line's tests run `dist/cli/phi.js`
 * and those of `bench peers` a process of it.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync, utimesSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const stamp = join(root, "dist/.built");

function newestMs(folder: string): number {
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" });
  const files = names.filter((name) => /\.(ts|wgsl)$/.test(name)).map((name) => join(folder, name));
  return Math.max(statSync(folder).mtimeMs, ...files.map((file) => statSync(file).mtimeMs));
}

export default function build(): void {
  const sources = ["engine", "kernels", "tokenizer", "library", "hub", "cli", "bench"].map((name) => join(root, name));
  if (existsSync(stamp) && Math.max(...sources.map(newestMs)) < statSync(stamp).mtimeMs) return;
  const started = new Date();
  const tsc = join(root, "node_modules/typescript/bin/tsc");
  // A type error fails `npm run check`; the compiler writes its output all the same, and the tests say what runs.
  for (const step of [[tsc, "-p", "tsconfig.build.json"], ["scripts/copy-wgsl.mjs"]]) {
    const { status, stdout, stderr } = spawnSync(process.execPath, step, { cwd: root, encoding: "utf8" });
    if (status !== 0) console.warn(`${step.join(" ")} failed:\n${stdout}${stderr}`);
  }
  // A source that was changed during the build is newer than what was built.
  utimesSync(stamp, started, started);
  console.warn(`built dist in ${((Date.now() - started.getTime()) / 1000).toFixed(1)} s`);
}
