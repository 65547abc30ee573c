import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import {
  planSynthetic,
  type SyntheticPreset,
  syntheticFolder,
  syntheticPresets,
  writeSynthetic,
} from "../../bench/synthetic.ts";
import { openCheckpoint } from "../../engine/index.ts";

import { listCases, readWeights } from "../reference/fixture.ts";

const root = mkdtempSync(join(tmpdir(), "phi-webgpu-synthetic-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const small = {
  vocab_size: 101,
  hidden_size: 64,
  intermediate_size: 96,
  num_attention_heads: 4,
  num_key_value_heads: 2,
};

/** Mean and standard deviation. */
function moments(values: Float32Array): readonly [number, number] {
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
  return [mean, Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length)];
}

describe("plans", () => {
  // The parameter counts that the models are published with.
  test.each<[SyntheticPreset, number]>([
    ["phi-2", 2_779_683_840],
    ["phi-3-mini-4k", 3_821_079_552],
    ["phi-3-medium-4k", 13_960_238_080],
    ["phi-4", 14_659_507_200],
    ["phi-4-mini", 3_836_021_760],
    ["smollm2", 134_515_008],
  ])("%s has the published number of parameters", (preset, parameters) => {
    expect(planSynthetic({ preset }).parameters).toBe(parameters);
  });

  test.each([
    ["phi-2", "phi-2"],
    ["phi-2", "phi-2-qk-layernorm"],
    ["phi-3-mini-4k", "phi-3-mini-4k"],
    ["phi-4-mini", "phi-4-mini"],
  ] as const)("%s with the config of case %s has that checkpoint's tensors", (preset, name) => {
    const [entry] = listCases((found) => found.name === name);
    const { tensors } = planSynthetic({ preset, config: entry?.config });
    const planned = new Map(tensors.map((tensor) => [tensor.name, tensor.shape]));
    const stored = [...readWeights(entry?.folder ?? "")].map(([key, { shape }]) => [key, shape] as const);
    expect(planned).toEqual(new Map(stored));
  });
});

describe("files", () => {
  const write = (folder: string, options: Partial<Parameters<typeof writeSynthetic>[0]> = {}) =>
    writeSynthetic({ preset: "phi-2", layers: 2, config: small, out: join(root, folder), ...options });

  test.each(["f16", "bf16", "f32"] as const)(
    "%s weights are N(0, 0.02) and norms around 1, all finite",
    async (dtype) => {
      const { files, parameters, folder } = await write(`dtype-${dtype}`, { dtype });
      expect(files).toEqual(["model.safetensors"]);
      const weights = readWeights(folder);
      let count = 0;
      for (const [name, { values }] of weights) {
        count += values.length;
        expect(values.every(Number.isFinite), name).toBe(true);
        const [mean, deviation] = moments(values);
        expect(Math.abs(mean - (/norm.weight$/.test(name) ? 1 : 0)), name).toBeLessThan(0.02);
        expect(Math.abs(deviation - 0.02), name).toBeLessThan(0.012);
      }
      expect(count).toBe(parameters);
      const embedding = weights.get("model.embed_tokens.weight")?.values ?? new Float32Array();
      const rows = new Set(Array.from({ length: 101 }, (_, r) => embedding.slice(r * 64, r * 64 + 64).join()));
      expect(rows.size).toBe(101);
    },
  );

  test("the dtypes hold the same numbers, each rounded", async () => {
    const [f32, f16, bf16] = await Promise.all(
      (["f32", "f16", "bf16"] as const).map(async (dtype) =>
        readWeights((await write(`same-${dtype}`, { dtype })).folder),
      ),
    );
    const worst = (rounded: typeof f32, name: string): number => {
      const exact = f32?.get(name)?.values ?? new Float32Array();
      const differences = rounded?.get(name)?.values.map((v, i) => Math.abs(v / (exact[i] ?? 0) - 1));
      return Math.max(...(differences ?? [Number.NaN]).filter((_, i) => Math.abs(exact[i] ?? 0) > 2 ** -14));
    };
    for (const name of ["lm_head.weight", "model.layers.1.input_layernorm.weight"]) {
      expect(worst(f16, name)).toBeGreaterThan(2 ** -13);
      expect(worst(f16, name)).toBeLessThanOrEqual(2 ** -11);
      expect(worst(bf16, name)).toBeGreaterThan(2 ** -10);
      expect(worst(bf16, name)).toBeLessThanOrEqual(2 ** -8);
    }
  });

  test("shards keep to their size and the index names every tensor", async () => {
    const shardBytes = 40_000;
    const { files, folder, tensorBytes } = await write("shards", { shardBytes });
    expect(files.length).toBeGreaterThan(2);
    const index = JSON.parse(readFileSync(join(folder, "model.safetensors.index.json"), "utf8"));
    expect(index.metadata.total_size).toBe(tensorBytes);
    expect(Object.keys(index.weight_map).sort()).toEqual([...readWeights(folder).keys()].sort());
    expect(new Set(Object.values(index.weight_map))).toEqual(new Set(files));
    for (const file of files) expect(statSync(join(folder, file)).size).toBeLessThan(shardBytes + 4000);
  });

  test("the seed decides the bytes", async () => {
    const bytes = async (folder: string, seed: number): Promise<Buffer> =>
      readFileSync(join((await write(folder, { seed })).folder, "model.safetensors"));
    const first = await bytes("seed-a", 5);
    expect(first.equals(await bytes("seed-b", 5))).toBe(true);
    expect(first.equals(await bytes("seed-c", 6))).toBe(false);
  });

  test("a folder with files is refused", async () => {
    await write("used");
    await expect(write("used")).rejects.toThrow("expected a new or empty folder");
  });
});

test("every preset is planned with whole heads", () => {
  for (const preset of syntheticPresets) {
    for (const { shape } of planSynthetic({ preset }).tensors) expect(shape.every(Number.isInteger)).toBe(true);
  }
});

describe("in memory", () => {
  test("the folder is the written one with zeros for data", async () => {
    const options = { preset: "phi-2", layers: 2, config: small } as const;
    const { folder } = await writeSynthetic({ ...options, out: join(root, "memory") });
    const memory = syntheticFolder(options);
    expect(await memory.list()).toEqual(["config.json", "generation_config.json", "model.safetensors"]);
    for (const name of await memory.list()) {
      const source = await memory.open(name);
      const written = readFileSync(join(folder, name));
      expect(source?.sizeBytes).toBe(written.length);
      const bytes = await source?.read(0, written.length);
      const headerBytes = name.endsWith(".json") ? written.length : 8 + Number(written.readBigUInt64LE(0));
      expect(Buffer.from(bytes?.subarray(0, headerBytes) ?? [])).toEqual(written.subarray(0, headerBytes));
      expect(bytes?.subarray(headerBytes).every((byte) => byte === 0)).toBe(true);
      // Ranges: across the header's end, into a buffer that held something else.
      const from = Math.max(0, headerBytes - 3);
      const count = Math.min(10, written.length - from);
      const range = await source?.read(from, count, new Uint8Array(20).fill(7));
      expect(range).toEqual(bytes?.slice(from, from + count));
      await expect(source?.read(written.length - 1, 2)).rejects.toThrow("got the end at byte");
    }
    expect(await memory.open("tokenizer.json")).toBeUndefined();
  });

  test.each(syntheticPresets)("%s opens as a checkpoint with its planned tensors", async (preset) => {
    const checkpoint = await openCheckpoint(syntheticFolder({ preset }));
    const planned = planSynthetic({ preset }).tensors.map(({ name, shape }) => [name, shape]);
    expect([...checkpoint.tensors].map(([name, { shape }]) => [name, shape])).toEqual(planned);
    await checkpoint.close();
  });
});
