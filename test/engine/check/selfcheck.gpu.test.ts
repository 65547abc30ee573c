/** The check of kernels on the device: every kernel of every architecture passes it, and a broken one does not. */
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { hasProblem } from "../../../engine/check/problems.ts";
import { checkKernel, distinctKernels } from "../../../engine/check/selfcheck.ts";
import { readConfig } from "../../../engine/files/config.ts";
import { buildPlan } from "../../../engine/graph/build.ts";
import { Graph } from "../../../engine/graph/graph.ts";
import { tuningFor } from "../../../engine/graph/sizes.ts";
import { Weights } from "../../../engine/graph/weights.ts";
import { loadModel, openFolder } from "../../../engine/index.ts";
import { readArchitecture } from "../../../engine/models/table.ts";
import type { KvFormat } from "../../../kernels/attention/kv/kv.ts";
import type { Kernel } from "../../../kernels/kernel.ts";
import type { Packing } from "../../../kernels/weights/weights.ts";
import { testAdapter } from "../../gpu.ts";
import { broken, kernelSetup, liveBuffers } from "../../kernels/harness.ts";
import { failure } from "../../tempFolder.ts";

const phiTiny = fileURLToPath(new URL("../../../models/phi-tiny", import.meta.url));

const root = new URL("../../fixtures/models/", import.meta.url);
const kvs: readonly KvFormat[] = ["f16", "f32", "int8"];
const packings: readonly Packing[] = [
  { layout: "f16" },
  { layout: "q4", group: 32 },
  { layout: "bf16" },
  { layout: "q8", group: 128 },
  { layout: "f32" },
  { layout: "q4", group: 64, permuted: true },
];

/** The kernels of the fixtures' plans; formats of weights, activations and cache take turns. */
async function kernels(): Promise<readonly Kernel[]> {
  const { device } = await kernelSetup();
  const isInteger = await device.hasLanguageFeature("packed_4x8_integer_dot_product");
  const own = tuningFor(device);
  const tuning = { ...own, decodeAttention: { ...own.decodeAttention, splits: 3, span: 32 } }; // in parts, as GPUs have it
  const all = readdirSync(root).flatMap((name, i) => {
    const architecture = readArchitecture(
      readConfig("config.json", readFileSync(new URL(`${name}/config.json`, root))),
    );
    return (["prefill", "decode"] as const).flatMap((kind) => {
      const graph = new Graph(kind);
      const logits = architecture.forward(graph, new Weights());
      const { steps, choosers } = buildPlan(graph, logits, {
        maxSeq: kind === "decode" ? 1 : 16,
        packing: ({ key }) =>
          key.includes("embed") ? { layout: "q8", group: 32 } : (packings[i % packings.length] ?? { layout: "f32" }),
        kv: kvs[i % kvs.length] ?? "f32",
        activations: isInteger && i % 12 < 6 ? "int8" : "f32",
        rotary: architecture.rope.rotary,
        maxBindingBytes: 128 << 20,
        tuning,
      });
      return [...steps, ...Object.values(choosers)].map((step) => step.kernel);
    });
  });
  return distinctKernels(all);
}

test("every kernel of every architecture has a reference; one of each family agrees with it", async () => {
  const { device, pipelines } = await kernelSetup();
  const all = await kernels();
  expect(all.filter((kernel) => !hasProblem(kernel)).map(({ name }) => name)).toEqual([]);
  // One of each file and order of columns: a software driver compiles for seconds, and the kernels' own tests have the rest.
  const byFamily = new Map(all.map((kernel) => [/^\w+(<\w+( \w+)+)?/.exec(kernel.name)?.[0], kernel]));
  const checks = [];
  for (const kernel of byFamily.values()) checks.push(await checkKernel(device, pipelines, kernel));
  expect(checks.filter(({ error }) => !(error <= 1))).toEqual([]);
  expect(await liveBuffers()).toBe(0);
});

test.each([
  ["matvec<", "sums[p] += blockSums", "sums[p] = blockSums"],
  ["attention<", "fade[q] + weights[q]", "fade[q] + 1.001 * weights[q]"],
  ["ropeAppend<", "select(other, -other, isFirst)", "other"],
  ["layerNorm", "+ bias[", "- bias["],
  ["argmax", "best[i] > highest", "best[i] < highest"],
])("a mistake in %s is found", async (name, from, to) => {
  const { device, pipelines } = await kernelSetup();
  const kernel = (await kernels()).find((candidate) => candidate.name.startsWith(name));
  if (kernel === undefined) throw new Error(`no kernel ${name}`);
  const { error } = await checkKernel(device, pipelines, await broken(kernel, from, to));
  expect(error).toBeGreaterThan(1);
});

describe("a load", () => {
  const mutate = (isWrong: (code: string) => boolean) => (label: string, code: string) =>
    label.startsWith("matvec") && isWrong(code) ? code.replace("sums[p] +=", "sums[p] =") : code;
  const load = async (shader: (label: string, code: string) => string, known = new Set<string>()) => {
    const checked = {
      has: (key: string) => known.has(key),
      add: (keys: readonly string[]) =>
        keys.forEach((key) => {
          known.add(key);
        }),
    };
    const folder = await openFolder(phiTiny);
    const model = await loadModel({ folder, adapter: await testAdapter(), context: 16, checked, device: { shader } });
    const notes = model.notes;
    model.dispose();
    return { notes, known };
  };

  test("a kernel that is wrong everywhere ends it", async () => {
    const error = await failure(load(mutate(() => true)), "gpu");
    expect(error.message).toMatch(/^matvec<f16,bias> computes wrong numbers on .*: off by .* times what is allowed$/);
  });

  test("a variant that is wrong is replaced and named", async () => {
    const { device } = await kernelSetup();
    const isVariant = (code: string) => code.includes("enable subgroups");
    const { notes, known } = await load(mutate(isVariant));
    expect(known.size).toBeGreaterThan(8);
    const isUsed = tuningFor(device).matvec.subgroup > 1;
    expect(notes.filter((line) => /matvec<f16,bias>.*plainer kernels are used/.test(line))).toHaveLength(
      isUsed ? 1 : 0,
    );
  });
});
