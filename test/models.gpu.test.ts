/**
 * Every architecture against Hugging Face: logits, hidden states layer by layer, greedy continuations; chunked, token by
 * token and cached runs against each other. Cases come from ../shared/reference where present, else from test/fixtures.
 */
import { afterAll, describe, expect, test } from "vitest";
import { type LoadOptions, loadModel, type Model, openFolder } from "../engine/index.ts";
import { gpuAdapter, testAdapter } from "./gpu.ts";
import { expectClose } from "./reference/compare.ts";
import { type CaseEntry, listCases, loadCase } from "./reference/fixture.ts";
import { isShort } from "./short.ts";

const all = listCases(({ modelType }) => ["phi", "phi3", "phi3small", "phimoe"].includes(modelType));

const isFirst = ({ modelType }: CaseEntry, k: number) => all.findIndex((entry) => entry.modelType === modelType) === k;

const isSwiftShader = process.env.PHI_ADAPTER === "swiftshader";
const firsts = all.filter(isFirst);

/** A short run has one checkpoint of each architecture on SwiftShader, and all on the other driver. */
const cases = isShort && isSwiftShader ? firsts : all;

/** Those that are run in every way: chunked, on an f16 cache; and, for it takes longest, one as on a GPU. */
const inFull = new Set(!isShort ? all : isSwiftShader ? [] : firsts);

/** Where each kernel takes seconds to compile, or has no variants, the sizes for GPUs are not tried once more. */
const isPlainest = isSwiftShader || process.env.PHI_FEATURES === "none";

/** Steps whose best two logits are nearer than this may go either way. */
const closeMargin = { f32: 1e-3, f16: 0.05 };

async function load(entry: CaseEntry, options: Partial<LoadOptions> = {}): Promise<Model> {
  const folder = await openFolder(entry.folder);
  const adapter = await testAdapter();
  return loadModel({ folder, adapter, kv: "f32", context: 256, ...options });
}

async function allLogits(model: Model, ids: readonly number[]): Promise<Float32Array> {
  const out = new Float32Array(ids.length * model.vocabularySize);
  for await (const { firstPosition, values } of model.logits(ids))
    out.set(values, firstPosition * model.vocabularySize);
  return out;
}

async function greedy(model: Model, ids: readonly number[], maxTokens: number): Promise<number[]> {
  const out: number[] = [];
  for await (const { id } of model.generate(ids, { maxTokens, ignoreEos: true })) out.push(id);
  return out;
}

/** The continuation must be equal up to the first step that the reference itself calls close; returns those steps. */
function expectGreedy(
  actual: readonly number[],
  expected: readonly number[],
  margins: readonly number[],
  close: number,
) {
  const first = margins.findIndex((margin) => margin < close);
  const sure = first < 0 ? expected.length : first;
  expect(actual.slice(0, sure)).toEqual(expected.slice(0, sure));
  return sure;
}

describe.each(cases.map((entry) => [entry.name, entry] as const))("%s", (_name, entry) => {
  const reference = loadCase(entry.folder);
  const models: Promise<Model>[] = [];
  const open = (options: Partial<LoadOptions>): Promise<Model> => {
    const model = load(entry, options);
    models.push(model);
    return model;
  };
  let shared: Promise<Model> | undefined;
  const f32 = (): Promise<Model> => {
    shared ??= open({});
    return shared;
  };
  afterAll(async () => {
    for (const model of await Promise.all(models)) model.dispose();
  });

  test("logits of every position, in chunks of the default size", async () => {
    const model = await f32();
    for (const { ids, logits } of reference.prompts) {
      if (logits === undefined) continue;
      const shape = [ids.length, reference.vocab];
      expectClose(await allLogits(model, ids), logits, { atol: 5e-4, shape, why: "NOTES.md: f32 engines" });
    }
  });

  test("hidden states after every layer", async () => {
    const model = await f32();
    const { hidden, prompts } = reference;
    const ids = prompts[hidden.prompt]?.ids ?? [];
    const found = new Map<string, number[]>();
    for await (const { values } of model.trace(ids)) {
      for (const [name, rows] of values) found.set(name, [...(found.get(name) ?? []), ...rows]);
    }
    expect(hidden.names.length).toBeGreaterThan(2);
    for (const name of hidden.names) {
      const expected = hidden.tensors.get(name);
      const actual = found.get(name.replace(/^hidden\./, ""));
      if (expected === undefined || actual === undefined) throw new Error(`${name} is missing`);
      const why = "the same bound as for the logits";
      expectClose(Float32Array.from(actual), expected.values, { atol: 5e-4, shape: expected.shape, why, what: name });
    }
  });

  test("greedy continuations, cached decode", async () => {
    const model = await f32();
    let compared = 0;
    for (const { ids, greedy: expected, greedyMargins } of reference.prompts) {
      compared += expectGreedy(await greedy(model, ids, expected.length), expected, greedyMargins, closeMargin.f32);
    }
    expect(compared).toBeGreaterThan(24 * (reference.prompts.length - 1));
  });

  // Quantized weights change neither chunks nor cache, which the same architecture proves on others.
  test.skipIf(entry.quantized || !inFull.has(entry))(
    "chunks of 5, chunks of 1 and one chunk give the same logits and continuation",
    async () => {
      // Some 30 tokens, for chunks of 1 run them one by one, on slow drivers too; a trimmed fixture may have fewer.
      const known = reference.prompts.filter(({ logits }) => logits !== undefined);
      const prompt = known.find(({ length }) => length >= 20) ?? known.at(-1);
      if (prompt?.logits === undefined) throw new Error("no prompt with logits");
      const shape = [prompt.length, reference.vocab];
      const whole = await greedy(await f32(), prompt.ids, 8);
      for (const chunkTokens of [5, 1]) {
        const model = await open({ chunkTokens });
        const why = "NOTES.md: f32 engines";
        expectClose(await allLogits(model, prompt.ids), prompt.logits, { atol: 5e-4, shape, why });
        expect(await greedy(model, prompt.ids, 8)).toEqual(whole);
      }
    },
  );

  test.skipIf(entry.quantized || !inFull.has(entry))(
    "f16 cache: logits within the f16 column, greedy up to a close step",
    async () => {
      const model = await open({ kv: "f16" });
      let compared = 0;
      for (const { ids, logits, greedy: expected, greedyMargins } of reference.prompts) {
        if (logits !== undefined) {
          const shape = [ids.length, reference.vocab];
          const why = "NOTES.md: f16 column of the case";
          expectClose(await allLogits(model, ids), logits, { atol: entry.tolerance.f16, shape, why });
        }
        compared += expectGreedy(await greedy(model, ids, expected.length), expected, greedyMargins, closeMargin.f16);
      }
      expect(compared).toBeGreaterThan(24);
    },
  );

  test.skipIf(isPlainest || (isShort && entry !== firsts[0]))(
    "as on a GPU, whose rows lie one after the other",
    async () => {
      // It waits for a driver that compiles as software drivers do.
      const model = await open({ adapter: await gpuAdapter(), device: { watchdogMs: 110_000 } });
      expect(model.adapterName).toBe("test gpu Test GPU");
      for (const { ids, logits, greedy: expected, greedyMargins } of reference.prompts) {
        if (logits === undefined) continue;
        const shape = [ids.length, reference.vocab];
        expectClose(await allLogits(model, ids), logits, { atol: 5e-4, shape, why: "NOTES.md: f32 engines" });
        expectGreedy(await greedy(model, ids, 8), expected.slice(0, 8), greedyMargins.slice(0, 8), closeMargin.f32);
      }
    },
  );

  test.skipIf(entry.quantized || !inFull.has(entry))("nothing is left on the GPU", async () => {
    const model = await load(entry);
    expect(model.ledger().buffers).toBeGreaterThan(0);
    model.dispose();
    expect(model.ledger()).toMatchObject({ buffers: 0, bytes: 0 });
  });
});
