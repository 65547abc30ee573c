/**
 * longrope's policies around `original_max_position_embeddings`, 32 in this tiny checkpoint. That `hf-exact` crosses it as
 * transformers does, phi-4-mini too, is in models.gpu.test.ts.
 */
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type GenerationResult, loadModel, type Model, openFolder, type RopePolicy } from "../../../engine/index.ts";
import { testAdapter } from "../../gpu.ts";
import { loadCase } from "../../reference/fixture.ts";

const models = join(import.meta.dirname, "../../fixtures/models");
const original = 32;
const policies = ["hf-exact", "short", "long"] as const;

async function lastLogits(model: Model, ids: readonly number[]): Promise<Float32Array> {
  let last = new Float32Array();
  for await (const { values } of model.logits(ids)) last = values.slice(-model.vocabularySize);
  return last;
}

function largestDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - (b[i] ?? Number.NaN))), 0);
}

async function greedy(model: Model, ids: readonly number[], maxTokens: number) {
  const tokens = model.generate(ids, { maxTokens, ignoreEos: true });
  const generated: number[] = [];
  for (;;) {
    const next: IteratorResult<{ id: number }, GenerationResult> = await tokens.next();
    if (next.done) return { generated, recomputeMs: next.value.stats.recomputeMs };
    generated.push(next.value.id);
  }
}

describe("phi-3-mini-128k", () => {
  const loaded = new Map<RopePolicy, Model>();
  const model = (policy: RopePolicy) => {
    const found = loaded.get(policy);
    if (found === undefined) throw new Error(`${policy} was not loaded`);
    return found;
  };
  let ids: readonly number[] = [];
  beforeAll(async () => {
    const folder = await openFolder(join(models, "phi-3-mini-128k"));
    ids = loadCase(join(models, "phi-3-mini-128k")).prompts.find(({ length }) => length === original + 1)?.ids ?? [];
    for (const rope of policies) {
      loaded.set(rope, await loadModel({ folder, adapter: await testAdapter(), kv: "f32", context: 64, rope }));
    }
  });
  afterAll(() => {
    for (const each of loaded.values()) each.dispose();
  });

  test.each([original - 1, original, original + 1])("prompt of %i tokens", async (length) => {
    const prompt = ids.slice(0, length);
    const exact = await lastLogits(model("hf-exact"), prompt);
    const short = await lastLogits(model("short"), prompt);
    const long = await lastLogits(model("long"), prompt);
    // The same kernels on the same numbers, so equal to the bit; the other factors move some logit by far more than
    // any rounding (5e-4 is what float32 engines differ by).
    expect(largestDifference(exact, length <= original ? short : long)).toBe(0);
    expect(largestDifference(exact, length <= original ? long : short)).toBeGreaterThan(5e-3);
  });

  test("generation across the boundary: run again once, and only where the factors change", async () => {
    const prompt = ids.slice(0, original - 2);
    const exact = await greedy(model("hf-exact"), prompt, 6);
    expect(exact.recomputeMs).toBeGreaterThan(0);
    // Up to the boundary `short` says the same, and past it `long`, given the same tokens.
    const short = await greedy(model("short"), prompt, 3);
    expect(exact.generated.slice(0, 3)).toEqual(short.generated);
    const long = await greedy(model("long"), [...prompt, ...exact.generated.slice(0, 3)], 3);
    expect(exact.generated.slice(3)).toEqual(long.generated);
    expect([short.recomputeMs, long.recomputeMs]).toEqual([0, 0]);
    expect((await greedy(model("short"), prompt, 6)).recomputeMs).toBe(0);
  });
});

test("a model without longrope has no such choice", async () => {
  const folder = await openFolder(join(models, "phi-4"));
  const loading = loadModel({ folder, adapter: await testAdapter(), rope: "short" });
  await expect(loading).rejects.toMatchObject({ kind: "usage", message: expect.stringContaining("--rope: ") });
});
