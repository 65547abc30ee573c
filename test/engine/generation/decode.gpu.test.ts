/**
 * Tokens that the GPU chooses, several in a submit, against those that the host chooses from the logits of one step at a
 * time. The calls follow each other on one cache and end in every way there is.
 */
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import {
  type GenerateOptions,
  type GenerationResult,
  loadModel,
  type Model,
  openFolder,
  type SamplingOptions,
} from "../../../engine/index.ts";
import { testAdapter } from "../../gpu.ts";
import { seededRandom } from "../../reference/compare.ts";

/** A sliding window of 16 over a cache of 24 rows; longrope's switch at 32 positions. */
const cases = ["phi-3-mini-4k", "phi-3-mini-128k"];
const context = 72;

/** The same random numbers, and rounding that differs by 1e-5 of the sum of weights at most: these draws are the same. */
const samplings: readonly SamplingOptions[] = [
  {},
  {},
  { temperature: 0.8, seed: 1 },
  { temperature: 1.5, topK: 30, topP: 0.9, minP: 0.01, seed: 2n ** 64n - 1n },
  { repetitionPenalty: 1.2, frequencyPenalty: 0.3 },
  { temperature: 1, presencePenalty: 0.5, repetitionPenalty: 0.9, logitBias: new Map([[7, 2]]), seed: 3 },
  { temperature: 1, logitBias: new Map([[9, 1e6]]), seed: 3 },
];

interface Outcome {
  readonly ids: readonly number[];
  readonly end: GenerationResult["finishReason"] | "left" | "aborted";
}

type Leave = { readonly after: number; readonly how: "stop" | "left" | "aborted" };

async function outcome(
  model: Model,
  prompt: readonly number[],
  options: GenerateOptions,
  leave?: Leave,
): Promise<Outcome> {
  const ids: number[] = [];
  const abort = new AbortController();
  const tokens = model.generate(prompt, { ...options, signal: abort.signal });
  try {
    let isEnough = false;
    for (;;) {
      const step = await tokens.next(isEnough);
      if (step.done) {
        expect(step.value.stats.newTokens).toBe(ids.length);
        return { ids, end: step.value.finishReason };
      }
      ids.push(step.value.id);
      if (ids.length !== leave?.after) continue;
      if (leave.how === "left") {
        await tokens.return(undefined as never);
        return { ids, end: "left" };
      }
      if (leave.how === "aborted") abort.abort();
      else isEnough = true;
    }
  } catch (error) {
    expect(error).toMatchObject({ kind: "aborted" });
    return { ids, end: "aborted" };
  }
}

describe.each(cases)("%s", (name) => {
  const folder = fileURLToPath(new URL(`../../fixtures/models/${name}`, import.meta.url));
  const opened: Promise<Model>[] = [];
  const open = (): Promise<Model> => {
    const model = (async () => {
      const options = { folder: await openFolder(folder), adapter: await testAdapter(), context, chunkTokens: 8 };
      return loadModel({ ...options, kv: "f32" });
    })();
    opened.push(model);
    return model;
  };
  afterAll(async () => {
    for (const model of await Promise.all(opened)) model.dispose();
  });

  test("calls that end by a stop id, the limit, the context or their consumer", async () => {
    const [many, single] = await Promise.all([open(), open()]);
    const random = seededRandom(21);
    const below = (n: number) => Math.floor(random() * n);
    let sequence: readonly number[] = Array.from({ length: 20 }, () => below(many.vocabularySize));
    const ends = new Set<string>();
    for (let call = 0; call < 12; call++) {
      // A prompt that shares what it can with what is cached: most of it, or all and some more.
      const kept = sequence.slice(0, Math.max(1, Math.min(context - 2, sequence.length - below(8))));
      const prompt = [...kept, ...Array.from({ length: below(3) }, () => below(many.vocabularySize))].slice(0, context);
      const maxTokens = call % 6 === 4 ? 200 : 1 + below(10);
      const sampling = samplings[below(samplings.length)] ?? {};
      const plain = { maxTokens, sampling, ignoreEos: true };
      const whole = await outcome(single, prompt, { ...plain, logprobs: true });
      // A third of the calls end at a token that is made a stop id: where it first appears.
      const stopId = call % 3 === 0 ? whole.ids[below(whole.ids.length)] : undefined;
      const stopAt = stopId === undefined ? -1 : whole.ids.indexOf(stopId);
      const leave = ([undefined, "left", "aborted", "stop"] as const)[call % 4];
      const after = 1 + below(Math.min(maxTokens, 6));
      let expected: Outcome = stopAt < 0 ? whole : { ids: whole.ids.slice(0, stopAt + 1), end: "eos" };
      // Who leaves with the last token is too late, but for one who says so.
      const inTime = leave === "stop" ? after <= expected.ids.length : after < expected.ids.length;
      if (leave !== undefined && (inTime || (leave === "left" && after === expected.ids.length))) {
        expected = { ids: whole.ids.slice(0, after), end: leave };
      }
      const stepsPerSubmit = [1, 2, 3, 32][below(4)] ?? 1;
      const options = {
        ...(stopId === undefined ? plain : { maxTokens, sampling, stopIds: [stopId] }),
        stepsPerSubmit,
      };
      const actual = await outcome(many, prompt, options, leave && { after, how: leave });
      expect(
        actual,
        `call ${call}: ${prompt.length} tokens, stop at ${stopId}, ${stepsPerSubmit} steps, sampling ${samplings.indexOf(sampling)}`,
      ).toEqual(expected);
      ends.add(actual.end);
      sequence = [...prompt, ...actual.ids];
      if (sequence.length >= context) sequence = sequence.slice(0, 12);
    }
    expect([...ends].toSorted()).toEqual(["aborted", "context", "eos", "left", "length", "stop"]);
  });

  test("more stop ids than the GPU looks for, and steps by time", async () => {
    const [many, single] = await Promise.all(opened);
    if (many === undefined || single === undefined) throw new Error("no models");
    const prompt = [5, 6, 7];
    const { ids } = await outcome(single, prompt, { maxTokens: 30, ignoreEos: true, logprobs: true });
    expect(await outcome(many, prompt, { maxTokens: 30, ignoreEos: true })).toEqual({ ids, end: "length" });
    const first = ids.slice(0, ids.indexOf(ids[20] ?? -1) + 1);
    const unused = Array.from({ length: many.vocabularySize }, (_, id) => id).filter((id) => !ids.includes(id));
    const stopIds = [...unused.slice(0, 64), ids[20] ?? -1];
    expect(await outcome(many, prompt, { maxTokens: 30, stopIds, stepsPerSubmit: 4 })).toEqual({
      ids: first,
      end: "eos",
    });
    expect(await outcome(many, prompt, { maxTokens: 30, ignoreEos: true })).toEqual({ ids, end: "length" });
  });
});
