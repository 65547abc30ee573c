/** Logits that stop being finite in the middle of an answer: what came before is given out, the first layer is named. */
import { join } from "node:path";
import { expect, test } from "vitest";
import { loadModel, openFolder } from "../engine/index.ts";
import { testAdapter } from "./gpu.ts";
import { failure } from "./tempFolder.ts";

const phiTiny = join(import.meta.dirname, "../models/phi-tiny");

/** A layer norm whose results are NaN once the sequence has more than seven tokens. */
function shader(label: string, code: string): string {
  if (!label.startsWith("layerNorm")) return code;
  const assignment = "y[base + i] = ";
  expect(code).toContain(assignment);
  const late = "select(0.0, bitcast<f32>(0x7fc00000u + state.zero), state.past + state.seq > 7u)";
  return code.replace(assignment, `${assignment}${late} + `);
}

test.each([
  ["greedy", {}],
  ["sampled", { temperature: 0.8, seed: 3n }],
])("%s: the tokens so far, then one error", async (_, sampling) => {
  const folder = await openFolder(phiTiny);
  const model = await loadModel({ folder, adapter: await testAdapter(), context: 32, device: { shader } });
  try {
    const ids: number[] = [];
    const run = async () => {
      const options = { maxTokens: 20, sampling, ignoreEos: true };
      for await (const { id } of model.generate([593, 592, 260, 349], options)) ids.push(id);
    };
    const error = await failure(run(), "gpu");
    // Four of the prompt and three new ones are run before the eighth makes NaN: four tokens are known by then.
    expect(error.message).toBe("logits are not finite at token 4 (first in: layer.0)");
    expect(ids).toHaveLength(4);
    // The model goes on: a shorter text is right.
    const again: number[] = [];
    for await (const { id } of model.generate([593, 592, 260, 349], { maxTokens: 4, sampling, ignoreEos: true })) {
      again.push(id);
    }
    expect(again).toEqual(ids);
  } finally {
    model.dispose();
  }
});
