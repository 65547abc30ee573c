/** Losses and divergences of real runs: phi-tiny on its own texts, against float64 and across the formats of the cache. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { evaluate, type KvFormat, loadModel, type Model, openFolder } from "../../../engine/index.ts";
import { testAdapter } from "../../gpu.ts";
import { loadCase } from "../../reference/fixture.ts";

const tiny = fileURLToPath(new URL("../../../models/phi-tiny", import.meta.url));
const isSlow = process.env.PHI_ADAPTER === "swiftshader";
const opened: Model[] = [];
afterAll(() => {
  for (const model of opened) model.dispose();
});

async function open(kv: KvFormat): Promise<Model> {
  const model = await loadModel({ folder: await openFolder(tiny), adapter: await testAdapter(), kv, context: 128 });
  opened.push(model);
  return model;
}

test("the loss of a text follows from the reference's logits", async () => {
  const model = await open("f32");
  for (const { ids, logits } of loadCase(tiny).prompts) {
    if (logits === undefined || ids.length < 2) continue;
    let nll = 0;
    ids.slice(1).forEach((id, position) => {
      const row = logits.subarray(position * model.vocabularySize, (position + 1) * model.vocabularySize);
      nll += Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0)) - (row[id] ?? 0);
    });
    const { meanNll, tokens } = await evaluate(model, ids);
    expect(tokens).toBe(ids.length - 1);
    // Logits within 5e-4 move a loss by at most twice that; they are far nearer.
    expect(Math.abs(meanNll - nll / tokens)).toBeLessThan(1e-4);
  }
});

test("int8 cache: forced along the reference's continuations it agrees with f16, and is near to it", async () => {
  const { cases } = JSON.parse(readFileSync(`${tiny}/expected.json`, "utf8")) as {
    cases: { prompt_ids: number[]; greedy_ids: number[] }[];
  };
  const [f16, int8] = [await open("f16"), await open("int8")];
  const sums = { tokens: 0, agreed: 0, kl: 0 };
  for (const { prompt_ids, greedy_ids } of cases.slice(0, isSlow ? 1 : 2)) {
    const { tokens, against } = await evaluate(int8, [...prompt_ids, ...greedy_ids], { against: f16 });
    sums.tokens += tokens;
    sums.agreed += tokens * (against?.top1Agreement ?? 0);
    sums.kl += tokens * (against?.meanKl ?? Number.NaN);
  }
  expect(sums.tokens).toBeGreaterThan(100);
  expect(sums.agreed / sums.tokens).toBeGreaterThanOrEqual(0.95);
  // 6e-7 was found; twice the step would be four times that.
  expect(sums.kl / sums.tokens).toBeLessThan(2e-6);
  expect(sums.kl).toBeGreaterThan(0);
});
