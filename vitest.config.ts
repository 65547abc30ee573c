/**
 * Three projects: "cpu" runs every plain `*.test.ts` once; the suites that need a device, `*.gpu.test.ts`, run on
 * "swiftshader" and, where this machine has an adapter of its own, on "system". Their processes are started with the
 * driver's environment, two at a time, for software drivers compile in one thread; the files of a process share a device.
 *
 * `npm test` is `vitest --mode short`: SwiftShader runs the files of `core` alone, where there is another adapter, and tests
 * look at `test/short.ts` for what they leave out. `npm run test:all`, and vitest for a file by its name, run everything.
 */
import { spawnSync } from "node:child_process";
import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";
import { findBundle, swiftShaderEnvironment, unpackSwiftShader } from "./cli/swiftshader.ts";

const gpuTests = "test/**/*.gpu.test.ts";

/** The name of the adapter that a plain process gets here. */
function systemAdapter(): string | undefined {
  const program = `
    const { create } = await import("webgpu");
    const gpu = create([]);
    const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
    if (adapter) console.log(adapter.info.device || adapter.info.description);`;
  const probe = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    cwd: import.meta.dirname,
    encoding: "utf8",
  });
  return probe.status === 0 ? probe.stdout.trim() || undefined : undefined;
}

/** What SwiftShader runs in a short run: a checkpoint of every architecture, the device, the kernels that compile quickly. */
const core = [
  "test/models.gpu.test.ts",
  "test/kernels/{embed,experts,norm}/*.gpu.test.ts",
  "test/engine/gpu/device.gpu.test.ts",
];

function gpuProject(name: string, env: Record<string, string>, include: string[]) {
  return {
    extends: true as const,
    test: {
      name,
      include,
      env,
      isolate: false,
      maxWorkers: Math.min(2, availableParallelism()),
      sequence: { groupOrder: 1 },
      testTimeout: 120_000,
      hookTimeout: 120_000,
    },
  };
}

/** In words, for who reads a short run. */
const leftOut =
  "most of SwiftShader's suites, most ways to run each further checkpoint, most of the faults at each k-th call, sizes drawn at random, the limits of published geometries, and two benches";

/** What a short run leaves out as a whole: nothing of the engine and no command of `phi` depends on it. */
const benches = ["test/bench/{peers,synthetic}.test.ts", "test/limits.test.ts"];

const cpuProject = (env: Record<string, string>) => ({
  extends: true as const,
  test: {
    name: "cpu",
    env,
    globalSetup: ["test/build.ts"],
    include: ["test/**/*.test.ts"],
    exclude: env.PHI_TEST_SHORT === "1" ? [gpuTests, ...benches] : [gpuTests],
    maxWorkers: availableParallelism(),
    sequence: { groupOrder: 0 },
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});

function softwareEnvironment(found: NonNullable<ReturnType<typeof findBundle>>): Record<string, string> {
  return { ...swiftShaderEnvironment(unpackSwiftShader(found).folder), PHI_ADAPTER: "swiftshader" };
}

export default defineConfig(({ mode }) => {
  const isShort = mode === "short";
  const bundle = findBundle();
  const system = systemAdapter();
  const swiftshaderTests = isShort && system !== undefined ? core : [gpuTests];
  const env = { PHI_TEST_SHORT: isShort ? "1" : "" };
  const swiftShader = bundle && { ...env, ...softwareEnvironment(bundle) };
  const projects = [
    cpuProject(env),
    ...(swiftShader ? [gpuProject("swiftshader", swiftShader, swiftshaderTests)] : []),
    ...(system ? [gpuProject("system", { ...env, PHI_ADAPTER: process.env.PHI_ADAPTER ?? "" }, [gpuTests])] : []),
  ];

  const skipped: string[] = [];
  if (bundle === undefined) skipped.push("swiftshader (@sparticuz/chromium is not installed, or not for this system)");
  if (system === undefined)
    skipped.push("system (no WebGPU adapter answers here: no GPU, and no Mesa lavapipe 24 or newer)");
  for (const line of skipped) console.warn(`\n*** NOT TESTED on driver ${line} ***\n`);
  if (isShort) console.warn(`short run, without ${leftOut}: npm run test:all runs everything`);
  return { test: { pool: "forks", projects } };
});
