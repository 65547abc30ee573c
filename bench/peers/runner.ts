/** The process of one engine: it loads, warms up, measures once, and prints a line of JSON. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

/** What every engine is asked for, the first argument of its process, as JSON. */
export interface Request {
  /** The peer's own folder, as `setup.ts` leaves it; our engine's is the checkpoint. */
  readonly folder: string;
  /** What its file says: what our engine, or a peer that is measured twice, makes of it, or what else it needs. */
  readonly variant: string;
  /** Token ids: a prompt that `newTokens` tokens follow, and one of which only the first new token is awaited. */
  readonly shortPrompt: readonly number[];
  readonly longPrompt: readonly number[];
  readonly newTokens: number;
  /** Whether the adapter computes on the CPU. */
  readonly software: boolean;
}

/** One measurement, times in milliseconds; CPU time is that of all threads of the process, system calls included. */
export interface Measured {
  readonly versions: string;
  /** The adapter by its own name where the engine tells it, else the Vulkan drivers in the process; "" for none. */
  readonly adapter: string;
  readonly loadMs: number;
  /** To the first new token after the short prompt. */
  readonly firstTokenMs: number;
  /** From the first new token to the last. */
  readonly decodeMs: number;
  readonly decodeCpuMs: number;
  /** To the first new token after the long prompt, or as much of it as the engine runs. */
  readonly prefillTokens: number;
  readonly prefillMs: number;
  readonly prefillCpuMs: number;
  /** The new tokens after the short prompt. */
  readonly ids: readonly number[];
}

/** A loaded model. */
export interface Engine {
  readonly versions: string;
  readonly adapter?: string;
  /** Tokens of the longest prompt that is bearable; of a longer one it gets as many. Default: any. */
  readonly longestPrompt?: number;
  /** Forgets what is cached of earlier prompts. */
  reset?(): Promise<void>;
  /** Greedy, ends of text ignored; `onToken` is called as each new token reaches the host. */
  generate(prompt: readonly number[], tokens: number, onToken: (id: number) => void): Promise<void>;
}

interface Instant {
  readonly ms: number;
  readonly cpuMs: number;
}

function now(): Instant {
  const { user, system } = process.cpuUsage();
  return { ms: performance.now(), cpuMs: (user + system) / 1000 };
}

/** Runs a prompt of which nothing is cached. Throws an Error where the engine gives fewer tokens. */
async function timed(engine: Engine, prompt: readonly number[], tokens: number) {
  await engine.reset?.();
  const ids: number[] = [];
  const began = now();
  let first = began;
  let last = began;
  await engine.generate(prompt, tokens, (id) => {
    ids.push(id);
    if (ids.length === 1) first = now();
    if (ids.length === tokens) last = now();
  });
  if (ids.length < tokens) throw new Error(`expected ${tokens} new tokens, got ${ids.length}`);
  return { ids: ids.slice(0, tokens), began, first, last };
}

/** The Vulkan drivers that this process has loaded (Linux; elsewhere "unknown"). */
function loadedDrivers(): string {
  try {
    const names = readFileSync("/proc/self/maps", "utf8").matchAll(/\/(libvulkan_\w+|libvk_\w+)\.so/g);
    return [...new Set([...names].map((match) => match[1]))].join(", ");
  } catch {
    return "unknown";
  }
}

/**
 * Measures the engine that `load` gives for this process's request, prints the line, and ends the process; what fails is
 * the last line on stderr.
 */
export async function measure(load: (request: Request) => Promise<Engine>): Promise<never> {
  try {
    const measured = await measureOnce(load, JSON.parse(process.argv[2] ?? "") as Request);
    await new Promise((resolve) => process.stdout.write(`\n${JSON.stringify(measured)}\n`, resolve));
    process.exit(0);
  } catch (error) {
    process.stderr.write(`\n${error instanceof Error ? error.message : error}\n`);
    process.exit(1);
  }
}

async function measureOnce(load: (request: Request) => Promise<Engine>, request: Request): Promise<Measured> {
  const { shortPrompt, newTokens } = request;
  const began = performance.now();
  const engine = await load(request);
  const loadMs = performance.now() - began;
  await timed(engine, shortPrompt, 3); // warms up
  const short = await timed(engine, shortPrompt, newTokens + 1);
  const longPrompt = request.longPrompt.slice(0, engine.longestPrompt);
  const long = await timed(engine, longPrompt, 1);
  return {
    versions: engine.versions,
    adapter: engine.adapter ?? loadedDrivers(),
    loadMs,
    firstTokenMs: short.first.ms - short.began.ms,
    decodeMs: short.last.ms - short.first.ms,
    decodeCpuMs: short.last.cpuMs - short.first.cpuMs,
    prefillTokens: longPrompt.length,
    prefillMs: long.first.ms - long.began.ms,
    prefillCpuMs: long.first.cpuMs - long.began.cpuMs,
    ids: short.ids,
  };
}

/** Imports a package of a peer's own folder, which is no dependency of this project, as the shape that is used of it. */
export async function importFrom<Module>(folder: string, name: string): Promise<{ module: Module; version: string }> {
  const entry = createRequire(join(folder, "package.json")).resolve(name);
  const described = JSON.parse(readFileSync(join(folder, "node_modules", name, "package.json"), "utf8"));
  return { module: await import(pathToFileURL(entry).href), version: `${name} ${described.version}` };
}
