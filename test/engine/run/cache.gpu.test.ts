/** The cache between calls: whatever was generated before, a call gives what it would give alone. */
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { loadModel, type Model, openFolder } from "../../../engine/index.ts";
import { testAdapter } from "../../gpu.ts";
import { seededRandom } from "../../reference/compare.ts";

/** A sliding window of 16 over a cache of 24 rows, and longrope's switch at 32 positions. */
const cases = [
  ["phi-3-mini-4k", "f32"],
  ["phi-3-mini-128k", "f32"],
  // What int8 does differently is in its kernels, which have tests of their own on every driver.
  ...(process.env.PHI_ADAPTER === "swiftshader" ? [] : [["phi-3-mini-4k", "int8"] as const]),
] as const;

async function generated(model: Model, ids: readonly number[], maxTokens: number, signal?: AbortSignal) {
  const out: number[] = [];
  const options = { maxTokens, ignoreEos: true, ...(signal === undefined ? {} : { signal }) };
  for await (const { id } of model.generate(ids, options)) out.push(id);
  return out;
}

/** Forgets what is cached. */
async function forget(model: Model): Promise<void> {
  for await (const _ of model.logits([0]));
}

describe.each(cases)("%s, %s cache", (name, kv) => {
  const folder = fileURLToPath(new URL(`../../fixtures/models/${name}`, import.meta.url));
  const opened: Model[] = [];
  const open = async (): Promise<Model> => {
    const options = { folder: await openFolder(folder), adapter: await testAdapter(), context: 128, chunkTokens: 8 };
    const model = await loadModel({ ...options, kv });
    opened.push(model);
    return model;
  };
  afterAll(() => {
    for (const model of opened) model.dispose();
  });

  test("prompts that share prefixes, longer and shorter, equal those of an empty cache", async () => {
    const model = await open();
    const random = seededRandom(11);
    const token = () => Math.floor(random() * model.vocabularySize);
    const long = Array.from({ length: 64 }, token);
    const prompts = [64, 57, 51, 46, 60, 55, 50, 20, 33, 31, 64, 56, 49, 43, 3, 40, 34, 29].map((length) => [
      ...long.slice(0, length - 1),
      token(),
    ]);
    const together: number[][] = [];
    // One or four new tokens: few of them leave the cache's length below what the ring was once filled to.
    const tokens = (i: number) => (i % 4 === 3 ? 4 : 1);
    for (const [i, prompt] of prompts.entries()) together.push(await generated(model, prompt, tokens(i)));
    for (const [i, prompt] of prompts.entries()) {
      await forget(model);
      expect(together[i], `prompt ${i} of ${prompt.length} tokens`).toEqual(await generated(model, prompt, tokens(i)));
    }
  });

  test("a generation that was stopped leaves nothing behind", async () => {
    const model = await open();
    const random = seededRandom(12);
    const prompt = Array.from({ length: 40 }, () => Math.floor(random() * model.vocabularySize));
    await forget(model);
    const expected = await generated(model, prompt, 6);
    for (const tokens of [1, 3]) {
      const stop = new AbortController();
      let seen = 0;
      const run = async () => {
        for await (const _ of model.generate([...prompt, 7], { maxTokens: 50, ignoreEos: true, signal: stop.signal })) {
          if (++seen === tokens) stop.abort();
        }
      };
      await expect(run()).rejects.toMatchObject({ kind: "aborted" });
      expect(await generated(model, prompt, 6)).toEqual(expected);
    }
  });
});
