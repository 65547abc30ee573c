/** `peers`: our engine and others on the same adapter and weights, in turn, so that what else the machine does hits all. */
import { type ExecFileException, execFile } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { openModelFolder } from "../../cli/model.ts";
import { evaluate, loadModel, type Model, PhiError, printable } from "../../engine/index.ts";
import { loadTokenizer } from "../../library/index.ts";
import {
  type BenchTable,
  digits,
  type Environment,
  environmentLines,
  type Figure,
  refuseImpossible,
  spread,
} from "../report.ts";
import type { Measured, Request } from "./runner.ts";
import { isReady, nodeOf, type PeerFolder, pythonOf } from "./setup.ts";

/** One engine in one configuration. */
export interface Contender {
  readonly name: string;
  /** Weights and activations. */
  readonly what: string;
  /** Whether it computes through a GPU's interface. */
  readonly gpu: boolean;
  /** The process to run, the request not with it. */
  readonly command: readonly [file: string, ...args: string[]];
  readonly folder: string;
  readonly variant: string;
  /** Undefined for our own. */
  readonly peer?: PeerFolder;
}

/** All that can be compared, ours first. */
export function contenders(root: string, checkpoint: string): readonly Contender[] {
  const script = (name: string) => fileURLToPath(new URL(name, import.meta.url));
  const node = (name: string) => [process.execPath, script(`./${name}.js`)] as const;
  const ours = { command: node("phi"), folder: resolve(checkpoint), gpu: true };
  const peer = (name: PeerFolder) => ({ peer: name, folder: join(root, name) });
  const python = [pythonOf(root), script("./genai.py")] as const;
  const symmetric = "int4 (symmetric, head too), f32 activations";
  const ggufWeights = "Q4_1, head Q8_0";
  const gguf = { ...peer("llama"), what: ggufWeights, command: node("llama") };
  return [
    { ...ours, name: "phi int4", what: "int4, head int8, f32 activations", variant: "int4" },
    { ...ours, name: "phi f16", what: "float16, f32 activations", variant: "none" },
    { ...ours, name: "phi a8", what: "int4, head int8, int8 activations", variant: "int4 int8" },
    { ...peer("onnxruntime"), name: "onnxruntime", what: symmetric, gpu: true, command: python, variant: "webgpu" },
    {
      ...peer("transformers"),
      name: "transformers.js",
      what: symmetric,
      gpu: true,
      command: node("transformers"),
      variant: "webgpu",
    },
    {
      ...peer("wllama"),
      name: "wllama",
      what: ggufWeights,
      gpu: true,
      command: [nodeOf(root), script("./wllama.js")],
      variant: resolve(checkpoint),
    },
    { ...gguf, name: "llama.cpp vulkan", gpu: true, variant: "vulkan" },
    { ...gguf, name: "llama.cpp cpu", gpu: false, variant: "cpu" },
    // Its threads wait for each other by spinning, so on a busy machine two are slower than one.
    { ...gguf, name: "llama.cpp cpu 1 thread", gpu: false, variant: "cpu 1" },
  ];
}

const manifestFolder = "/usr/share/vulkan/icd.d";

/** Lets peers use a software driver, and no other where our adapter is Mesa's lavapipe. */
function peerEnvironment({ software, driver }: Environment): NodeJS.ProcessEnv {
  if (!software) return process.env;
  const names = /llvmpipe/.test(driver) && existsSync(manifestFolder) ? readdirSync(manifestFolder) : [];
  const manifest = names.find((name) => name.startsWith("lvp_icd"));
  const file = manifest && join(manifestFolder, manifest);
  return {
    ...(file && { VK_DRIVER_FILES: file, VK_ICD_FILENAMES: file }),
    ...process.env,
    ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER: "1",
    GGML_VK_VISIBLE_DEVICES: "0",
  };
}

/** The figures in a process's output: its last line that is an object. Throws an Error where there are none. */
export function parseMeasured(stdout: string, newTokens: number): Measured {
  const line = stdout.split("\n").findLast((text) => text.startsWith("{"));
  const { versions, adapter, ids, ...times } = JSON.parse(line ?? "{}") as Partial<Measured>;
  const { loadMs, firstTokenMs, decodeMs, decodeCpuMs, prefillTokens, prefillMs, prefillCpuMs } = times;
  const bad = [loadMs, firstTokenMs, decodeMs, decodeCpuMs, prefillTokens, prefillMs, prefillCpuMs].some(
    (value) => !(typeof value === "number" && value > 0 && value < Number.MAX_VALUE),
  );
  if (bad || typeof versions !== "string" || typeof adapter !== "string" || ids?.length !== newTokens + 1) {
    throw new Error(`expected a line of figures, got ${line?.slice(0, 200) ?? "none"}`);
  }
  return { versions, adapter, ids, ...times } as Measured;
}

export interface RunOptions {
  readonly request: Pick<Request, "shortPrompt" | "longPrompt" | "newTokens">;
  readonly environment: Environment;
  /** After which a process is ended. */
  readonly timeoutS: number;
  readonly signal: AbortSignal;
}

/** One measurement in a process of its own. Throws an Error that says in a line what kept it from one. */
async function runOnce(contender: Contender, options: RunOptions): Promise<Measured> {
  const { command, folder, variant, gpu } = contender;
  const { request, environment, timeoutS, signal } = options;
  const [file, ...args] = command;
  const whole: Request = { ...request, folder, variant, software: environment.software };
  let stdout: string;
  try {
    ({ stdout } = await promisify(execFile)(file, [...args, JSON.stringify(whole)], {
      env: peerEnvironment(environment),
      timeout: timeoutS * 1000,
      killSignal: "SIGKILL",
      maxBuffer: 1 << 26,
      signal,
    }));
  } catch (error) {
    const { killed, code, signal: ended, stderr = "" } = error as ExecFileException & { stderr?: string };
    if (killed) throw new Error(`no figures within ${timeoutS} s`);
    const last = stderr.trimEnd().split("\n").at(-1);
    throw new Error(`the process ended with ${ended ?? code}${last ? `: ${last.slice(0, 300)}` : ""}`);
  }
  const measured = parseMeasured(stdout, request.newTokens);
  if (gpu && environment.software && !/llvmpipe|lvp|swiftshader/i.test(measured.adapter)) {
    throw new Error(`expected it on ${environment.driver}, got "${measured.adapter}"`);
  }
  return measured;
}

export interface CompareOptions extends RunOptions {
  readonly rounds: number;
  readonly onProgress: (text: string) => void;
  readonly onFailure: (text: string) => void;
}

/** What a contender gave, round by round. */
export interface Results {
  readonly contender: Contender;
  readonly measured: readonly Measured[];
}

/**
 * Rounds in which each contender runs once. One that fails is told to `onFailure` and left out of what follows; the
 * others go on. The first round is a rehearsal that fills the driver's cache of shaders, and its figures are dropped.
 * Throws a PhiError "aborted".
 */
export async function compare(entrants: readonly Contender[], options: CompareOptions): Promise<readonly Results[]> {
  const { rounds, signal, onProgress, onFailure } = options;
  const results = entrants.map((contender) => ({ contender, measured: [] as Measured[], failed: false }));
  for (let round = 0; round <= rounds; round++) {
    for (const result of results) {
      if (result.failed) continue;
      const { name } = result.contender;
      onProgress(round === 0 ? `rehearsal: ${name}` : `round ${round} of ${rounds}: ${name}`);
      try {
        const measured = await runOnce(result.contender, options);
        if (round > 0) result.measured.push(measured);
      } catch (error) {
        if (signal.aborted) throw new PhiError("aborted", "stopped");
        result.failed = true;
        const reason = printable(error instanceof Error ? error.message : String(error));
        onFailure(round <= 1 ? `${name}: not measured: ${reason}` : `${name}: only ${round - 1} rounds: ${reason}`);
      }
    }
  }
  return results;
}

/** What is measured of an engine; times are compared, so less is better before they become rates. */
const quantities = [
  ["decode", "tokens/s", (m: Measured) => m.decodeMs / (m.ids.length - 1)],
  ["prefill", "tokens/s", (m: Measured) => m.prefillMs / m.prefillTokens],
  ["first token", "ms", (m: Measured) => m.firstTokenMs],
  ["load", "ms", (m: Measured) => m.loadMs],
  ["decode, CPU", "ms a token", (m: Measured) => m.decodeCpuMs / (m.ids.length - 1)],
  ["prefill, CPU", "ms a token", (m: Measured) => m.prefillCpuMs / m.prefillTokens],
] as const;

/** The tables of the engines, one each. `loss` is that of an engine's text in nats a token, by name. */
export function engineTables(results: readonly Results[], loss: ReadonlyMap<string, number>): readonly BenchTable[] {
  return results.flatMap(({ contender: { name, what }, measured }) => {
    const [first] = measured;
    if (first === undefined) return [];
    const figures = quantities.map(([quantity, unit, timeOf]): Figure => {
      const times = measured.map(timeOf);
      return { name: quantity, unit, samples: unit === "tokens/s" ? times.map((ms) => 1000 / ms) : times };
    });
    const nats = loss.get(name);
    if (nats !== undefined) figures.push({ name: "loss", unit: "nats", samples: [nats] });
    const parts = [what, first.adapter, first.versions, `prefill of ${first.prefillTokens} tokens`];
    const settings = parts.filter((part) => part !== "").join("; ");
    return [{ command: "peers", model: name, settings, figures }];
  });
}

/**
 * How many times as fast as each other engine the first one is, round by round, and as the fastest peer of each round
 * with a GPU's interface.
 */
export function ratioTables(results: readonly Results[]): readonly BenchTable[] {
  const [ours, ...others] = results;
  if (ours === undefined) return [];
  const ratios = ({ measured }: Results, timeOf: (one: Measured) => number) =>
    ours.measured.flatMap((own, round) => {
      const other = measured[round];
      return other === undefined ? [] : [timeOf(other) / timeOf(own)];
    });
  const table = (model: string, samplesOf: (timeOf: (one: Measured) => number) => readonly number[]) => ({
    command: "peers",
    model,
    settings: `times as fast as it is ${ours.contender.name}`,
    figures: quantities.flatMap(([name, , timeOf]): Figure[] => {
      const samples = samplesOf(timeOf);
      return samples.length === 0 ? [] : [{ name, unit: "×", samples }];
    }),
  });
  const gpuPeers = others.filter(({ contender, measured }) => contender.peer && contender.gpu && measured.length > 0);
  const fastest = (timeOf: (one: Measured) => number) => {
    const all = gpuPeers.map((peer) => ratios(peer, timeOf)).filter((samples) => samples.length > 0);
    const rounds = Math.min(...all.map((samples) => samples.length));
    return all.length === 0 ? [] : Array.from({ length: rounds }, (_, k) => Math.min(...all.map((s) => s[k] ?? 0)));
  };
  return [
    ...others.map((other) => table(other.contender.name, (timeOf) => ratios(other, timeOf))),
    table("fastest GPU peer", fastest),
  ].filter(({ figures }) => figures.length > 0);
}

/** A row a table, a column a figure: the median, and the extremes behind it. */
export function markdown(title: string, tables: readonly BenchTable[]): string {
  const columns = [...new Map(tables.flatMap(({ figures }) => figures).map(({ name, unit }) => [name, unit]))];
  const cell = ({ figures }: BenchTable, column: string) => {
    const found = figures.find(({ name }) => name === column);
    if (found === undefined) return "–";
    const { median, min, max } = spread(found.samples);
    const range = `${digits(min)}–${digits(max)}`;
    return digits(min) === digits(max) ? digits(median) : `${digits(median)} (${range})`;
  };
  const rows = [
    [title, ...columns.map(([name, unit]) => (unit === "×" ? name : `${name}, ${unit}`))],
    ["---", ...columns.map(() => "---:")],
    ...tables.map((table) => [table.model, ...columns.map(([name]) => cell(table, name))]),
  ];
  return rows.map((cells) => `| ${cells.join(" | ")} |\n`).join("");
}

/**
 * How unlikely a text after a prompt is by the model as it is stored, in nats a token: random tokens have about
 * log(vocabulary), greedy text little. Undefined for ids that the model does not have.
 */
async function lossOf(model: Model, prompt: readonly number[], ids: readonly number[]): Promise<number | undefined> {
  if (!ids.every((id) => Number.isInteger(id) && id >= 0 && id < model.vocabularySize)) return undefined;
  const whole = await evaluate(model, [...prompt, ...ids]);
  const before = await evaluate(model, prompt);
  return (whole.meanNll * whole.tokens - before.meanNll * before.tokens) / ids.length;
}

export interface PeersOptions extends Omit<CompareOptions, "request" | "onFailure"> {
  /** Our adapter, for the losses. */
  readonly adapter: GPUAdapter;
  readonly checkpoint: string;
  /** Where the peers are set up. */
  readonly root: string;
  /** Parts of names of engines. */
  readonly only: readonly string[];
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly onNote: (text: string) => void;
}

export interface Compared {
  readonly engines: readonly BenchTable[];
  readonly ratios: readonly BenchTable[];
}

const shortPromptTokens = 32;

/** Measures what is set up; `onNote` hears what is not, what failed, and each engine's text. */
export async function benchPeers(options: PeersOptions): Promise<Compared> {
  const { checkpoint, root, only, promptTokens, newTokens, adapter, signal, onNote } = options;
  const folder = await openModelFolder(checkpoint);
  const tokenizer = await loadTokenizer(folder);
  const ids = tokenizer.encode(await readFile(new URL("../phi-tiny.txt", import.meta.url), "utf8"));
  const longPrompt = Array.from({ length: promptTokens }, (_, i) => ids[i % ids.length] ?? 0);
  const request = { shortPrompt: ids.slice(0, shortPromptTokens), longPrompt, newTokens };
  const entrants: Contender[] = [];
  for (const contender of contenders(root, checkpoint)) {
    const { name, peer } = contender;
    if (!only.some((part) => name.includes(part))) continue;
    if (peer === undefined || (await isReady(peer, root, checkpoint))) entrants.push(contender);
    else onNote(`${name}: not measured: it is not set up for this checkpoint; --setup does that`);
  }
  const results = await compare(entrants, { ...options, request, onFailure: onNote });
  const losses = new Map<string, number>();
  const model = await loadModel({ folder, adapter, context: shortPromptTokens + newTokens + 1, signal });
  try {
    for (const { contender, measured } of results) {
      const [first] = measured;
      if (first === undefined) continue;
      const loss = await lossOf(model, request.shortPrompt, first.ids);
      if (loss === undefined) {
        onNote(`${contender.name}: NO TEXT: ids that the model does not have`);
        continue;
      }
      losses.set(contender.name, loss);
      const doubt = loss > Math.log(model.vocabularySize) / 2 ? "AN UNLIKELY TEXT: " : "";
      onNote(`${contender.name}: ${doubt}${JSON.stringify(tokenizer.decode(first.ids))}`);
    }
  } finally {
    model.dispose();
  }
  return { engines: engineTables(results, losses), ratios: ratioTables(results) };
}

/** As Markdown, the adapter and the versions above it. */
export function peersText({ engines, ratios }: Compared, environment: Environment): string {
  for (const { figures } of [...engines, ...ratios]) refuseImpossible(figures);
  const tables = [markdown("", engines)];
  if (ratios.length > 0) tables.push(markdown(`${engines[0]?.model} is so many times as fast as`, ratios));
  const lines = [...environmentLines(environment), ...engines.map(({ model, settings }) => `${model}: ${settings}`)];
  return `${lines.join("\n")}\n\n${tables.join("\n")}`;
}
