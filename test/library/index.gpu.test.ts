/** The package's entry on a GPU: what it generates, what it refuses, and that nothing is left behind. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type GenerationResult, load, type TextModel, type TextPiece } from "../../library/index.ts";
import { testAdapter } from "../gpu.ts";

const phiTiny = join(import.meta.dirname, "../../models/phi-tiny");
interface Case {
  readonly prompt: string;
  readonly prompt_ids: readonly number[];
  readonly greedy_ids: readonly number[];
  readonly greedy_text: string;
}
const { cases } = JSON.parse(await readFile(join(phiTiny, "expected.json"), "utf8")) as { cases: readonly Case[] };
const [story] = cases;
if (story === undefined) throw new Error("expected.json has no cases");
const storyText = story.greedy_text.replace("<|endoftext|>", "");

let model: TextModel;
beforeAll(async () => {
  model = await load(phiTiny, { adapter: await testAdapter() });
});
afterAll(() => model.dispose());

/** A generation to its end: the pieces, their text and ids, and what it returned. */
async function whole(pieces: AsyncGenerator<TextPiece, GenerationResult, undefined>) {
  const all: TextPiece[] = [];
  for (;;) {
    const next = await pieces.next();
    if (next.done) {
      const ids = all.flatMap(({ id }) => (id === undefined ? [] : [id]));
      return { pieces: all, text: all.map(({ text }) => text).join(""), ids, result: next.value };
    }
    all.push(next.value);
  }
}

test("text and ids as prompts, log-probabilities, two at once", async () => {
  const [told, fromIds] = await Promise.all([
    whole(model.generate(story.prompt, { logprobs: true })),
    whole(model.generate(story.prompt_ids, { maxTokens: 7 })),
  ]);
  expect(told.text).toBe(storyText);
  expect(told.ids).toEqual(story.greedy_ids);
  expect(told.pieces.every(({ logprob = 1 }) => logprob <= 0)).toBe(true);
  expect(told.result).toMatchObject({ finishReason: "eos", seed: undefined });
  expect(told.result.stats).toMatchObject({ promptTokens: 4, newTokens: story.greedy_ids.length });
  expect(fromIds.ids).toEqual(story.greedy_ids.slice(0, 7));
  expect(fromIds.pieces.every(({ logprob }) => logprob === undefined)).toBe(true);
  expect(fromIds.result.finishReason).toBe("length");
});

test("a stop string split over tokens; a loop that is left; then the next call", async () => {
  const at = storyText.indexOf(" ", 40);
  const stop = storyText.slice(at - 3, at + 4);
  const cut = await whole(model.generate(story.prompt, { stop: ["no such text", stop] }));
  expect(cut.text).toBe(storyText.slice(0, storyText.indexOf(stop)));
  expect(cut.result.finishReason).toBe("stop");
  expect((await whole(model.generate(story.prompt, { stop }))).text).toBe(cut.text);
  const ended = await whole(model.generate(story.prompt, { stop: "<|endoftext|>", ignoreEos: true }));
  expect([ended.text, ended.result.finishReason]).toEqual([storyText, "stop"]);
  expect(cut.result.stats.newTokens).toBe(cut.ids.length);
  for await (const { id } of model.generate(story.prompt)) {
    expect(id).toBe(story.greedy_ids[0]);
    break;
  }
  expect((await whole(model.generate(story.prompt, { maxTokens: 3 }))).ids).toEqual(story.greedy_ids.slice(0, 3));
});

test("the same seed gives the same text; one that was chosen is told", async () => {
  const sampling = { temperature: 1 };
  const first = await whole(model.generate(story.prompt, { sampling, maxTokens: 12 }));
  const { seed } = first.result;
  if (seed === undefined) throw new Error("no seed was told");
  const second = await whole(model.generate(story.prompt, { sampling: { ...sampling, seed }, maxTokens: 12 }));
  expect(second.ids).toEqual(first.ids);
});

test("is refused: an empty role, an empty stop string, an empty list, a foreign id", async () => {
  const refusals = [
    [[{ role: "", content: "hello" }], undefined, "messages[0].role"],
    ["x", { stop: [""] }, "stop: expected a string or a list of strings, none of them empty"],
    [null as unknown as string, {}, "prompt: expected a string"],
    [[], undefined, "empty"],
    [[1e6], undefined, "expected an id"],
  ] as const;
  for (const [prompt, options, message] of refusals) {
    await expect(whole(model.generate(prompt, options))).rejects.toThrow(message);
  }
  expect((await whole(model.generate(story.prompt, { maxTokens: 1 }))).ids).toEqual(story.greedy_ids.slice(0, 1));
});

test("ids that no token has are never chosen", async () => {
  const [best = 0] = story.greedy_ids;
  let last = new Float32Array();
  for await (const { values } of model.logits(story.prompt_ids)) last = values.slice(-model.vocabularySize);
  const options = { vocabularySize: best, maxTokens: 1 };
  const greedy = await whole(model.generate(story.prompt_ids, options));
  expect(greedy.ids).toEqual([last.indexOf(Math.max(...last.subarray(0, best)))]);
  const drawn = await whole(model.generate(story.prompt_ids, { ...options, sampling: { temperature: 9, seed: 2 } }));
  expect(drawn.ids[0]).toBeLessThan(best);
});

test("an abort signal ends it", async () => {
  const abort = new AbortController();
  const pieces = model.generate(story.prompt, { signal: abort.signal });
  await pieces.next();
  abort.abort();
  await expect(whole(pieces)).rejects.toMatchObject({ kind: "aborted" });
});

test("dispose leaves nothing on the GPU, also while a generation runs", async () => {
  expect(model.ledger().buffers).toBeGreaterThan(10);
  const pieces = model.generate(story.prompt);
  await pieces.next();
  model.dispose();
  expect(model.ledger()).toMatchObject({ buffers: 0, bytes: 0 });
  await expect(whole(pieces)).rejects.toThrow("disposed");
});
