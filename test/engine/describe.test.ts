import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { describeCheckpoint } from "../../engine/describe.ts";
import { openFolder } from "../../engine/files/disk.ts";
import { failure, tempFolder } from "../tempFolder.ts";

const root = join(import.meta.dirname, "../..");
const corpus = join(root, "test/fixtures/badfiles");
const phiTiny = join(root, "models/phi-tiny");
const read = (path: string) => new Uint8Array(readFileSync(path));

interface Case {
  readonly file: string;
  readonly engine: "accept" | "reject";
  readonly reason: string;
}
const { files } = JSON.parse(readFileSync(join(corpus, "manifest.json"), "utf8")) as { files: readonly Case[] };

const describeAt = async (path: string, options = {}) => describeCheckpoint(await openFolder(path), options);

/** Tensors of a valid file, counted without our reader. */
function tensorCount(bytes: Uint8Array): number {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header: object = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  return Object.keys(header).filter((name) => name !== "__metadata__").length;
}

describe("the corpus as model.safetensors of phi-tiny", () => {
  const config = read(join(phiTiny, "config.json"));

  test.each(files)("$engine $file: $reason", async ({ file, engine }) => {
    const weights = read(join(corpus, file));
    const folder = tempFolder({ "config.json": config, "model.safetensors": weights });
    if (engine === "reject") {
      // The file is at fault, not the tensors that phi-tiny would want of it.
      const error = await failure(describeAt(folder));
      expect(error.message).toMatch(/^model\.safetensors: /);
      expect(error.exitCode).toBe(3);
    } else {
      const description = await describeAt(folder);
      expect(description.tensors).toBe(tensorCount(weights));
      expect(description.model).toBeUndefined();
      expect(description.problem?.exitCode).toBe(3);
      expect(description.problem?.message).toMatch(/expected 89 tensors, got 0; missing: /);
    }
  });

  test.each(files.filter(({ engine }) => engine === "reject").slice(0, 5))(
    "$file without a config",
    async ({ file }) => {
      await failure(describeAt(tempFolder({ "model.safetensors": read(join(corpus, file)) })));
    },
  );
});

test("good headers under a foreign config", async () => {
  const folder = tempFolder({ "config.json": { model_type: "llama" } });
  cpSync(join(phiTiny, "model.safetensors"), join(folder, "model.safetensors"));
  const { tensors, model, problem } = await describeAt(folder);
  expect({ tensors, model }).toEqual({ tensors: 89, model: undefined });
  expect(problem?.message).toContain('config.json: "model_type": expected one of');
});

describe("a model", () => {
  test("parameters by part add up to the elements in the file", async () => {
    const { model, stored, storedBytes } = await describeAt(phiTiny);
    if (!model) throw new Error("no model");
    const { hidden, layers, vocabulary, parametersByPart } = model;
    const ffn = 512;
    expect(parametersByPart).toEqual({
      embedding: vocabulary * hidden,
      attention: layers * 4 * (hidden * hidden + hidden),
      mlp: layers * (2 * hidden * ffn + hidden + ffn),
      norms: (layers + 1) * 2 * hidden,
      head: vocabulary * hidden + vocabulary,
      other: 0,
    });
    expect(Object.values(parametersByPart).reduce((a, b) => a + b)).toBe(model.parameters);
    expect(storedBytes).toBe(2 * model.parameters);
    expect(stored).toEqual([{ dtype: "F16", tensors: 89, bytes: storedBytes }]);
  });

  test("the cache grows with its format and the context", async () => {
    const f16 = (await describeAt(phiTiny, { context: 100 })).model;
    const f32 = (await describeAt(phiTiny, { context: 200, kv: "f32" })).model;
    const int8 = (await describeAt(phiTiny, { context: 200, kv: "int8" })).model;
    expect(int8?.kvBytesPer1000Tokens).toBe(1000 * 6 * 2 * (128 + 4 * 4)); // four heads, a scale each
    expect(f16?.kvBytesPer1000Tokens).toBe(1000 * 6 * 2 * 128 * 2);
    expect(f32?.kvBytesPer1000Tokens).toBe(1000 * 6 * 2 * 128 * 4);
    expect(f16?.needs().kvBytes).toBe(100 * 6 * 2 * 128 * 2);
    expect(f32?.needs().kvBytes).toBe(200 * 6 * 2 * 128 * 4);
  });

  test("a tied head, a window, longrope", async () => {
    const models = join(root, "test/fixtures/models");
    const mini = (await describeAt(join(models, "phi-4-mini"))).model;
    expect(mini).toMatchObject({
      tied: true,
      window: 262144,
      rope: { kind: "longrope", rotary: 24, originalPositions: 32 },
    });
    expect(mini?.parametersByPart.head).toBe(0);
    expect((await describeAt(join(models, "phi-3-mini-4k"))).model).toMatchObject({ tied: false, window: 16 });
  });

  test("a context that it does not have", async () => {
    await failure(describeAt(phiTiny, { context: 1025 }), "usage");
  });

  test("an adapter that binds too little", async () => {
    const limits = { maxStorageBufferBindingSize: 128 * 1024, maxBufferSize: 2 ** 28 };
    const info = { vendor: "v", architecture: "", device: "d", description: "", isFallbackAdapter: false };
    const adapter = { limits, info } as unknown as GPUAdapter;
    const needs = (await describeAt(phiTiny)).model?.needs(adapter);
    expect(needs?.obstacles.join("\n")).toContain(
      "the keys of one layer take 262144 bytes, and it binds at most 131072",
    );
    expect((await describeAt(phiTiny, { context: 64 })).model?.needs(adapter).obstacles).toEqual([]);
  });

  test("only headers are read", async () => {
    const folder = tempFolder({ "config.json": readFileSync(join(phiTiny, "config.json")) });
    const bytes = read(join(phiTiny, "model.safetensors"));
    bytes.fill(0xff, bytes.length - 1_000_000); // NaN
    writeFileSync(join(folder, "model.safetensors"), bytes);
    expect((await describeAt(folder)).problem).toBeUndefined();
  });
});

test("of a mixture of experts a token reads two of four; of the embedding, a row", async () => {
  const { model } = await describeAt(join(root, "test/fixtures/models/phi-3.5-moe-wide-jitter"));
  const [hidden, ffn, vocab, layers] = [128, 96, 256, 2];
  const attention = (6 * 32 + hidden) * hidden; // [q | k | v] of 4 + 1 + 1 heads, and o
  const elements = hidden + layers * (attention + 4 * hidden + 2 * 3 * ffn * hidden) + vocab * hidden;
  expect(model?.needs().weightBytesPerToken).toBe(2 * elements);
});
