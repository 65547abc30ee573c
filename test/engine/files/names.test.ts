/** Tensors under other names than the model's own, and embeddings and heads that are one, or said to be. */
import { describe, expect, test } from "vitest";
import { readConfig } from "../../../engine/files/config.ts";
import { modelNames, tiedHead } from "../../../engine/files/names.ts";
import type { TensorInfo } from "../../../engine/files/safetensors.ts";

const info = (name: string, more: Partial<TensorInfo> = {}): TensorInfo => ({
  ...{ name, dtype: "F32", shape: [4, 2], file: "model.safetensors", offsetBytes: 0, sizeBytes: 32 },
  ...more,
});
const stored = (names: readonly string[]) => new Map(names.map((name) => [name, info(name)]));

const own = [
  "model.embed_tokens.weight",
  "model.layers.0.mlp.fc1.weight",
  "model.layers.1.mlp.fc1.weight",
  "lm_head.weight",
];
const renamedAll = (rename: (name: string) => string) => own.map(rename);

describe("modelNames", () => {
  test.each<[string, readonly string[]]>([
    ["base_model.model.", renamedAll((name) => `base_model.model.${name}`)],
    ["module.", renamedAll((name) => `module.${name}`)],
    ["_orig_mod.", renamedAll((name) => `_orig_mod.${name}`)],
    ["module._orig_mod.", renamedAll((name) => `module._orig_mod.${name}`)],
    ["model. twice", renamedAll((name) => `model.${name}`)],
    ["model. twice but for the head", renamedAll((name) => (name.startsWith("lm_head") ? name : `model.${name}`))],
    ["no model.", renamedAll((name) => name.replace(/^model\./, ""))],
    ["a prefix and no model.", renamedAll((name) => `base_model.${name.replace(/^model\./, "")}`)],
    ["_orig_mod. within", renamedAll((name) => name.replace("layers.0.", "layers.0._orig_mod."))],
    [
      "FSDP's wrappers",
      renamedAll((name) => name.replace("layers.0.", "_fsdp_wrapped_module.layers.0._fsdp_wrapped_module.")),
    ],
  ])("%s", (_, names) => {
    const { tensors, notes } = modelNames(stored(names));
    expect([...tensors.keys()]).toEqual(own);
    expect([...tensors.values()].map(({ name }) => name)).toEqual(own);
    expect(notes).toHaveLength(1);
    expect(notes[0]).toMatch(/^tensors are read under the model's own names: \S+ as \S+$/);
  });

  test.each<[string, readonly string[]]>([
    ["the model's own", own],
    ["others beside the model's own", [...own, "ema.model.layers.0.mlp.fc1.weight"]],
    ["two prefixes", ["a.model.layers.0.x", "b.model.layers.0.x"]],
    [
      "names that would be the same",
      ["module.model.layers.0.x", "model.embed_tokens.weight", "module.model.embed_tokens.weight"],
    ],
    ["no layers", ["module.a", "module.b"]],
  ])("%s are left as they are", (_, names) => {
    const tensors = stored(names);
    expect(modelNames(tensors)).toEqual({ tensors, notes: [] });
  });
});

describe("tiedHead", () => {
  const embedding = "model.embed_tokens.weight";
  const head = "lm_head.weight";
  const bytes = (name: string) => new Uint8Array(32).fill(3).map((_, i) => (name === head && i === 29 ? 4 : 3));
  const config = (fields: object) => readConfig("config.json", new TextEncoder().encode(JSON.stringify(fields)));

  async function resolve(fields: object, tensors: ReadonlyMap<string, TensorInfo>, contents = bytes) {
    const reads: string[] = [];
    const found = await tiedHead(config(fields), tensors, async ({ name }, offset, length) => {
      reads.push(name);
      return contents(name).slice(offset, offset + length);
    });
    const tie = found.config.json("tie_word_embeddings");
    return { tie, names: [...found.tensors.keys()], notes: found.notes, reads };
  }
  const tied = { tie_word_embeddings: true };

  test("both stored and different: not tied", async () => {
    const { tie, names, notes } = await resolve(tied, stored([embedding, head]));
    expect({ tie, names }).toEqual({ tie: false, names: [embedding, head] });
    expect(notes).toEqual([`config.json: "tie_word_embeddings" is not followed: ${head} and ${embedding} differ`]);
  });

  test("both stored and equal: tied", async () => {
    const { tie, notes } = await resolve(tied, stored([embedding, head]), () => bytes(embedding));
    expect({ tie, notes }).toEqual({ tie: true, notes: [] });
  });

  test("sizes or types that differ need no read", async () => {
    for (const other of [info(head, { dtype: "F16" }), info(head, { shape: [5, 2] })]) {
      const { tie, reads } = await resolve(tied, new Map([[embedding, info(embedding)], [head, other]])); // biome-ignore format: short
      expect({ tie, reads }).toEqual({ tie: false, reads: [] });
    }
  });

  test("one of them serves as both", async () => {
    const onlyHead = await resolve(tied, stored([head]));
    expect(onlyHead.names).toEqual([embedding]);
    expect(onlyHead.notes).toEqual([`${head} serves as the embedding too: the files hold no ${embedding}`]);
    expect(await resolve(tied, stored([embedding]))).toEqual({ tie: true, names: [embedding], notes: [], reads: [] });
  });

  test("a quantized head counts", async () => {
    const { tie, notes } = await resolve(tied, stored([embedding, "lm_head.qweight"]));
    expect(tie).toBe(false);
    expect(notes[0]).toMatch(/the files hold a quantized head$/);
  });

  test("where the config does not tie them nothing is read; phi-3-small ties them unsaid", async () => {
    for (const fields of [
      {},
      { tie_word_embeddings: false },
      { tie_word_embeddings: false, model_type: "phi3small" },
    ]) {
      expect((await resolve(fields, stored([embedding, head]))).reads).toEqual([]);
    }
    expect((await resolve({ model_type: "phi3small" }, stored([embedding, head]))).tie).toBe(false);
    expect((await resolve({}, stored([head]))).names).toEqual([head]);
  });
});
