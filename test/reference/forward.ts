/** Whole models from the ops of ops.ts, without a cache: the reference that every layer of an engine can be held to. */

import { type CaseEntry, type ReferenceTensor, readWeights } from "./fixture.ts";
import {
  add,
  attention,
  embed,
  gatedSilu,
  gegeluPairs,
  headNorm,
  layerNorm,
  linear,
  longropeAttentionFactor,
  type Numbers,
  type RopeTable,
  rmsNorm,
  rope,
  ropeTable,
  seesBlocks,
  seesWindow,
  sparsemixer,
  splitQkv,
} from "./ops.ts";

/** A config's geometry, and where its weights are. */
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

type Block = (model: Model, x: Float64Array, layer: number, table: RopeTable) => Float64Array;

/** What differs between architectures. */
interface Family {
  readonly block: Block;
  readonly finalNorm: (model: Model, x: Float64Array) => Float64Array;
  /** From the final norm's rows to logits. */
  readonly head: (model: Model, x: Float64Array) => Float64Array;
}

const families: Readonly<Record<string, Family>> = {
  phi: { block: phiBlock, finalNorm: (m, x) => norm(m, x, "model.final_layernorm"), head: biasedHead },
  phi3: { block: phi3Block, finalNorm: (m, x) => phi3Norm(m, x, "model.norm"), head: plainHead },
  phi3small: { block: phi3smallBlock, finalNorm: (m, x) => norm(m, x, "model.final_layernorm"), head: maskedHead },
  phimoe: { block: phimoeBlock, finalNorm: (m, x) => norm(m, x, "model.norm"), head: biasedHead },
};

/**
 * Loads the checkpoint of `entry` (not quantized), its tensors as `change` makes them; the result runs it on the ids of
 * one prompt.
 */
export function loadForward(
  entry: Pick<CaseEntry, "folder" | "config" | "modelType">,
  change: (name: string, tensor: ReferenceTensor) => ReferenceTensor = (_, tensor) => tensor,
): (ids: readonly number[]) => Forward {
  const { config } = entry;
  const tensors = new Map([...readWeights(entry.folder)].map(([name, tensor]) => [name, change(name, tensor)]));
  const hidden = Number(config.hidden_size);
  const heads = Number(config.num_attention_heads);
  const headDim = hidden / heads;
  const family = families[entry.modelType];
  if (!family) throw new Error(`${entry.folder}: no reference of ${entry.modelType}`);
  const model: Model = {
    config,
    weight: (name) => {
      const tensor = tensors.get(name);
      if (!tensor) throw new Error(`${entry.folder}: no tensor "${name}"`);
      return tensor.values;
    },
    hidden,
    ffn: Number(config.intermediate_size ?? config.ff_intermediate_size),
    heads,
    kvHeads: Number(config.num_key_value_heads ?? heads),
    headDim,
    rotary: Math.floor(headDim * Number(config.partial_rotary_factor ?? (entry.modelType === "phi" ? 0.5 : 1))),
  };
  return (ids) => run(model, family, ids);
}

function run(model: Model, family: Family, ids: readonly number[]): Forward {
  const { config, weight, hidden } = model;
  const table = rotaryTable(model, ids.length);
  const states = new Map<string, Float64Array>();
  const multiplier = Number(config.mup_embedding_multiplier ?? 1);
  let x: Float64Array = embed(weight("model.embed_tokens.weight"), ids, { hidden }).map((value) => multiplier * value);
  states.set("hidden.embed", x);
  for (let k = 0; k < Number(config.num_hidden_layers); k++) {
    x = family.block(model, x, k, table);
    states.set(`hidden.layer.${k}`, x);
  }
  const final = family.finalNorm(model, x);
  states.set("hidden.final_norm", final);
  return { hidden: states, logits: family.head(model, final) };
}

/** Longrope's factors depend on the whole length: the long ones from one past the original context on. */
function rotaryTable(model: Model, seq: number): RopeTable {
  const { config, rotary } = model;
  const scale = Number(config.rope_position_scale ?? 1);
  const positions = Array.from({ length: seq }, (_, t) => t / scale);
  const theta = Number(config.rope_theta ?? config.rope_embedding_base);
  interface Scaling {
    readonly short_factor: number[];
    readonly long_factor: number[];
    readonly short_mscale?: number;
    readonly long_mscale?: number;
    readonly original_max_position_embeddings?: number;
  }
  const scaling = (config.rope_scaling ?? undefined) as Scaling | undefined;
  if (!scaling) return ropeTable({ positions, theta, rotary });
  const original = Number(scaling.original_max_position_embeddings ?? config.original_max_position_embeddings);
  const isLong = seq > original;
  const standard = longropeAttentionFactor(Number(config.max_position_embeddings), original);
  return ropeTable({
    positions,
    theta,
    rotary,
    factors: isLong ? scaling.long_factor : scaling.short_factor,
    attentionFactor: (isLong ? scaling.long_mscale : scaling.short_mscale) ?? standard,
  });
}

function plainHead({ config, weight, hidden }: Model, x: Float64Array): Float64Array {
  const head = weight(config.tie_word_embeddings === true ? "model.embed_tokens.weight" : "lm_head.weight");
  return linear(x, head, { seq: x.length / hidden, rows: Number(config.vocab_size), cols: hidden });
}

function biasedHead(model: Model, x: Float64Array): Float64Array {
  const bias = model.weight("lm_head.bias");
  return plainHead(model, x).map((value, i) => value + (bias[i % bias.length] ?? Number.NaN));
}

/** The embedding is the head; what is not to be chosen gets the most negative float32. */
function maskedHead(model: Model, x: Float64Array): Float64Array {
  const { config } = model;
  const vocab = Number(config.vocab_size);
  const dummies = new Set(config.dummy_token_indices as number[]);
  const sums = plainHead({ ...model, config: { ...config, tie_word_embeddings: true } }, x);
  return sums.map((sum, i) =>
    dummies.has(i % vocab) ? -3.4028234663852886e38 : sum / Number(config.mup_width_multiplier),
  );
}

/** LayerNorm with bias. */
function norm(model: Model, x: Float64Array, name: string): Float64Array {
  const { config, weight, hidden } = model;
  const eps = Number(config.layer_norm_eps ?? config.layer_norm_epsilon ?? config.rms_norm_eps);
  return layerNorm(x, weight(`${name}.weight`), weight(`${name}.bias`), { seq: x.length / hidden, cols: hidden, eps });
}

/** x + attention(ln x) + mlp(ln x), with biases everywhere. */
function phiBlock(model: Model, x: Float64Array, index: number, table: RopeTable): Float64Array {
  const { config, weight, hidden, ffn, heads, kvHeads, headDim, rotary } = model;
  const layer = `model.layers.${index}`;
  const seq = x.length / hidden;
  const shape = { seq, heads, kvHeads, headDim };
  const project = projection(model, layer, seq);

  const h = norm(model, x, `${layer}.input_layernorm`);
  const q = project(h, "self_attn.q_proj", heads * headDim, hidden);
  const k = project(h, "self_attn.k_proj", kvHeads * headDim, hidden);
  const v = project(h, "self_attn.v_proj", kvHeads * headDim, hidden);
  let qkv = fuse([q, k, v], seq);
  if (config.qk_layernorm === true) {
    const part = (name: string): Numbers => weight(`${layer}.self_attn.${name}`);
    const norms = {
      qWeight: part("q_layernorm.weight"),
      qBias: part("q_layernorm.bias"),
      kWeight: part("k_layernorm.weight"),
      kBias: part("k_layernorm.bias"),
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

/** A linear with bias of a layer, by name. */
function projection({ weight }: Model, layer: string, seq: number) {
  return (y: Float64Array, name: string, rows: number, cols: number): Float64Array =>
    linear(y, weight(`${layer}.${name}.weight`), { seq, rows, cols }, { bias: weight(`${layer}.${name}.bias`) });
}

/** Rows of several [seq, cols] arrays set side by side. */
function fuse(parts: readonly Float64Array[], seq: number): Float64Array {
  const rows = Array.from({ length: seq }, (_, t) =>
    parts.flatMap((part) => Array.from(part.subarray((t * part.length) / seq, ((t + 1) * part.length) / seq))),
  );
  return Float64Array.from(rows.flat());
}

function phi3Norm({ config, weight, hidden }: Model, x: Float64Array, name: string): Float64Array {
  const shape = { seq: x.length / hidden, cols: hidden, eps: Number(config.rms_norm_eps) };
  return rmsNorm(x, weight(`${name}.weight`), shape);
}

/** h = x + attention(norm x); h + mlp(norm h); no biases, fused projections. */
function phi3Block(model: Model, x: Float64Array, index: number, table: RopeTable): Float64Array {
  const { config, weight, hidden, ffn, heads, kvHeads, headDim, rotary } = model;
  const layer = `model.layers.${index}`;
  const seq = x.length / hidden;
  const shape = { seq, heads, kvHeads, headDim };

  const rows = (heads + 2 * kvHeads) * headDim;
  const qkv = linear(phi3Norm(model, x, `${layer}.input_layernorm`), weight(`${layer}.self_attn.qkv_proj.weight`), {
    seq,
    rows,
    cols: hidden,
  });
  const { q, k, v } = splitQkv(rope(qkv, table, { ...shape, rotary }), shape);
  const sees = seesWindow(typeof config.sliding_window === "number" ? config.sliding_window : undefined);
  const mixed = attention(q, k, v, { ...shape, keys: seq, sees });
  const o = { seq, rows: hidden, cols: heads * headDim };
  const h = linear(mixed, weight(`${layer}.self_attn.o_proj.weight`), o, { residual: x });

  const gateUp = weight(`${layer}.mlp.gate_up_proj.weight`);
  const inner = linear(
    phi3Norm(model, h, `${layer}.post_attention_layernorm`),
    gateUp,
    { seq, rows: 2 * ffn, cols: hidden },
    {
      activation: "gatedSilu",
    },
  );
  return linear(inner, weight(`${layer}.mlp.down_proj.weight`), { seq, rows: hidden, cols: ffn }, { residual: h });
}

/** Columns `first` … of x [seq, cols]. */
function columns(x: Float64Array, seq: number, first: number, count: number): Float64Array {
  const cols = x.length / seq;
  return Float64Array.from(
    { length: seq * count },
    (_, i) => x[Math.floor(i / count) * cols + first + (i % count)] ?? 0,
  );
}

/** As phi3's, with LayerNorm and biases, qkv in groups, block-sparse attention and gegelu. */
function phi3smallBlock(model: Model, x: Float64Array, index: number, table: RopeTable): Float64Array {
  const { config, hidden, ffn, heads, kvHeads, headDim, rotary } = model;
  const layer = `model.layers.${index}`;
  const seq = x.length / hidden;
  const shape = { seq, heads, kvHeads, headDim };
  const project = projection(model, layer, seq);

  const stored = project(
    norm(model, x, `${layer}.input_layernorm`),
    "self_attn.query_key_value",
    (heads + 2 * kvHeads) * headDim,
    hidden,
  );
  const perGroup = heads / kvHeads;
  const groups = Array.from({ length: kvHeads }, (_, g) => g * (perGroup + 2) * headDim);
  const q = groups.map((first) => columns(stored, seq, first, perGroup * headDim));
  const k = groups.map((first) => columns(stored, seq, first + perGroup * headDim, headDim));
  const v = groups.map((first) => columns(stored, seq, first + (perGroup + 1) * headDim, headDim));
  const turned = splitQkv(rope(fuse([...q, ...k, ...v], seq), table, { ...shape, rotary }), shape);

  const stride = Number(config.blocksparse_vert_stride);
  const blocks = {
    size: Number(config.blocksparse_block_size),
    local: Number(config.blocksparse_num_local_blocks),
    stride,
    headStep: config.blocksparse_homo_head_pattern === true ? 0 : Math.max(1, Math.floor(stride / heads)),
  };
  const isDense = (index + 1) % Number(config.dense_attention_every_n_layers) === 0;
  const scale = config.mup_use_scaling === true ? Number(config.mup_attn_multiplier) / headDim : headDim ** -0.5;
  const sees = isDense ? seesWindow() : seesBlocks(blocks);
  const mixed = attention(turned.q, turned.k, turned.v, { ...shape, keys: seq, scale, sees });
  const h = add(x, project(mixed, "self_attn.dense", hidden, heads * headDim));

  const up = project(norm(model, h, `${layer}.post_attention_layernorm`), "mlp.up_proj", 2 * ffn, hidden);
  return add(h, project(gegeluPairs(up, Number(config.gegelu_limit)), "mlp.down_proj", hidden, ffn));
}

/** As phi's attention with a residual after it, then the two experts that the router chose, weighed and added. */
function phimoeBlock(model: Model, x: Float64Array, index: number, table: RopeTable): Float64Array {
  const { config, weight, hidden, ffn, heads, kvHeads, headDim, rotary } = model;
  const layer = `model.layers.${index}`;
  const seq = x.length / hidden;
  const shape = { seq, heads, kvHeads, headDim };
  const project = projection(model, layer, seq);

  const normed = norm(model, x, `${layer}.input_layernorm`);
  const q = project(normed, "self_attn.q_proj", heads * headDim, hidden);
  const k = project(normed, "self_attn.k_proj", kvHeads * headDim, hidden);
  const v = project(normed, "self_attn.v_proj", kvHeads * headDim, hidden);
  const turned = splitQkv(rope(fuse([q, k, v], seq), table, { ...shape, rotary }), shape);
  const sees = seesWindow(typeof config.sliding_window === "number" ? config.sliding_window : undefined);
  const mixed = attention(turned.q, turned.k, turned.v, { ...shape, keys: seq, sees });
  const h = add(x, project(mixed, "self_attn.o_proj", hidden, heads * headDim));

  const moe = `${layer}.block_sparse_moe`;
  const input = norm(model, h, `${layer}.post_attention_layernorm`);
  const out = Float64Array.from(h);
  for (let t = 0; t < seq; t++) {
    const token = input.subarray(t * hidden, (t + 1) * hidden);
    const rows = Number(config.num_local_experts);
    const scores = linear(token, weight(`${moe}.gate.weight`), { seq: 1, rows, cols: hidden });
    for (const chosen of sparsemixer(scores, Number(config.router_jitter_noise))) {
      const expert = (name: string) => weight(`${moe}.experts.${chosen.expert}.${name}.weight`);
      const up = { seq: 1, rows: ffn, cols: hidden };
      const inner = gatedSilu(fuse([linear(token, expert("w1"), up), linear(token, expert("w3"), up)], 1), {
        seq: 1,
        ffn,
      });
      const down = linear(inner, expert("w2"), { seq: 1, rows: hidden, cols: ffn });
      for (let i = 0; i < hidden; i++)
        out[t * hidden + i] = (out[t * hidden + i] ?? 0) + chosen.weight * (down[i] ?? 0);
    }
  }
  return out;
}
