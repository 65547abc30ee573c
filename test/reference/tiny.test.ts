/**
 * The reference that lies beside the bundled model, for `phi verify`: it is what the float64 forward pass gives. Where
 * it has to change, `PHI_WRITE_REFERENCE=1 npx vitest run test/reference/tiny.test.ts` writes it anew.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { safetensorsBytes } from "../../engine/index.ts";
import { type CaseEntry, readTensors } from "./fixture.ts";
import { loadForward } from "./forward.ts";

const folder = join(import.meta.dirname, "../../models/phi-tiny");
const json = (name: string) => JSON.parse(readFileSync(join(folder, name), "utf8"));

/** Prompts of 1, 7 and 40 tokens, cut from the expected continuations so that they are text as the model knows it. */
function prompts(): readonly (readonly number[])[] {
  const cases: readonly { prompt_ids: number[]; greedy_ids: number[] }[] = json("expected.json").cases;
  const texts = cases.map(({ prompt_ids, greedy_ids }) => [...prompt_ids, ...greedy_ids]);
  return [texts[0]?.slice(0, 1) ?? [], texts[1]?.slice(0, 7) ?? [], texts[0]?.slice(0, 40) ?? []];
}

/** The hidden states are kept of this prompt. */
const hiddenPrompt = 1;

interface Tensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

function compute() {
  const config = json("config.json");
  const entry: CaseEntry = {
    name: "phi-tiny",
    folder,
    modelType: "phi",
    quantized: false,
    config,
    tolerance: { f32: 5e-4, f16: 0.03 },
  };
  const forward = loadForward(entry);
  const tensors: Tensor[] = [];
  const hidden: string[] = [];
  const described = prompts().map((ids, index) => {
    const result = forward(ids);
    const logits = `logits.${index}`;
    tensors.push({ name: logits, shape: [ids.length, config.vocab_size], values: Float32Array.from(result.logits) });
    if (index === hiddenPrompt) {
      for (const [name, values] of result.hidden) {
        hidden.push(name);
        tensors.push({ name, shape: [ids.length, config.hidden_size], values: Float32Array.from(values) });
      }
    }
    return { ids, logits };
  });
  return { tensors, reference: { prompts: described, hidden: { prompt: hiddenPrompt, tensors: hidden } } };
}

const { tensors, reference } = compute();

beforeAll(() => {
  if (process.env.PHI_WRITE_REFERENCE !== "1") return;
  const specs = tensors.map(({ name, shape, values }) => ({
    name,
    shape,
    dtype: "F32" as const,
    data: new Uint8Array(values.buffer),
  }));
  writeFileSync(join(folder, "reference.safetensors"), safetensorsBytes(specs));
  writeFileSync(join(folder, "reference.json"), `${JSON.stringify(reference)}\n`);
});

test("the bundled reference is the float64 forward pass, rounded", () => {
  expect(json("reference.json")).toEqual(reference);
  const stored = readTensors(join(folder, "reference.safetensors"));
  expect([...stored.keys()].sort()).toEqual(tensors.map(({ name }) => name).sort());
  for (const { name, shape, values } of tensors) {
    expect(stored.get(name)?.shape).toEqual(shape);
    // Math.exp and friends may differ in the last bit between builds of JavaScript engines, hence not bit for bit.
    const worst = values.reduce((most, value, i) => {
      return Math.max(
        most,
        Math.abs(value - (stored.get(name)?.values[i] ?? Number.NaN)) / Math.max(1, Math.abs(value)),
      );
    }, 0);
    expect(worst, name).toBeLessThan(1e-6);
  }
});

test("the model that it describes is trained: it expects its own text", () => {
  // A reference of other weights, or of none, would give the next token of a known story no more than chance.
  const { values } = tensors.find(({ name }) => name === "logits.2") ?? { values: new Float32Array() };
  const ids = prompts()[2] ?? [];
  const vocab = values.length / ids.length;
  const hits = ids.slice(1).filter((id, t) => {
    const row = values.subarray(t * vocab, (t + 1) * vocab);
    return row.indexOf(Math.max(...row)) === id;
  });
  expect(hits.length).toBeGreaterThan(30);
});
