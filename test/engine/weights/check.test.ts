/** What is said of checkpoints whose tensors are not those that config.json asks for. */
import { describe, expect, test } from "vitest";
import { describeCheckpoint } from "../../../engine/describe.ts";
import { openFolder } from "../../../engine/files/disk.ts";
import { type DType, safetensorsBytes } from "../../../engine/files/safetensors.ts";
import { declaredTensors } from "../../../engine/models/declared.ts";
import { plain } from "../../../engine/weights/plain.ts";
import { tempFolder } from "../../tempFolder.ts";

const config = {
  ...{ model_type: "phi3", hidden_size: 8, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2 },
  ...{ vocab_size: 12, max_position_embeddings: 16 },
};
const bytes: Partial<Record<DType, number>> = { F64: 8, F32: 4, F16: 2, I8: 1, F8_E4M3: 1, C64: 8 };

/** The model's tensors, of zeros, some renamed, retyped or left out. */
async function described(
  change: (name: string) => { readonly name?: string; readonly dtype?: DType } | undefined,
  more: object = {},
) {
  const tensors = declaredTensors(config).flatMap(({ name, shape }) => {
    const changed = change(name);
    if (changed === undefined) return [];
    const dtype = changed.dtype ?? "F32";
    const size = shape.reduce((product, n) => product * n, 1) * (bytes[dtype] ?? 0);
    return [{ name: changed.name ?? name, dtype, shape, data: new Uint8Array(size) }];
  });
  const files = { "config.json": config, "model.safetensors": safetensorsBytes(tensors), ...more };
  return describeCheckpoint(await openFolder(tempFolder(files)));
}

describe("names", () => {
  test("a common prefix is taken away, with a note", async () => {
    const { model, notes, problem } = await described((name) => ({ name: `base_model.model.${name}` }));
    expect(problem).toBeUndefined();
    expect(model?.layers).toBe(1);
    expect(notes).toHaveLength(1);
  });

  test("what is missing is named beside what was not asked for", async () => {
    const { problem } = await described((name) => ({ name: `${name.includes("mlp") ? "a" : "b"}.${name}` }));
    expect(problem?.message).toMatch(/missing: .*"model\.layers\.0\.mlp\.down_proj\.weight" \[8, 16\]/);
    expect(problem?.message).toMatch(/; not asked for: .*"a\.model\.layers\.0\.mlp\.down_proj\.weight"/);
    expect(problem?.advice).toEqual(['They may be those under "b.": save the model without that prefix.']);
  });

  test("an adapter that is not merged", async () => {
    const { problem } = await described((name) => ({ name: name.replace("qkv_proj.", "qkv_proj.base_layer.") }));
    expect(problem?.message).toMatch(/missing: "model\.layers\.0\.self_attn\.qkv_proj\.weight"/);
    expect(problem?.advice[0]).toMatch(/An adapter is not merged into these weights/);
  });

  test("an adapter's files beside a model are named", async () => {
    const { problem, notes } = await described((name) => ({ name }), { "adapter_config.json": {} });
    expect(problem).toBeUndefined();
    expect(notes).toEqual(["the adapter beside the model (adapter_config.json) is not applied"]);
  });

  test("a tensor that only the index has", async () => {
    const file = "model-00001-of-00001.safetensors";
    const map = Object.fromEntries(declaredTensors(config).map(({ name }) => [name, file]));
    const tensors = declaredTensors(config)
      .filter(({ name }) => name !== "model.norm.weight")
      .map((tensor) => ({
        ...tensor,
        dtype: "F32" as const,
        data: new Uint8Array(4 * tensor.shape.reduce((a, b) => a * b, 1)),
      }));
    const files = {
      "config.json": config,
      "model.safetensors.index.json": { weight_map: map },
      [file]: safetensorsBytes(tensors),
    };
    const { problem } = await describeCheckpoint(await openFolder(tempFolder(files)));
    expect(problem?.message).toMatch(/missing: "model\.norm\.weight" \[8\]$/);
    expect(problem?.advice).toEqual([
      "The index and the files are from different versions of the checkpoint: download both again.",
    ]);
  });
});

describe("types", () => {
  test("float64 is read, with a note", async () => {
    const { problem, notes } = await described((name) => ({ name, dtype: "F64" }));
    expect(problem).toBeUndefined();
    expect(notes).toEqual(["9 tensors of float64 become float32"]);
  });

  test("its numbers are rounded", async () => {
    const data = new Uint8Array(Float64Array.of(1.1, -2.5, 1e300, 3).buffer);
    const tensor = { name: "m", dtype: "F64", shape: [2, 2], file: "f", offsetBytes: 0, sizeBytes: 32 } as const;
    const need = { name: "m", shape: [2, 2], mayHaveMoreRows: false };
    const read = async (_: unknown, offset: number, length: number) => data.subarray(offset, offset + length);
    const source = await plain.open(new Map([["m", tensor]]), need, read);
    if ("problem" in source) throw new Error(source.problem);
    const rows: number[][] = [];
    for await (const { weight } of source.rows(read, 1, 1, source.packing)) {
      rows.push([...new Float32Array(weight.slice().buffer)].slice(0, 2));
    }
    for await (const { weight } of source.rows(read, 0, 1, source.packing)) {
      rows.push([...new Float32Array(weight.slice().buffer)].slice(0, 2));
    }
    expect(rows).toEqual([[Number.POSITIVE_INFINITY, 3], [Math.fround(1.1), -2.5]]); // biome-ignore format: rows
  });

  test.each<[DType, RegExp]>([
    ["F8_E4M3", /^Weights of 8-bit floats are not read: load the original checkpoint/],
    ["I8", /^These are the integers of a quantization that is not read/],
    ["C64", /^Complex numbers are no weights/],
  ])("%s is refused with advice of its own", async (dtype, advice) => {
    const { problem } = await described((name) => ({ name, ...(name.includes("mlp") && { dtype }) }));
    expect(problem?.message).toMatch(new RegExp(`expected F32, F16, BF16 or F64, got ${dtype}`));
    expect(problem?.advice).toHaveLength(1);
    expect(problem?.advice[0]).toMatch(advice);
  });
});
