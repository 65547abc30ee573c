/** peers: processes that answer, fail, hang or write nonsense, and the table of what is left. None is installed here. */
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { afterEach, describe, expect, test, vi } from "vitest";
import {
  type Contender,
  compare,
  contenders,
  engineTables,
  parseMeasured,
  peersText,
  type Results,
  ratioTables,
} from "../../bench/peers/compare.ts";
import type { Measured } from "../../bench/peers/runner.ts";
import { isReady, peerFolders, setUp } from "../../bench/peers/setup.ts";
import type { Environment } from "../../bench/report.ts";
import { bundledModel } from "../../cli/package.ts";
import { tempFolder } from "../tempFolder.ts";

const environment: Environment = {
  adapter: "llvmpipe",
  backend: "vulkan",
  driver: "llvmpipe: Mesa",
  software: true,
  commit: "abc",
  date: "2026-01-02T03:04:05.000Z",
  versions: "phi 0",
  processor: "2 × a processor",
  loadAverage: 0,
};
const request = { shortPrompt: [1, 2], longPrompt: [1, 2, 3, 4], newTokens: 2 };
const measured: Measured = {
  versions: "engine 1",
  adapter: "llvmpipe (LLVM)",
  loadMs: 10,
  firstTokenMs: 20,
  decodeMs: 100,
  decodeCpuMs: 150,
  prefillTokens: 4,
  prefillMs: 400,
  prefillCpuMs: 700,
  ids: [5, 6, 7],
};

describe("the line of figures", () => {
  const line = JSON.stringify(measured);
  test("is the last object among what else was printed", () => {
    expect(parseMeasured(`Warning: x\n{not this}\n\n${line}\nbye\n`, 2)).toEqual(measured);
  });
  test.each([
    ["nothing", ""],
    ["no object", "done\n"],
    ["half of it", line.slice(0, 40)],
    ["a time of 0", JSON.stringify({ ...measured, decodeMs: 0 })],
    ["a time that is none", JSON.stringify({ ...measured, loadMs: null })],
    ["a time that is text", JSON.stringify({ ...measured, prefillMs: "400" })],
    ["a time left out", JSON.stringify({ ...measured, firstTokenMs: undefined })],
    ["no length of the prompt", JSON.stringify({ ...measured, prefillTokens: undefined })],
    ["too few tokens", JSON.stringify({ ...measured, ids: [5, 6] })],
    ["no version", JSON.stringify({ ...measured, versions: undefined })],
  ])("%s is refused", (_, stdout) => expect(() => parseMeasured(stdout, 2)).toThrow());
});

/** A process that runs `body`, an ES module, with its own folder as the contender's. */
function fake(name: string, body: string, more: Partial<Contender> = {}): Contender {
  const folder = tempFolder();
  const file = join(folder, "peer.mjs");
  writeFileSync(file, body);
  const command = [process.execPath, file] as const;
  return { name, what: "int4", gpu: true, command, folder, variant: "v", peer: "llama", ...more };
}

const runner = pathToFileURL(join(import.meta.dirname, "../../dist/bench/peers/runner.js")).href;

/** An engine whose new tokens are the length of the prompt and what follows. */
const engine = (adapter: string, generate = "for (let n = 0; n < tokens; n++) onToken(prompt.length + n);") => `
  import { measure } from ${JSON.stringify(runner)};
  await measure(async ({ folder, variant }) => ({
    versions: folder + " " + variant,
    adapter: ${JSON.stringify(adapter)},
    async generate(prompt, tokens, onToken) { await new Promise((r) => setTimeout(r, 2)); ${generate} },
  }));`;

async function run(entrants: readonly Contender[], rounds: number, timeoutS = 100, signal?: AbortSignal) {
  const failures: string[] = [];
  const progress: string[] = [];
  const results = await compare(entrants, {
    ...{ request, environment, timeoutS, rounds, signal: signal ?? new AbortController().signal },
    onProgress: (text) => progress.push(text),
    onFailure: (text) => failures.push(text),
  });
  return { failures, progress, counts: results.map((result) => result.measured.length), results };
}

describe("processes", () => {
  test("take turns; those that fail are told and do not keep the others from going on", async () => {
    const counting = `
      import { appendFileSync, readFileSync } from "node:fs";
      appendFileSync(new URL("./runs", import.meta.url), ".");
      if (readFileSync(new URL("./runs", import.meta.url), "utf8").length > 2) throw new Error("worn out");`;
    const good = fake("good", engine("llvmpipe"));
    const { failures, progress, counts, results } = await run(
      [
        good,
        fake("fails", 'console.error("no such device"); process.exit(3);'),
        fake("nonsense", 'console.log("{}");'),
        fake("elsewhere", engine("a discrete card")),
        fake("short of tokens", engine("llvmpipe", "onToken(1);")),
        fake("worn", counting + engine("llvmpipe")),
        fake("on the processor", engine(""), { gpu: false }),
        fake("not there", "", { command: ["/nonexistent/python"] }),
      ],
      2,
    );
    expect(counts).toEqual([2, 0, 0, 0, 0, 1, 2, 0]);
    expect(failures.map((text) => text.replace(/\n.*/s, ""))).toEqual([
      "fails: not measured: the process ended with 3: no such device",
      "nonsense: not measured: expected a line of figures, got {}",
      'elsewhere: not measured: expected it on llvmpipe: Mesa, got "a discrete card"',
      "short of tokens: not measured: the process ended with 1: expected 3 new tokens, got 1",
      "not there: not measured: the process ended with ENOENT",
      expect.stringMatching(/^worn: only 1 rounds: the process ended with 1/),
    ]);
    const turns = progress.map((text) => text.replace(/.*: /, ""));
    expect(turns.slice(-6)).toEqual(["good", "worn", "on the processor", "good", "worn", "on the processor"]);
    expect(results[0]?.measured[0]).toMatchObject({ versions: `${good.folder} v`, ids: [2, 3, 4] });
  });

  test("one to which long prompts are not bearable gets a part, and is told that the adapter is software", async () => {
    const partial = `
      import { measure } from ${JSON.stringify(runner)};
      await measure(async ({ software }) => ({
        ...{ versions: "software: " + software, adapter: "llvmpipe", longestPrompt: 3 },
        async generate(prompt, tokens, onToken) {
          await new Promise((r) => setTimeout(r, 2));
          if (prompt.length > 3) throw new Error("got a prompt of " + prompt.length);
          for (let n = 0; n < tokens; n++) onToken(n);
        },
      }));`;
    const { failures, results } = await run([fake("whole", engine("llvmpipe")), fake("partial", partial)], 1);
    expect(failures).toEqual([]);
    expect(results.map(({ measured: [first] }) => first?.prefillTokens)).toEqual([4, 3]);
    expect(results[1]?.measured[0]?.versions).toBe("software: true");
  });

  test("one that hangs is ended", async () => {
    const hanging = fake("hangs", "setInterval(() => {}, 1000);");
    const { failures, counts } = await run([hanging], 2, 0.5);
    expect(failures).toEqual(["hangs: not measured: no figures within 0.5 s"]);
    expect(counts).toEqual([0]);
  });

  test("an abort ends the process and the comparison", async () => {
    const controller = new AbortController();
    const running = run([fake("hangs", "setInterval(() => {}, 1000);")], 2, 100, controller.signal);
    controller.abort();
    await expect(running).rejects.toThrow("stopped");
  });
});

describe("the table", () => {
  const [int4, , , onnx, , wllama, , cpu] = contenders("/peers", "/model");
  const faster = (factor: number) => ({ ...measured, decodeMs: 100 / factor, decodeCpuMs: 150 / factor });
  const shorter = { ...faster(1.5), prefillTokens: 2 };
  const results = [
    { contender: int4, measured: [faster(4), faster(6)] },
    { contender: onnx, measured: [faster(1), faster(2)] },
    { contender: wllama, measured: [shorter, shorter] },
    { contender: cpu, measured: [faster(40), faster(60)] },
    { contender: { ...(onnx as Contender), name: "missing" }, measured: [] },
  ] as Results[];
  const engines = engineTables(results, new Map([["phi int4", 1.5]]));
  const ratios = ratioTables(results);

  test("has rates, their spread, and no row for what was not measured", () => {
    const lines = peersText({ engines, ratios }, environment).split("\n");
    expect(lines).toContain(
      "onnxruntime: int4 (symmetric, head too), f32 activations; llvmpipe (LLVM); engine 1; prefill of 4 tokens",
    );
    expect(lines.filter((line) => line.includes("missing"))).toEqual([]);
    const row = (name: string, n: number) => lines.filter((line) => line.startsWith(`| ${name} |`))[n];
    expect(row("phi int4", 0)).toBe(
      "| phi int4 | 100.0 (80.00–120.0) | 10.00 | 20.00 | 10.00 | 15.63 (12.50–18.75) | 175.0 | 1.500 |",
    );
    expect(row("wllama", 0)).toBe("| wllama | 30.00 | 5.000 | 20.00 | 10.00 | 50.00 | 350.0 | – |");
    // Paired by round: 4 / 1 and 6 / 2, not 5 / 1.5.
    expect(row("onnxruntime", 1)).toBe(
      "| onnxruntime | 3.500 (3.000–4.000) | 1.000 | 1.000 | 1.000 | 3.500 (3.000–4.000) | 1.000 |",
    );
    expect(row("llama.cpp cpu", 1)).toMatch(/^\| llama.cpp cpu \| 0\.100 \| 1\.000 /);
  });

  test("compares with the fastest peer of each round that uses a GPU's interface", () => {
    const fastest = ratios.at(-1);
    expect(fastest?.model).toBe("fastest GPU peer");
    const samples = (name: string) => fastest?.figures.find((figure) => figure.name === name)?.samples;
    expect(samples("decode")?.map((ratio) => +ratio.toFixed(6))).toEqual([2.666667, 3]); // of 4 and 2.67; of 3 and 4
    expect(samples("prefill")).toEqual([1, 1]); // onnxruntime's: wllama takes the same time for half the tokens
  });

  test("is empty where nothing, and has no ratios where no other was measured", () => {
    expect(ratioTables([])).toEqual([]);
    expect(ratioTables(results.slice(0, 1))).toEqual([]);
  });
});

test("the command: our engine beside peers that are not set up", async () => {
  const [root, checkpoint] = [join(import.meta.dirname, "../.."), bundledModel()];
  const json = join(tempFolder(), "peers.json");
  const amounts = [
    "-n",
    "1",
    "-g",
    "3",
    "-p",
    "40",
    "--peers",
    tempFolder(),
    "--json",
    json,
    "--only",
    "int4,onnx,trans,llama",
  ];
  const args = [join(root, "dist/bench/main.js"), "peers", "-m", checkpoint, ...amounts];
  const { stdout, stderr } = await promisify(execFile)(process.execPath, args, { cwd: root });
  for (const name of ["onnxruntime", "transformers.js", "wllama", "llama.cpp vulkan", "llama.cpp cpu"]) {
    expect(stderr).toContain(`note: ${name}: not measured: it is not set up for this checkpoint; --setup does that\n`);
  }
  expect(stderr).toMatch(/note: phi int4: "/);
  expect(stdout).toMatch(/^adapter .*\n(.*\n)*phi int4: int4, head int8/);
  expect(stdout.match(/^\| phi .*$/gm)).toHaveLength(1);
  const { results } = JSON.parse(readFileSync(json, "utf8"));
  expect(results.map(({ model }: { model: string }) => model)).toEqual(["phi int4"]);
}, 240_000);

describe("the set-up", () => {
  afterEach(() => void vi.unstubAllEnvs());

  test("tells what failed of each peer, and leaves none that counts as ready", async () => {
    const [root, checkpoint] = [tempFolder(), tempFolder()];
    writeFileSync(join(checkpoint, "model.safetensors"), "x");
    vi.stubEnv("PATH", join(root, "nothing"));
    const signal = new AbortController().signal;
    const failures = await setUp({ peers: peerFolders, root, checkpoint, signal, onProgress: () => {} });
    expect(failures.map((text) => text.replace(/:.*/, ""))).toEqual(peerFolders);
    for (const [i, peer] of peerFolders.entries()) {
      expect(failures[i]).toContain(join(root, peer, "setup.log"));
      expect(await isReady(peer, root, checkpoint)).toBe(false);
    }
  });

  test("a peer is ready for the checkpoint and the versions that it was set up with", async () => {
    const [root, bin, checkpoint] = [tempFolder(), tempFolder(), tempFolder()];
    const weights = join(checkpoint, "model.safetensors");
    writeFileSync(weights, "x");
    for (const name of ["npm", "python3"]) writeFileSync(join(bin, name), "#!/bin/sh\necho $*\n", { mode: 0o755 });
    vi.stubEnv("PATH", `${bin}:${process.env.PATH}`);
    const options = { peers: ["llama"], root, checkpoint, signal: new AbortController().signal } as const;
    const told: string[] = [];
    expect(await setUp({ ...options, onProgress: (text) => told.push(text) })).toEqual([]);
    const log = readFileSync(join(root, "llama", "setup.log"), "utf8");
    expect(log).toMatch(/^install --ignore-scripts .*node-llama-cpp@\d+\.\d+\.\d+\n/);
    expect(await isReady("llama", root, checkpoint)).toBe(true);
    expect(await isReady("transformers", root, checkpoint)).toBe(false);
    expect(await setUp({ ...options, onProgress: (text) => told.push(text) })).toEqual([]);
    expect(told.at(-1)).toBe("llama: is ready");
    writeFileSync(weights, "xy");
    expect(await isReady("llama", root, checkpoint)).toBe(false);
    mkdirSync(join(root, "transformers"));
    writeFileSync(join(root, "transformers", "ready.json"), "{}");
    expect(await isReady("transformers", root, checkpoint)).toBe(false);
  });
});
