/**
 * Trained checkpoints: the bundled phi-tiny against its expected.json, and SmolLM2-135M-Instruct in Phi-3 layout where its
 * folder is given (PHI_TEST_SMOLLM2=DIR, built by make_smollm2_phi3.py) against generation.json beside that script's data.
 */
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { loadModel, type Model, openFolder } from "../engine/index.ts";
import { testAdapter } from "./gpu.ts";
import { isShort } from "./short.ts";

interface GreedyCase {
  readonly prompt_ids: readonly number[];
  readonly greedy_ids: readonly number[];
  /** Best logit less the second best, where the reference gives it. */
  readonly top1_minus_top2?: readonly number[];
}

const tiny = fileURLToPath(new URL("../models/phi-tiny", import.meta.url));
/** SwiftShader takes minutes for what takes other drivers seconds: there one case stands for several, as in a short run. */
const isSlow = isShort || process.env.PHI_ADAPTER === "swiftshader";
const smollm2 = process.env.PHI_TEST_SMOLLM2;
const generation = fileURLToPath(new URL("../../shared/smollm2/generation.json", import.meta.url));

/** The greedy continuation; it may leave the reference only at a step that the reference calls close. */
async function expectContinuation(
  model: Model,
  { prompt_ids, greedy_ids, top1_minus_top2 }: GreedyCase,
  close: number,
) {
  const ids: number[] = [];
  for await (const { id } of model.generate(prompt_ids, { maxTokens: greedy_ids.length })) ids.push(id);
  const differs = greedy_ids.findIndex((id, step) => id !== ids[step]);
  if (differs < 0) return;
  expect(top1_minus_top2?.[differs] ?? Number.POSITIVE_INFINITY, `step ${differs}`).toBeLessThan(close);
}

describe("phi-tiny", () => {
  const { cases } = JSON.parse(readFileSync(`${tiny}/expected.json`, "utf8")) as { cases: GreedyCase[] };
  const models: Model[] = [];
  afterAll(() => {
    for (const model of models) model.dispose();
  });

  test.each(["f32", "f16"] as const)("greedy continuations with an %s cache", async (kv) => {
    const model = await loadModel({ folder: await openFolder(tiny), adapter: await testAdapter(), kv });
    models.push(model);
    expect(cases.length).toBeGreaterThan(0);
    const chosen = kv === "f32" && isSlow ? cases.slice(0, 1) : cases;
    for (const one of chosen) await expectContinuation(model, one, kv === "f32" ? 0 : 0.05);
  });

  test("generations at the same time are each equal to their own", async () => {
    const model = models[0] ?? (await loadModel({ folder: await openFolder(tiny), adapter: await testAdapter() }));
    await Promise.all(cases.slice(0, isSlow ? 2 : 3).map((one) => expectContinuation(model, one, 0)));
  });
});

if (smollm2 === undefined || !existsSync(generation)) {
  const why = smollm2 === undefined ? "PHI_TEST_SMOLLM2 is not set" : "its generation.json is not there";
  console.warn(`\n*** NOT TESTED: SmolLM2-135M-Instruct: ${why} ***\n`);
}

describe.skipIf(smollm2 === undefined || !existsSync(generation))("SmolLM2-135M-Instruct", () => {
  test("greedy continuations, f32 and f16 cache", { timeout: 900_000 }, async () => {
    const reference = JSON.parse(readFileSync(generation, "utf8")) as { generation: GreedyCase[] };
    expect(reference.generation.length).toBeGreaterThan(2);
    const byLength = reference.generation.toSorted((a, b) => a.greedy_ids.length - b.greedy_ids.length);
    const chosen = isSlow ? byLength.slice(0, 1) : byLength;
    for (const kv of ["f32", "f16"] as const) {
      const folder = await openFolder(smollm2 ?? "");
      const model = await loadModel({ folder, adapter: await testAdapter(), kv, context: 1024 });
      for (const one of chosen) await expectContinuation(model, one, 0.05);
      model.dispose();
    }
  });

  test.skipIf(isShort)(
    "int4 in groups of 32: the grid that the published weights had once",
    { timeout: 900_000 },
    async () => {
      const reference = JSON.parse(readFileSync(generation, "utf8")) as { generation: GreedyCase[] };
      const [shortest] = reference.generation.toSorted((a, b) => a.greedy_ids.length - b.greedy_ids.length);
      if (shortest === undefined) throw new Error("no case");
      const folder = await openFolder(smollm2 ?? "");
      const quantize = { weights: "int4" } as const;
      const model = await loadModel({ folder, adapter: await testAdapter(), quantize, context: 1024 });
      // GGUF's Q4_1 is what they were published in, so the text is the same; the head, which is int8, moves logits by less than this.
      await expectContinuation(model, shortest, 0.05);
      const { bytes, peakBytes } = model.ledger();
      expect(peakBytes - bytes).toBeLessThan(300 << 20);
      model.dispose();
    },
  );
});
