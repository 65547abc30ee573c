/** A checkpoint that is quantized and written, against the one that is quantized while it is loaded. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { exportQuantized, type LoadOptions, loadModel, type OutputFolder, openFolder } from "../../../engine/index.ts";
import { testAdapter } from "../../gpu.ts";
import { readWeights } from "../../reference/fixture.ts";
import { decodeHalf } from "../../reference/ops.ts";
import { failure, tempFolder } from "../../tempFolder.ts";

const fixtures = join(import.meta.dirname, "../../fixtures/models");

/** Files in memory; every write after the `failAt`-th fails. */
function memoryFolder(failAt = Number.POSITIVE_INFINITY) {
  const files = new Map<string, Uint8Array>();
  const state = { writes: 0, open: 0 };
  const output: OutputFolder = {
    async create(name, sizeBytes) {
      const bytes = new Uint8Array(sizeBytes);
      files.set(name, bytes);
      state.open++;
      return {
        async write(offset, piece) {
          if (state.writes++ >= failAt) throw new Error("disk full");
          bytes.set(piece, offset);
        },
        async close() {
          state.open--;
        },
      };
    },
  };
  return { files, output, state };
}

/** The tensors of a file as words and halves; a test's own reader. */
function readStored(file: Uint8Array) {
  const start = 8 + Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header: Record<string, { data_offsets: [number, number] }> = JSON.parse(
    new TextDecoder().decode(file.subarray(8, start)),
  );
  return Object.entries(header).flatMap(([name, { data_offsets }]) => {
    if (name === "__metadata__") return [];
    const { buffer } = file.slice(start + data_offsets[0], start + data_offsets[1]);
    const words = buffer.byteLength % 4 === 0 ? new Uint32Array(buffer) : new Uint32Array();
    return [[name, { words, halves: new Uint16Array(buffer) }] as const];
  });
}

async function logitsOf(path: string, options: Partial<LoadOptions> = {}): Promise<Float32Array> {
  const model = await loadModel({
    folder: await openFolder(path),
    adapter: await testAdapter(),
    kv: "f32",
    context: 64,
    ...options,
  });
  try {
    for await (const { values } of model.logits([5, 9, 2, 17, 33])) return values;
    throw new Error("no logits");
  } finally {
    model.dispose();
  }
}

const options = async (path: string, output: OutputFolder) => ({
  folder: await openFolder(path),
  adapter: await testAdapter(),
  output,
});

// phi-2: separate q, k and v, biases, several files. Files and strips so small that there are many.
test.each([
  ["phi-2", { weights: "int4", groupSize: 32, shardBytes: 100_000, stripBytes: 1000 }],
  ["phi-4", { weights: "int8", groupSize: 64, symmetric: true }],
] as const)(
  "%s %j: loads as the source quantized while it is loaded, and as other tools read it",
  async (name, form) => {
    const source = join(fixtures, name);
    const { files, output, state } = memoryFolder();
    const sizes: number[] = [];
    const done = await exportQuantized({
      ...(await options(source, output)),
      ...form,
      onSize: (bytes) => sizes.push(bytes),
    });
    expect(state.open).toBe(0);
    expect(done.files.toSorted()).toEqual([...files.keys()].sort());
    expect(sizes).toEqual([done.bytes]);
    const shards = done.files.filter((file) => file.endsWith(".safetensors"));
    expect(shards.length > 1).toBe("shardBytes" in form);
    expect(files.has("model.safetensors.index.json")).toBe(shards.length > 1);

    const path = tempFolder(Object.fromEntries(files));
    const { weights, groupSize } = form;
    const symmetric = "symmetric" in form;
    if (weights === "int4") {
      // The same of 8 bits would prove no more, and pipelines compile slowly.
      const expected = await logitsOf(source, {
        quantize: { weights, head: "none", groupSize, scheme: "integer-zeros" },
      });
      expect(new Uint32Array((await logitsOf(path)).slice().buffer)).toEqual(new Uint32Array(expected.slice().buffer));
    }

    const json = (folder: string) => JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
    const { quantization_config, ...config } = json(path);
    expect(config).toEqual(json(source));
    const bits = weights === "int4" ? 4 : 8;
    const common = { bits, group_size: groupSize, sym: symmetric, desc_act: false };
    expect(quantization_config).toMatchObject({ quant_method: "gptq", checkpoint_format: "gptq_v2", ...common });

    // As other tools read it (../shared/reference/NOTES.md): every module within its steps of the source.
    const before = readWeights(source);
    const after = new Map(shards.flatMap((file) => [...readStored(files.get(file) ?? new Uint8Array())]));
    let modules = 0;
    for (const [module, { shape, values }] of [...before].map(([n, t]) => [n.replace(/\.weight$/, ""), t] as const)) {
      const qweight = after.get(`${module}.qweight`);
      if (qweight === undefined) continue;
      modules++;
      const [rows = 0, cols = 0] = shape;
      const qzeros = after.get(`${module}.qzeros`) ?? qweight;
      const scales = after.get(`${module}.scales`) ?? qweight;
      const group = after.get(`${module}.g_idx`) ?? qweight;
      const perWord = 32 / bits;
      const field = (word: number | undefined, k: number) => ((word ?? 0) >>> ((k % perWord) * bits)) & (2 ** bits - 1);
      expect([...group.words]).toEqual(Array.from({ length: cols }, (_, i) => Math.floor(i / groupSize)));
      let squares = 0;
      let errors = 0;
      for (let o = 0; o < rows; o++) {
        for (let i = 0; i < cols; i++) {
          const g = group.words[i] ?? -1;
          const zero = field(qzeros.words[(g * rows + o - (o % perWord)) / perWord], o);
          const q = field(qweight.words[Math.floor(i / perWord) * rows + o], i);
          const w = decodeHalf(scales.halves[g * rows + o] ?? 0, "f16") * (q - zero);
          const original = values[o * cols + i] ?? 0;
          errors += (w - original) ** 2;
          squares += original ** 2;
        }
      }
      // Random normal weights in 4 bits of 32: about 0.006; in 8 bits 300 times less.
      expect(errors / squares, module).toBeLessThan(bits === 4 ? 0.012 : 1e-4);
    }
    expect(modules).toBe(done.modules);
  },
);

test("what is refused, and a write that fails", async () => {
  const source = join(fixtures, "phi-4");
  const run = async (path: string, more: object, failAt?: number, signal?: AbortSignal) => {
    const { output, state } = memoryFolder(failAt);
    const work = exportQuantized({
      ...(await options(path, output)),
      weights: "int4",
      ...(signal && { signal }),
      ...more,
    });
    return { work, state };
  };
  const quantized = await run(join(fixtures, "phi-4-awq-gemm-g32"), {});
  expect((await failure(quantized.work)).message).toMatch(/"quantization_config": expected none, /);
  const group = await failure((await run(source, { groupSize: 128 })).work, "usage");
  expect(group.message).toMatch(/--group-size: expected a divisor of 448, the columns of tensor ".*", got 128/);
  expect(group.advice).toEqual(["It can be 32, 64 here."]);

  const abort = new AbortController();
  const onProgress = (bytes: number) => bytes > 200_000 && abort.abort();
  const stopped = await run(source, { onProgress }, undefined, abort.signal);
  await failure(stopped.work, "aborted");
  expect(stopped.state.open).toBe(0);
  for (const failAt of [0, 3, 9]) {
    const failed = await run(source, {}, failAt);
    await expect(failed.work).rejects.toThrow("disk full");
    expect(failed.state.open).toBe(0);
  }
});

test.each([
  ["model.layers.1.mlp.down_proj.weight", [3, 7]],
  ["model.embed_tokens.weight", [2, 5]], // copied as it is
  ["model.norm.weight", [4]],
])("a weight of %s that is not finite is named", async (name, place) => {
  const source = join(fixtures, "phi-4");
  const bytes = new Uint8Array(readFileSync(join(source, "model.safetensors")));
  const start = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
  const { data_offsets, shape } = header[name];
  const [row = 0, col = row] = place;
  const element = place.length > 1 ? row * shape[1] + col : row;
  new DataView(bytes.buffer).setUint16(start + data_offsets[0] + 2 * element, 0x7f80, true); // infinite in bf16, NaN in f16
  const path = tempFolder({
    "config.json": readFileSync(join(source, "config.json"), "utf8"),
    "model.safetensors": bytes,
  });
  const { output } = memoryFolder();
  const error = await failure(exportQuantized({ ...(await options(path, output)), weights: "int8" }));
  expect(error.message).toMatch(`tensor "${name}": expected finite numbers, got `);
  expect(error.message).toMatch(` at [${place.join(", ")}]`);
});
