/** Problems of a model's sizes: the kernels of a plan agree with them, and a broken one does not. */
import { expect, test } from "vitest";
import { planSynthetic, type SyntheticPreset } from "../../../bench/synthetic.ts";
import { problemOf, sizeOf } from "../../../engine/check/problems.ts";
import { createTrial } from "../../../engine/check/trial.ts";
import { readConfig } from "../../../engine/files/config.ts";
import { buildPlan } from "../../../engine/graph/build.ts";
import { Graph } from "../../../engine/graph/graph.ts";
import { tileRowsFor, tuningFor } from "../../../engine/graph/sizes.ts";
import { type MatrixRef, Weights } from "../../../engine/graph/weights.ts";
import { readArchitecture } from "../../../engine/models/table.ts";
import { quantize } from "../../../kernels/loading/quantize.ts";
import { scan } from "../../../kernels/loading/scan.ts";
import type { Packing } from "../../../kernels/weights/weights.ts";
import { broken, kernelSetup, liveBuffers } from "../../kernels/harness.ts";

const small = { hidden_size: 128, intermediate_size: 160, num_attention_heads: 4, vocab_size: 3100 };
/** A preset, its config, how its matrices lie, and the kernels that no case before it has. */
const cases: readonly (readonly [SyntheticPreset, Readonly<Record<string, unknown>>, Packing, RegExp])[] = [
  ["phi-3-mini-4k", { ...small, num_key_value_heads: 2, sliding_window: 200 }, { layout: "q4", group: 32 }, /./],
  ["phi-3.5-moe", { ...small, num_key_value_heads: 2, rope_scaling: null }, { layout: "f16" }, /expert|mixer/i],
];

const maxBindingBytes = 100_000; // matrices in several row ranges
const calls = [
  { kind: "decode", seq: 1, past: 300 },
  { kind: "prefill", seq: 33, past: 260 },
] as const;

/** The kernels of a layer and of the model's ends, as a plan has them. */
async function steps([preset, config, matrices, names]: (typeof cases)[number]) {
  const { device } = await kernelSetup();
  const { config: whole } = planSynthetic({ preset, layers: 1, config });
  const architecture = readArchitecture(readConfig("config.json", new TextEncoder().encode(JSON.stringify(whole))));
  const packing = (ref: MatrixRef): Packing => (ref.quantizable ? matrices : { layout: "f32" });
  return calls.flatMap(({ kind, seq, past }) => {
    const graph = new Graph(kind);
    const logits = architecture.forward(graph, new Weights());
    const { rotary } = architecture.rope;
    const options = {
      packing,
      kv: "f16",
      rotary,
      maxBindingBytes,
      tuning: tuningFor(device),
      tileRows: tileRowsFor(device),
      maxSeq: seq,
    } as const;
    const plan = buildPlan(graph, logits, options);
    return [...plan.steps, ...Object.values(plan.choosers)].flatMap((step) => {
      const problem = problemOf(step.kernel, sizeOf(step, plan, options, { seq, past }));
      return names.test(step.kernel.name) ? [{ step, problem }] : [];
    });
  });
}

test.each(cases)("kernels of %s agree with float64 loops at its sizes", async (...one) => {
  const { device, pipelines } = await kernelSetup();
  const errors = [];
  for (const { step, problem } of await steps(one)) {
    if (problem === undefined) throw new Error(`${step.label}: no problem`);
    const trial = await createTrial(device, pipelines, step.kernel, problem);
    errors.push({ label: step.label, error: await trial.compare(512), seconds: await trial.run(2) });
    trial.dispose();
  }
  expect(errors.length).toBeGreaterThan(6);
  expect(errors.filter(({ error, seconds }) => !(error <= 1 && seconds > 0))).toEqual([]);
  expect(await liveBuffers()).toBe(0);
});

test.each([
  ["attention<", "fade[q] + weights[q]", "fade[q] + 1.05 * weights[q]"],
  ["decodeAttention<", "+ k] = result[k]", "+ k] = 1.05 * result[k]"],
  ["matmul<", "sums[p][t] +=", "sums[p][t] ="],
])("a mistake in %s is found among the samples", async (name, from, to) => {
  const { device, pipelines } = await kernelSetup();
  const found = (await steps(cases[0] as (typeof cases)[number])).find(({ step }) => step.kernel.name.startsWith(name));
  if (found?.problem === undefined) throw new Error(`no kernel ${name}`);
  const trial = await createTrial(device, pipelines, await broken(found.step.kernel, from, to), found.problem);
  expect(await trial.compare(512)).toBeGreaterThan(1);
  trial.dispose();
});

test("a kernel that writes nothing is wrong, however small the numbers are", async () => {
  const { device, pipelines } = await kernelSetup();
  const found = (await steps(cases[0] as (typeof cases)[number])).find(({ step }) => step.kernel.name === "rmsNorm");
  if (found?.problem === undefined) throw new Error("no rmsNorm");
  const { y } = found.problem.outputs;
  if (y === undefined) throw new Error("no y");
  const tiny = { ...found.problem, outputs: { y: { ...y, expected: () => 1e-9 } } };
  const idle = await broken(found.step.kernel, "= x[base + i] * scale", "= 0.0 * x[base + i] * scale");
  const trial = await createTrial(device, pipelines, idle, tiny);
  expect(await trial.compare()).toBe(Number.POSITIVE_INFINITY);
  trial.dispose();
});

test("quantizer and scan agree with their problems", async () => {
  const { device, pipelines } = await kernelSetup();
  const shape = { from: "f16", to: "q4", group: 32, zero: "any", cols: 128 } as const;
  for (const kernel of [quantize(shape), scan("f16", 300 * 128 * 2), scan("f32", 300 * 128 * 4)]) {
    const problem = problemOf(kernel, { rows: 300, cols: 128, tileRows: 32 });
    if (problem === undefined) throw new Error(kernel.name);
    const trial = await createTrial(device, pipelines, kernel, problem);
    expect(await trial.compare(), kernel.name).toBe(0);
    trial.dispose();
  }
});
