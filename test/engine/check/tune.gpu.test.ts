/**
 * Sizes of kernels on the device: a candidate that is wrong or does not run is never chosen, and whatever sizes are drawn,
 * a model's numbers are the reference's. `PHI_TEST_SEED` repeats a draw.
 */
import { describe, expect, test } from "vitest";
import { checkKernel } from "../../../engine/check/selfcheck.ts";
import { Device } from "../../../engine/gpu/device.ts";
import { buildPlan } from "../../../engine/graph/build.ts";
import { Graph } from "../../../engine/graph/graph.ts";
import { allSteps, type Step } from "../../../engine/graph/plan.ts";
import type { Family, Tuning } from "../../../engine/graph/sizes.ts";
import { type Candidates, candidatesFor, sizeText, tuningFor } from "../../../engine/graph/sizes.ts";
import { Weights } from "../../../engine/graph/weights.ts";
import { type LoadOptions, loadModel, openCheckpoint, openFolder, tuneModel } from "../../../engine/index.ts";
import { declareWeights } from "../../../engine/models/architecture.ts";
import { readArchitecture } from "../../../engine/models/table.ts";
import { checkWeights } from "../../../engine/weights/check.ts";
import { quantizeTargets } from "../../../engine/weights/quantize.ts";
import { testAdapter } from "../../gpu.ts";
import { kernelSetup } from "../../kernels/harness.ts";
import { expectClose } from "../../reference/compare.ts";
import { type CaseEntry, listCases, loadCase } from "../../reference/fixture.ts";
import { isShort } from "../../short.ts";

const seed = Number(process.env.PHI_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));
console.log(`sizes are drawn with PHI_TEST_SEED=${seed}`);
let state = seed;
function draw<Value>(values: readonly Value[]): Value {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return values[Math.floor((state / 2 ** 32) * values.length)] as Value;
}

const modelTypes = ["phi", "phi3", "phi3small", "phimoe"];
const cases = listCases(({ modelType }) => modelTypes.includes(modelType));
const ofType = (type: string) => cases.filter(({ modelType }) => modelType === type);

/** What `Device` knows of the driver's adapter. */
async function deviceFacts() {
  const device = await Device.open(await testAdapter());
  const { isSoftware, subgroupSize } = device;
  device.dispose();
  return { isSoftware, subgroupSize };
}

/** The steps of all plans of a case, its weights as stored or as they are quantized. */
async function stepsOf(
  entry: CaseEntry,
  tuning: Tuning,
  { quantize, activations = "f32" }: Pick<LoadOptions, "quantize" | "activations"> = {},
): Promise<readonly Step[]> {
  const checkpoint = await openCheckpoint(await openFolder(entry.folder));
  try {
    const architecture = readArchitecture(checkpoint.config);
    const targets = quantizeTargets(architecture, quantize);
    const { packing } = await checkWeights(checkpoint, architecture, declareWeights(architecture), targets);
    return (["all", "prefill", "decode"] as const).flatMap((kind) => {
      const graph = new Graph(kind);
      const logits = architecture.forward(graph, new Weights());
      const { rotary } = architecture.rope;
      const maxSeq = kind === "decode" ? 1 : 16;
      return allSteps(
        buildPlan(graph, logits, {
          maxSeq,
          packing,
          kv: "f32",
          activations,
          rotary,
          maxBindingBytes: 128 << 20,
          tuning,
        }),
      );
    });
  } finally {
    await checkpoint.close();
  }
}

/** Kernels that get another size: each is compiled for seconds on a software driver, and the defaults are there already. */
const changed = 3;

/** Sizes for some kernels of a case, by family and key as `LoadOptions.tuned` has it. */
async function drawSizes(entry: CaseEntry, candidates: Candidates, base: Tuning) {
  const steps = (await stepsOf(entry, base)).filter(({ size }) => size !== undefined);
  const chosen = new Map<string, unknown>();
  while (chosen.size < changed) {
    const { kernel, size } = draw(steps);
    if (size !== undefined) chosen.set(kernel.name, draw<unknown>(candidates[size.family]));
  }
  const tuned: Partial<Record<Family, Record<string, unknown>>> = {};
  for (const { kernel, size } of steps) {
    if (size === undefined || !chosen.has(kernel.name)) continue;
    tuned[size.family] = { ...tuned[size.family], [size.key]: chosen.get(kernel.name) };
  }
  return { tuned, text: [...chosen].map(([name, size]) => `${name} ${sizeText(size)}`).join("; ") };
}

describe.each(modelTypes)("%s in sizes drawn at random", (modelType) => {
  test("gives the reference's logits and tokens", async () => {
    const entry = draw(ofType(modelType));
    const facts = await deviceFacts();
    const { tuned, text } = await drawSizes(entry, candidatesFor(facts), tuningFor(facts));
    const model = await loadModel({
      folder: await openFolder(entry.folder),
      adapter: await testAdapter(),
      kv: "f32",
      context: 256,
      chunkTokens: 16,
      tuned,
    });
    try {
      expect(model.tunedKernels.length, text).toBeGreaterThan(0);
      const prompt = loadCase(entry.folder).prompts.find(({ logits, length }) => logits !== undefined && length > 4);
      if (prompt?.logits === undefined) throw new Error(`${entry.name}: no prompt with logits`);
      const logits: number[] = [];
      for await (const { values } of model.logits(prompt.ids)) logits.push(...values);
      expectClose(Float32Array.from(logits), prompt.logits, {
        atol: 5e-4,
        shape: [prompt.length, model.vocabularySize],
        why: "the tolerance of logits with an f32 cache (DESIGN.md, Numbers)",
        what: `${entry.name} with ${text}`,
      });
      const close = prompt.greedyMargins.findIndex((margin) => margin < 1e-3);
      const sure = Math.min(8, close < 0 ? prompt.greedy.length : close);
      const ids: number[] = [];
      for await (const { id } of model.generate(prompt.ids, { maxTokens: 8, ignoreEos: true })) ids.push(id);
      expect(ids.slice(0, sure), text).toEqual(prompt.greedy.slice(0, sure));
    } finally {
      model.dispose();
    }
  });
});

test.skipIf(isShort)(
  "sizes that GPUs are offered compute what float64 loops do here; sizes and formats are drawn at random",
  async () => {
    const { device, pipelines } = await kernelSetup();
    const candidates = candidatesFor({ isSoftware: false, subgroupSize: device.subgroupSize });
    const families = Object.keys(candidates) as readonly Family[];
    const sizes = Object.fromEntries(families.map((family) => [family, draw<unknown>(candidates[family])]));
    const tuning = { ...(sizes as unknown as Tuning), unroll: false };
    const entry = draw(cases);
    const weights = draw(["none", "int4", "int8"] as const);
    const hasInteger = await device.hasLanguageFeature("packed_4x8_integer_dot_product");
    const activations = draw(hasInteger ? (["f32", "int8"] as const) : (["f32"] as const));
    const steps = await stepsOf(entry, tuning, { quantize: { weights }, activations });
    const drawn = new Map<string, Step>();
    while (drawn.size < changed) {
      const step = draw(steps);
      if (step.size !== undefined) drawn.set(step.kernel.name, step);
    }
    for (const { kernel, size } of drawn.values()) {
      const { error } = await checkKernel(device, pipelines, kernel);
      expect(
        error,
        `${entry.name}, ${weights}: ${kernel.name} ${size && sizeText(sizes[size.family])}`,
      ).toBeLessThanOrEqual(1);
    }
  },
);

describe("a candidate of matmul", () => {
  /** Measures the tokens of matmul's tile, with the text of those changed that differ from the default. */
  async function tuneChanged(from: string, to: string) {
    const facts = await deviceFacts();
    const { tokens } = tuningFor(facts).matmul;
    const isChanged = (code: string) => code.includes("const TOKENS") && !code.includes(`const TOKENS = ${tokens}u`);
    const { kernels, sizes } = await tuneModel({
      folder: await openFolder((cases.find(({ name }) => name === "phi-1") ?? draw(cases)).folder),
      adapter: await testAdapter(),
      kv: "f32",
      context: 64,
      only: "bias_gelu",
      seconds: 600,
      device: {
        shader: (label, code) => (label.startsWith("matmul") && isChanged(code) ? code.replace(from, to) : code),
      },
    });
    const { tried = [], chosenSize } = kernels.find(({ kernel }) => kernel.startsWith("matmul")) ?? {};
    const changed = tried.filter(({ size }) => !size.includes(`tokens ${tokens}`));
    expect(changed.length).toBeGreaterThan(0);
    expect(chosenSize).toContain(`tokens ${tokens}`);
    for (const size of Object.values(sizes.matmul ?? {})) expect(size.tokens).toBe(tokens);
    return changed;
  }

  test("that computes wrong numbers is caught, named, and never chosen", async () => {
    const changed = await tuneChanged("sums[p][t] += loadSums", "sums[p][t] = loadSums");
    for (const one of changed) expect(one).toMatchObject({ result: "wrong numbers" });
  });

  test("that the device cannot run is named and never chosen", async () => {
    const changed = await tuneChanged("@workgroup_size(THREADS)", "@workgroup_size(THREADS * 4096u)");
    for (const { result, message } of changed) {
      expect({ result, message }).toEqual({
        result: "does not run",
        message: expect.stringMatching(/does not compile/),
      });
    }
  });
});
