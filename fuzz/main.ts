/**
 * `npm run fuzz -- [TARGET …] [--cases N] [--seed S]`: feeds changed files and texts to the code that reads them. A case
 * that throws anything but a typed error, contradicts its input, or takes more than a second or a gibibyte is a finding:
 * it is printed and its files are kept, and the exit code is 1. The cases run in a worker that can be stopped.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { Command } from "commander";
import { integerOption } from "../cli/options.ts";
import { print } from "../cli/output.ts";
import { exitCodes, PhiError } from "../engine/errors.ts";
import { randomOf } from "./mutate.ts";
import { type FuzzInput, targets } from "./targets.ts";

const slowMs = 1000;
const stuckMs = 10_000;
const mostMiB = 1024;

/** What a worker is asked for: cases `first` to `end` of a target. */
interface Job {
  readonly target: string;
  readonly seed: number;
  readonly first: number;
  readonly end: number;
}

type Report =
  | { readonly kind: "finding"; readonly index: number; readonly what: string; readonly input: FuzzInput }
  | { readonly kind: "done"; readonly accepted: number; readonly slowestMs: number };

function targetOf(name: string) {
  const target = targets.find((candidate) => candidate.name === name);
  if (target === undefined) {
    const names = targets.map((candidate) => candidate.name).join(", ");
    throw new PhiError("usage", `target: expected one of ${names}, got "${name}"`);
  }
  return target;
}

async function work({ target: name, seed, first, end }: Job, at: Int32Array): Promise<void> {
  const target = targetOf(name);
  const send = (report: Report) => parentPort?.postMessage(report);
  let accepted = 0;
  let slowestMs = 0;
  for (let index = first; index < end; index++) {
    Atomics.store(at, 0, index);
    const input = target.input(randomOf(seed, index));
    const began = performance.now();
    try {
      if (await target.run(input)) accepted++;
    } catch (error) {
      const what = error instanceof Error ? (error.stack ?? error.message) : String(error);
      send({ kind: "finding", index, what, input });
    }
    const ms = performance.now() - began;
    slowestMs = Math.max(slowestMs, ms);
    if (ms > slowMs) send({ kind: "finding", index, what: `took ${Math.round(ms)} ms`, input });
  }
  send({ kind: "done", accepted, slowestMs });
}

interface Outcome {
  readonly accepted: number;
  readonly slowestMs: number;
  readonly findings: number;
}

/** Runs a job to its end; a worker that is stuck or dies is a finding, and another one goes on behind that case. */
async function runJob(job: Job, found: (index: number, what: string, input: FuzzInput) => void): Promise<Outcome> {
  let { first } = job;
  let accepted = 0;
  let slowestMs = 0;
  let findings = 0;
  const count = (index: number, what: string, input: FuzzInput) => {
    findings++;
    found(index, what, input);
  };
  while (first < job.end) {
    const shared = new Int32Array(new SharedArrayBuffer(4));
    const died = await new Promise<string | undefined>((resolve) => {
      const worker = new Worker(new URL(import.meta.url), {
        workerData: { job: { ...job, first }, shared },
        resourceLimits: { maxOldGenerationSizeMb: mostMiB },
      });
      let seen = { index: first, sinceMs: performance.now() };
      const watch = setInterval(() => {
        const index = Atomics.load(shared, 0);
        if (index !== seen.index) seen = { index, sinceMs: performance.now() };
        else if (performance.now() - seen.sinceMs > stuckMs) end(`has not ended after ${stuckMs / 1000} s`);
      }, 250);
      const end = (why: string | undefined) => {
        clearInterval(watch);
        void worker.terminate().then(() => resolve(why));
      };
      worker.on("message", (report: Report) => {
        if (report.kind === "finding") return count(report.index, report.what, report.input);
        accepted += report.accepted;
        slowestMs = Math.max(slowestMs, report.slowestMs);
        end(undefined);
      });
      worker.on("error", (error) => end(error.message));
    });
    if (died === undefined) break;
    const index = Atomics.load(shared, 0);
    count(index, died, targetOf(job.target).input(randomOf(job.seed, index)));
    first = index + 1;
  }
  return { accepted, slowestMs, findings };
}

interface Options {
  readonly cases: number;
  readonly seed: number;
  readonly keep: string;
}

async function main(names: readonly string[], { cases, seed, keep }: Options): Promise<void> {
  const chosen = names.length === 0 ? targets : names.map(targetOf);
  const perTarget = Math.ceil(cases / chosen.length);
  let findings = 0;
  for (const { name } of chosen) {
    const began = performance.now();
    const outcome = await runJob({ target: name, seed, first: 0, end: perTarget }, (index, what, input) => {
      const folder = join(keep, `${name}-${seed}-${index}`);
      mkdirSync(folder, { recursive: true });
      for (const [file, bytes] of Object.entries(input)) writeFileSync(join(folder, file), bytes);
      process.stderr.write(`finding: ${name} seed ${seed} case ${index}, kept in ${folder}\n${what}\n`);
    });
    findings += outcome.findings;
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    const share = ((100 * outcome.accepted) / perTarget).toFixed(0);
    await print(
      `${name.padEnd(12)} ${perTarget} cases in ${seconds} s, ${share} % accepted, slowest ${outcome.slowestMs.toFixed(0)} ms, ${outcome.findings} findings\n`,
    );
  }
  if (findings > 0) process.exitCode = exitCodes.internal;
}

if (isMainThread) {
  const command = new Command("fuzz")
    .description("feed changed files and texts to the code that reads them")
    .argument("[targets...]", targets.map(({ name }) => name).join(", "))
    .option("--cases <n>", "in all", integerOption("--cases", 1, 2 ** 31 - 1), 200_000)
    .option("--seed <n>", "of the mutations", integerOption("--seed", 0, 2 ** 32 - 1), 1)
    .option("--keep <dir>", "where the files of findings go", "findings")
    .action(main);
  try {
    await command.parseAsync();
  } catch (error) {
    if (!(error instanceof PhiError)) throw error;
    process.stderr.write(`error: ${error.message}\n`);
    process.exitCode = error.exitCode;
  }
} else {
  const { job, shared } = workerData as { job: Job; shared: Int32Array };
  await work(job, shared);
}
