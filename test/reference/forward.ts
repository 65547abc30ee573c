/** Whole models from the ops of ops.ts, without a cache: the reference that every layer of an engine can be held to. */

import { type CaseEntry, readWeights } from "./fixture.ts";
import {
  add,
  attention,
  embed,
  headNorm,
  layerNorm,
  linear,
  longropeAttentionFactor,
  type Numbers,
  type RopeTable,
  rmsNorm,
  rope,
  ropeTable,
  splitQkv,
} from "./ops.ts";

/** The geometry of a phi or phi3 config, and where its weights are. */
interface Model {
  readonly config: CaseEntry["config"];
  readonly weight: (name: string) => Numbers;
  readonly hidden: number;
  readonly ffn: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly rotary: number;
}

/** Hidden states by name (hidden.embed, hidden.layer.0 …, hidden.final_norm), each [seq, hidden], and logits [seq, vocab]. */
export interface Forward {
  readonly hidden: ReadonlyMap<string, Float64Array>;
  readonly logits: Float64Array;
}

/** Loads the checkpoint of `entry` (phi or phi3, not quantized); the result runs it on the ids of one prompt. */
export function loadForward(entry: CaseEntry): (ids: readonly number[]) => Forward {
  const { config } = entry;
  const tensors = readWeights(entry.folder);
  const hidden = Number(config.hidden_size);
  const heads = Number(config.num_attention_heads);
  const headDim = hidden / heads;
  const isPhi = entry.modelType === "phi";
  const model: Model = {
    config,
    weight: (name) => {
      const tensor = tensors.get(name);
      if (!tensor) throw new Error(`${entry.folder}: no tensor "${name}"`);
      return tensor.values;
    },
    hidden,
    ffn: Number(config.intermediate_size),
    heads,
    kvHeads: Number(config.num_key_value_heads ?? heads),
    headDim,
    rotary: Math.floor(headDim * Number(config.partial_rotary_factor ?? (isPhi ? 0.5 : 1))),
  };
  return (ids) => run(model, isPhi ? phiBlock : phi3Block, isPhi, ids);
}

type Block = (model: Model, x: Float64Array, layer: string, table: RopeTable) => Float64Array;

function run(model: Model, block: Block, isPhi: boolean, ids: readonly number[]): Forward {
  const { config, weight, hidden } = model;
  const seq = ids.length;
  const table = rotaryTable(model, seq);
  const states = new Map<string, Float64Array>();
  let x = embed(weight("model.embed_tokens.weight"), ids, { hidden });
  states.set("hidden.embed", x);
  for (let k = 0; k < Number(config.num_hidden_layers); k++) {
    x = block(model, x, `model.layers.${k}`, table);
    states.set(`hidden.layer.${k}`, x);
  }
  const final = isPhi
    ? phiNorm(model, x, "model.final_layernorm")
    : rmsNorm(x, weight("model.norm.weight"), { seq, cols: hidden, eps: Number(config.rms_norm_eps) });
  states.set("hidden.final_norm", final);
  const head = weight(config.tie_word_embeddings === true ? "model.embed_tokens.weight" : "lm_head.weight");
  const shape = { seq, rows: Number(config.vocab_size), cols: hidden };
  return { hidden: states, logits: linear(final, head, shape, isPhi ? { bias: weight("lm_head.bias") } : {}) };
}

/** Longrope's factors depend on the whole length: the long ones from one past the original context on. */
function rotaryTable(model: Model, seq: number): RopeTable {
  const { config, rotary } = model;
  const positions = Array.from({ length: seq }, (_, t) => t);
  const theta = Number(config.rope_theta);
  const scaling = config.rope_scaling as { short_factor: number[]; long_factor: number[] } | null;
  if (!scaling) return ropeTable({ positions, theta, rotary });
  const original = Number(config.original_max_position_embeddings);
  return ropeTable({
    positions,
    theta,
    rotary,
    factors: seq > original ? scaling.long_factor : scaling.short_factor,
    attentionFactor: longropeAttentionFactor(Number(config.max_position_embeddings), original),
  });
}

function phiNorm(model: Model, x: Float64Array, name: string): Float64Array {
  const { config, weight, hidden } = model;
  const eps = Number(config.layer_norm_eps);
  return layerNorm(x, weight(`${name}.weight`), weight(`${name}.bias`), { seq: x.length / hidden, cols: hidden, eps });
}

/** x + attention(ln x) + mlp(ln x), with biases everywhere. */
function phiBlock(model: Model, x: Float64Array, layer: string, table: RopeTable): Float64Array {
  const { config, weight, hidden, ffn, heads, kvHeads, headDim, rotary } = model;
  const seq = x.length / hidden;
  const shape = { seq, heads, kvHeads, headDim };
  const project = (y: Float64Array, name: string, rows: number, cols: number): Float64Array =>
    linear(y, weight(`${layer}.${name}.weight`), { seq, rows, cols }, { bias: weight(`${layer}.${name}.bias`) });

  const h = phiNorm(model, x, `${layer}.input_layernorm`);
  const q = project(h, "self_attn.q_proj", heads * headDim, hidden);
  const k = project(h, "self_attn.k_proj", kvHeads * headDim, hidden);
  const v = project(h, "self_attn.v_proj", kvHeads * headDim, hidden);
  let qkv = fuse([q, k, v], seq);
  if (config.qk_layernorm === true) {
    const norm = (part: string): Numbers => weight(`${layer}.self_attn.${part}`);
    const norms = {
      qWeight: norm("q_layernorm.weight"),
      qBias: norm("q_layernorm.bias"),
      kWeight: norm("k_layernorm.weight"),
      kBias: norm("k_layernorm.bias"),
    };
    qkv = headNorm(qkv, norms, { ...shape, eps: Number(config.layer_norm_eps) });
  }
  const turned = splitQkv(rope(qkv, table, { ...shape, rotary }), shape);
  const mixed = attention(turned.q, turned.k, turned.v, { ...shape, keys: seq });
  const attended = project(mixed, "self_attn.dense", hidden, heads * headDim);

  const fc1 = { bias: weight(`${layer}.mlp.fc1.bias`), activation: "gelu_new" } as const;
  const inner = linear(h, weight(`${layer}.mlp.fc1.weight`), { seq, rows: ffn, cols: hidden }, fc1);
  return add(x, attended, project(inner, "mlp.fc2", hidden, ffn));
}

/** Rows of several [seq, cols] arrays set side by side. */
function fuse(parts: readonly Float64Array[], seq: number): Float64Array {
  const rows = Array.from({ length: seq }, (_, t) =>
    parts.flatMap((part) => Array.from(part.subarray((t * part.length) / seq, ((t + 1) * part.length) / seq))),
  );
  return Float64Array.from(rows.flat());
}

/** h = x + attention(norm x); h + mlp(norm h); no biases, fused projections. */
function phi3Block(model: Model, x: Float64Array, layer: string, table: RopeTable): Float64Array {
  const { config, weight, hidden, ffn, heads, kvHeads, headDim, rotary } = model;
  const seq = x.length / hidden;
  const shape = { seq, heads, kvHeads, headDim };
  const norm = (y: Float64Array, name: string): Float64Array =>
    rmsNorm(y, weight(`${layer}.${name}.weight`), { seq, cols: hidden, eps: Number(config.rms_norm_eps) });

  const rows = (heads + 2 * kvHeads) * headDim;
  const qkv = linear(norm(x, "input_layernorm"), weight(`${layer}.self_attn.qkv_proj.weight`), {
    seq,
    rows,
    cols: hidden,
  });
  const { q, k, v } = splitQkv(rope(qkv, table, { ...shape, rotary }), shape);
  const window = typeof config.sliding_window === "number" ? config.sliding_window : undefined;
  const mixed = attention(q, k, v, { ...shape, keys: seq, window });
  const o = { seq, rows: hidden, cols: heads * headDim };
  const h = linear(mixed, weight(`${layer}.self_attn.o_proj.weight`), o, { residual: x });

  const gateUp = weight(`${layer}.mlp.gate_up_proj.weight`);
  const inner = linear(
    norm(h, "post_attention_layernorm"),
    gateUp,
    { seq, rows: 2 * ffn, cols: hidden },
    {
      activation: "gatedSilu",
    },
  );
  return linear(inner, weight(`${layer}.mlp.down_proj.weight`), { seq, rows: hidden, cols: ffn }, { residual: h });
}
