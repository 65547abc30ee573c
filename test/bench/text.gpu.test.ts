/** decode, prefill and load on phi-tiny: the figures are those of runs that took place. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { benchLoad } from "../../bench/load.ts";
import { refuseImpossible } from "../../bench/report.ts";
import { benchDecode, benchPrefill, checkedRun, promptIds, timeRun } from "../../bench/text.ts";
import { loadModel, type Model, openFolder } from "../../engine/index.ts";
import { testAdapter } from "../gpu.ts";

const folder = await openFolder("models/phi-tiny");
let model: Model;
beforeAll(async () => {
  model = await loadModel({ folder, adapter: await testAdapter(), context: 64 });
});
afterAll(() => model.dispose());

test("a run generates from an empty cache every time, the same tokens", async () => {
  const prompt = promptIds(9, model.vocabularySize);
  const expected = await checkedRun(model, prompt, 6);
  expect(expected).toHaveLength(6);
  const calls: string[] = [];
  for (let n = 0; n < 2; n++) {
    const marks = { onFirst: () => void calls.push("first"), onLast: () => void calls.push("last") };
    expect((await timeRun(model, prompt, 6, marks)).ids).toEqual(expected);
  }
  expect(calls).toEqual(["first", "last", "first", "last"]);
});

test("decode and prefill rates fit into the time that they took", async () => {
  const began = performance.now();
  const bounds = { weightBytes: 1e7, kvBytesPerPosition: 1e6, window: 10, copyRate: async () => 1e15 };
  const decode = await benchDecode(model, { repetitions: 2, newTokens: 4, depths: [0, 9], bounds });
  const work = (tokens: number) => ({ linears: 1e6 * tokens, attention: 100 * tokens ** 2 });
  const prefillBounds = { work, computeRate: async () => 1e15 };
  const prefill = await benchPrefill(model, { repetitions: 2, promptTokens: [16], bounds: prefillBounds });
  const tookS = (performance.now() - began) / 1000;
  const each = ["  a token", "  of the copy bandwidth"];
  const names = ["decode at depth 0", ...each, "decode at depth 9", ...each, "dispatches"];
  expect(decode.map(({ name }) => name)).toEqual(names);
  const samples = (index: number) => decode[index]?.samples ?? [];
  samples(3).forEach((rate, n) => {
    expect(1000 / (samples(4)[n] ?? 0)).toBeCloseTo(rate, 6);
    // Between the 9th token and the 13th, of which the window has the last ten.
    expect(samples(5)[n]).toBeCloseTo((100 * (10e6 + 10e6) * rate) / 1e15, 12);
  });
  const slow = { ...bounds, copyRate: async () => 1 };
  const impossible = await benchDecode(model, { repetitions: 1, newTokens: 1, depths: [9], bounds: slow });
  expect(() => refuseImpossible(impossible)).toThrow(/of the copy bandwidth: expected above 0 and at most 100 %/);
  expect(prefill.map(({ name }) => name)).toEqual([
    "prefill of 16 tokens",
    "  to the first token",
    "  of multiply-add",
  ]);
  const [rates, firstToken, shares] = prefill.map(({ samples }) => samples);
  rates?.forEach((rate, n) => {
    expect(16_000 / rate).toBeCloseTo(firstToken?.[n] ?? 0, 6);
    expect(shares?.[n]).toBeCloseTo((100 * (16e6 + 25600) * rate) / 16 / 1e15, 12);
  });
  refuseImpossible([...decode, ...prefill]);
  const seconds = (figures: typeof decode, tokens: number) =>
    figures.flatMap(({ unit, samples }) => (unit === "tokens/s" ? samples.map((rate) => tokens / rate) : []));
  const parts = [...seconds(decode, 4), ...seconds(prefill, 16)];
  expect(parts).toHaveLength(6);
  expect(parts.reduce((sum, s) => sum + s, 0)).toBeLessThan(tookS);
});

test("load: rates, and memory that covers the weights", async () => {
  const figures = await benchLoad({
    folder,
    nextAdapter: testAdapter,
    software: true,
    kv: "f16",
    context: 64,
    repetitions: 1,
    newTokens: 2,
    startBytes: 0,
  });
  refuseImpossible(figures);
  const samples = (part: string, unit: string) =>
    figures.find((figure) => figure.name.includes(part) && figure.unit === unit)?.samples ?? [];
  const [weights = 0] = samples("weights", "MiB");
  const seconds = samples("load", "s");
  expect(seconds).toHaveLength(1);
  samples("load", "GB/s").forEach((rate, n) => {
    expect(rate * (seconds[n] ?? 0)).toBeCloseTo((weights * 2 ** 20) / 1e9, 9);
  });
  for (const buffers of samples("GPU buffers", "MiB")) expect(buffers).toBeGreaterThanOrEqual(weights);
  // The process was there before: without its start, memory is more than the weights.
  samples("resident", "MiB").forEach((resident, n) => {
    expect(resident).toBeGreaterThan(weights);
    expect(samples("less the weights", "MiB")[n]).toBeLessThanOrEqual(resident);
  });
});
