/**
 * A phi model whose modules are stored in all manners at once, against the same model with the dequantized weights in
 * float32. The reference cases of test/models.gpu.test.ts have one manner each, and no stacked modules.
 */
import { expect, onTestFinished, test } from "vitest";
import { safetensorsBytes } from "../../../engine/files/safetensors.ts";
import { loadModel, type Model, openFolder } from "../../../engine/index.ts";
import { testAdapter } from "../../gpu.ts";
import { expectClose, randomValues } from "../../reference/compare.ts";
import {
  evenGroups,
  type ModuleShape,
  randomModule,
  type StoredTensor,
  shuffledGroups,
} from "../../reference/grouped.ts";
import { tempFolder } from "../../tempFolder.ts";

const [hidden, ffn, vocab] = [64, 128, 40];
const config = {
  model_type: "phi",
  hidden_size: hidden,
  intermediate_size: ffn,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  vocab_size: vocab,
  max_position_embeddings: 64,
  eos_token_id: 0,
};

const unequal = { groupOf: Array.from({ length: hidden }, (_, k) => (k < 20 ? 0 : 1)) };

/** How modules are stored, as far as not in 4 bits, natural order and groups of 32. Few pipelines: they compile slowly. */
const modules: Readonly<Record<string, Partial<ModuleShape> | "plain">> = {
  // Orders of their own: a row range each.
  "model.layers.0.self_attn.q_proj": { groupOf: shuffledGroups(1, hidden, 32) },
  "model.layers.0.self_attn.k_proj": { groupOf: shuffledGroups(2, hidden, 32) },
  "model.layers.0.self_attn.v_proj": { groupOf: evenGroups(hidden, 64) },
  "model.layers.0.self_attn.dense": { bits: 8 },
  "model.layers.0.mlp.fc1": unequal,
  "model.layers.0.mlp.fc2": { bits: 8, groupOf: evenGroups(ffn, 64) },
  // Quantized and plain: one of them decides for all.
  "model.layers.1.self_attn.k_proj": "plain",
  "model.layers.1.self_attn.dense": "plain",
  "model.layers.1.mlp.fc1": unequal,
  "model.layers.1.mlp.fc2": "plain",
  lm_head: { rows: 48, groupOf: shuffledGroups(3, hidden, 32) }, // more rows than the vocabulary
};

function tensor(name: string, shape: readonly number[], values: ArrayLike<number>): StoredTensor {
  return { name, dtype: "F32", shape, data: new Uint8Array(Float32Array.from(values).buffer) };
}

/** The tensors of the quantized model, and of the plain one. */
function checkpoints(): { readonly quantized: StoredTensor[]; readonly plain: StoredTensor[] } {
  const quantized: StoredTensor[] = [];
  const plain: StoredTensor[] = [];
  let seed = 1;
  const vector = (name: string, length: number, center: number) => {
    const values = randomValues(seed++, length).map((x) => center + 0.2 * x);
    for (const list of [quantized, plain]) list.push(tensor(name, [length], values));
  };
  const linear = (name: string, rows: number, cols: number) => {
    const how = modules[name] ?? {};
    const shape = { method: "gptq", bits: 4, rows, cols, groupOf: evenGroups(cols, 32), zerosLessOne: true } as const;
    const stored = randomModule(name, seed++, { ...shape, ...(how === "plain" ? {} : how) });
    const weight = tensor(`${name}.weight`, [rows, cols], stored.values.subarray(0, rows * cols));
    plain.push(weight);
    quantized.push(...(how === "plain" ? [weight] : stored.tensors));
    vector(`${name}.bias`, rows, 0);
  };
  const embedding = tensor("model.embed_tokens.weight", [vocab, hidden], randomValues(seed++, vocab * hidden));
  for (const list of [quantized, plain]) list.push(embedding);
  for (const layer of ["model.layers.0", "model.layers.1"]) {
    for (const part of ["q_proj", "k_proj", "v_proj", "dense"]) linear(`${layer}.self_attn.${part}`, hidden, hidden);
    linear(`${layer}.mlp.fc1`, ffn, hidden);
    linear(`${layer}.mlp.fc2`, hidden, ffn);
    vector(`${layer}.input_layernorm.weight`, hidden, 1);
    vector(`${layer}.input_layernorm.bias`, hidden, 0);
  }
  vector("model.final_layernorm.weight", hidden, 1);
  vector("model.final_layernorm.bias", hidden, 0);
  linear("lm_head", vocab, hidden);
  return { quantized, plain };
}

async function load(tensors: readonly StoredTensor[], more: object = {}): Promise<Model> {
  const files = { "config.json": { ...config, ...more }, "model.safetensors": safetensorsBytes(tensors) };
  const model = await loadModel({
    folder: await openFolder(tempFolder(files)),
    adapter: await testAdapter(),
    kv: "f32",
  });
  onTestFinished(() => model.dispose());
  return model;
}

test("modules stored in all manners compute what their dequantized weights do", async () => {
  const { quantized, plain } = checkpoints();
  const dynamic = { "+:.*": {} };
  const quantization_config = { quant_method: "gptq", bits: 4, group_size: 32, desc_act: true, sym: false, dynamic };
  const models = [await load(quantized, { quantization_config }), await load(plain)];
  const ids = [3, 17, 39, 0, 5, 22, 8];
  const results: Float32Array[] = [];
  const tokens: number[][] = [];
  for (const model of models) {
    for await (const { values } of model.logits(ids)) results.push(values);
    const generated: number[] = [];
    for await (const { id } of model.generate(ids, { maxTokens: 5, ignoreEos: true })) generated.push(id);
    tokens.push(generated);
  }
  const [actual = new Float32Array(), expected = new Float32Array()] = results;
  expect(actual.length).toBe(ids.length * vocab);
  const why = "the same float32 weights; only the order of the sums differs, 1e-6 of what is summed";
  expectClose(actual, expected, { atol: 2e-5, shape: [ids.length, vocab], why });
  expect(tokens[0]).toEqual(tokens[1]);
});
