/** Runs the built executable as a user would. */
import { type ChildProcess, spawn } from "node:child_process";
import { homedir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dirname, "../..");
export const executable = join(root, "dist/cli/phi.js");

/** Mesa keeps what it compiled where it always does, and not in a folder that a test gives as `XDG_CACHE_HOME`. */
export const shaderCache = { MESA_SHADER_CACHE_DIR: process.env.XDG_CACHE_HOME || join(homedir(), ".cache") };

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  /** Bytes for stdin, which is then closed; without, stdin is empty. */
  readonly stdin?: string | Uint8Array;
  readonly env?: Readonly<Record<string, string>>;
  /** Called once the process runs. */
  readonly started?: (child: ChildProcess) => void;
}

/** `phi` with these arguments, to its end. Dawn's own remarks are taken out of `stderr`. */
export function phi(args: readonly string[], options: RunOptions = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [executable, ...args], { env: { ...process.env, ...options.env } });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.on("error", reject);
    child.on("close", (code, signal) => {
      const own = stderr.split("\n").filter((line) => !line.startsWith("Warning: "));
      resolve({ code, signal, stdout, stderr: own.join("\n") });
    });
    child.stdin.on("error", () => {}); // it may end without reading
    child.stdin.end(options.stdin ?? "");
    options.started?.(child);
  });
}
