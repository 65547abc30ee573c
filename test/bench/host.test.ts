/** Host time on Dawn's null backend, and the refusal of an adapter that computes nothing. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { benchHost, withSmallBuffers } from "../../bench/host.ts";
import { spread } from "../../bench/report.ts";
import { syntheticFolder } from "../../bench/synthetic.ts";
import { benchDecode, benchPrefill, timeRun } from "../../bench/text.ts";
import { loadModel, type Model } from "../../engine/index.ts";
import { type OpenedAdapter, openAdapter } from "../../library/adapter.ts";
import { failure } from "../tempFolder.ts";

let opened: OpenedAdapter;
beforeAll(async () => {
  opened = await openAdapter({ adapter: "null" });
});
afterAll(() => opened.release());

async function smallBufferAdapter(): Promise<GPUAdapter> {
  const adapter = await opened.gpu.requestAdapter();
  if (adapter === null) throw new Error("no null adapter");
  withSmallBuffers(adapter);
  return adapter;
}

async function withModel(use: (model: Model) => Promise<void>, context = 64): Promise<void> {
  const folder = syntheticFolder({ preset: "phi-2", layers: 3 });
  const model = await loadModel({ folder, adapter: await smallBufferAdapter(), context });
  try {
    await use(model);
  } finally {
    model.dispose();
  }
}

test("a model larger than the null backend's memory loads and decodes", async () => {
  await withModel(async (model) => {
    expect(model.ledger().bytes).toBeGreaterThan(2 ** 29);
    const { ids, firstTokenMs, decodeMs, dispatchesPerToken } = await timeRun(model, [1, 2, 3], 5);
    expect(ids).toHaveLength(5);
    expect(firstTokenMs).toBeGreaterThan(0);
    expect(decodeMs).toBeGreaterThan(0);
    const decode = model.explain().split("\n\n").at(-1) ?? "";
    expect(dispatchesPerToken).toBe(decode.split("\n").length - 1);
  });
});

test("host time of a token, its parts and of a dispatch", async () => {
  const adapter = await opened.gpu.requestAdapter();
  if (adapter === null) throw new Error("no null adapter");
  const options = { preset: "phi-3-mini-4k", layers: 2, kv: "f16", context: 64, newTokens: 8 } as const;
  const { layers, figures } = await benchHost(adapter, { ...options, depths: [0, 40], repetitions: 3 });
  expect(layers).toBe(2);
  expect(figures.map(({ name, unit }) => `${name} ${unit}`)).toEqual([
    ...[0, 40].flatMap((depth) => [
      `host time at depth ${depth} µs/token`,
      "  CPU µs/token",
      "  encode µs/token",
      "  submit µs/token",
      "  read back µs/token",
      `host time at depth ${depth} µs/dispatch`,
    ]),
    "dispatches a token",
  ]);
  const median = (index: number) => spread(figures[index]?.samples ?? []).median;
  const [token, encode, submit, readBack, dispatch] = [0, 2, 3, 4, 5].map(median);
  expect(Math.min(encode ?? 0, submit ?? 0, readBack ?? 0)).toBeGreaterThan(0);
  const dispatches = figures.at(-1)?.samples[0] ?? 0;
  // Medians of the same three runs.
  expect((dispatch ?? 0) * dispatches).toBeCloseTo(token ?? 0, 6);
  expect(figures.every(({ unit, samples }) => samples.length === (unit === "a token" ? 1 : 3))).toBe(true);
});

test("logits that are all the same are refused, for nothing was computed", async () => {
  // As narrow as that the values are in buffers of their full size, to be read back.
  const config = { hidden_size: 64, intermediate_size: 96, num_attention_heads: 4, num_key_value_heads: 4 };
  const folder = syntheticFolder({ preset: "phi-2", layers: 1, config });
  const model = await loadModel({ folder, adapter: await smallBufferAdapter(), context: 64 });
  try {
    const error = await failure(benchDecode(model, { repetitions: 1, newTokens: 2, depths: [0] }), "gpu");
    expect(error.message).toBe("token 0 of the warm-up: expected logits that differ, got all the same");
  } finally {
    model.dispose();
  }
});

test("a context that is too small is refused before anything is measured", async () => {
  await withModel(async (model) => {
    const said: string[] = [];
    const options = { repetitions: 1, onProgress: (text: string) => void said.push(text) };
    const message = "--context: expected at least 65 positions for this, got 64";
    const decode = await failure(benchDecode(model, { ...options, newTokens: 4, depths: [0, 60] }), "usage");
    const prefill = await failure(benchPrefill(model, { ...options, promptTokens: [8, 64] }), "usage");
    expect([decode.message, prefill.message]).toEqual([message, message]);
    expect(said).toEqual([]);
  });
});
