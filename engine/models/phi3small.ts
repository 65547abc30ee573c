/**
 * `Phi3SmallForCausalLM`: phi-3-small, 8k and 128k (the checkpoint's own modeling_phi3_small.py; vLLM,
 * models/phi3_small.py). Pre-norm residual blocks with LayerNorm and biases; µP multipliers; attention that is dense in
 * every n-th layer and block-sparse in the others; gegelu.
 */

import type { ConfigReader } from "../files/config.ts";
import type { Graph, HeadGeometry, Value } from "../graph/graph.ts";
import {
  add,
  attention,
  embed,
  gegelu,
  layerNorm,
  linear,
  outputRows,
  ropeAppend,
  scaleMask,
  type Visible,
} from "../graph/ops.ts";
import type { Weights } from "../graph/weights.ts";
import { type Architecture, expertKeys, limits, readHeads, refuseParts } from "./architecture.ts";
import { type RopeRules, readRope } from "./rope.ts";

interface Phi3SmallShape extends HeadGeometry {
  readonly hidden: number;
  readonly ffn: number;
  readonly eps: number;
  /** Bound of gegelu's inputs. */
  readonly gegeluLimit: number;
  /** Of the attention scores. */
  readonly scale: number;
  /** What a query sees in the layers that are not dense. */
  readonly sparse: Visible;
  /** Each so many-th layer is dense; undefined: none. */
  readonly denseEvery: number | undefined;
}

/** What no token may be: the most negative float32, as in Hugging Face's own masks. */
const never = -3.4028234663852886e38;

const rotary: RopeRules = {
  theta: 1e6,
  partial: 1,
  types: { default: "default", longrope: "longrope", su: "longrope" },
  original: { first: "within" },
  thetaKey: "rope_embedding_base",
  scaleKey: "rope_position_scale",
};

export function phi3small(config: ConfigReader): Architecture {
  const hidden = config.integer("hidden_size", limits.hidden);
  const ffn = config.integer("ff_intermediate_size", limits.ffn);
  if (config.has("ff_dim_multiplier")) config.fail("ff_dim_multiplier", "null, beside an ff_intermediate_size");
  const layers = config.integer("num_hidden_layers", limits.layers);
  const vocab = config.integer("vocab_size", limits.vocab);
  const eps = config.number("layer_norm_epsilon", { above: 0, max: 0.1, fallback: 1e-5 });
  const tied = config.boolean("tie_word_embeddings", true);
  refuseParts(config, ["sliding_window", ...expertKeys]);
  config.oneOf("hidden_act", ["gegelu"], "gegelu");
  const heads = readHeads(config, hidden);
  const embeddingMultiplier = multiplier(config, "mup_embedding_multiplier", 10);
  const widthMultiplier = multiplier(config, "mup_width_multiplier", 8);
  const attentionMultiplier = multiplier(config, "mup_attn_multiplier", 1);
  const shape: Phi3SmallShape = {
    hidden,
    ffn,
    ...heads,
    eps,
    gegeluLimit: isNull(config, "gegelu_limit") ? largest : config.number("gegelu_limit", { above: 0, fallback: 20 }),
    scale: config.boolean("mup_use_scaling", true) ? attentionMultiplier / heads.headDim : heads.headDim ** -0.5,
    sparse: readBlocks(config, heads.heads),
    denseEvery: isNull(config, everyLayers)
      ? undefined
      : config.integer(everyLayers, { ...limits.layers, fallback: 2 }),
  };
  const mask = new Array<number>(vocab).fill(0);
  for (const id of dummyIds(config, vocab)) mask[id] = never;

  return {
    name: "Phi3SmallForCausalLM",
    hidden,
    layers,
    vocab,
    ...heads,
    rope: readRope(config, heads.headDim, rotary),
    maxPositions: config.integer("max_position_embeddings", limits.positions),
    window: undefined,
    layerPattern: /^model\.layers\.(\d+)\./,
    forward(g, w) {
      const embedding = w.matrix("model.embed_tokens.weight", vocab, hidden, { mayHaveMoreRows: true });
      let x = embed(g, embedding, embeddingMultiplier); // [seq, hidden]
      g.tap("embed", x);
      for (let layer = 0; layer < layers; layer++) {
        g.scope(`layer.${layer}`);
        x = block(g, x, w.under(`model.layers.${layer}`, { label: false }), shape, layer);
        g.tap(`layer.${layer}`, x);
      }
      g.scope("");
      x = norm(g, outputRows(g, x), w.under("model.final_layernorm"), shape);
      g.tap("final_norm", x);
      const head = tied ? embedding : w.matrix("lm_head.weight", vocab, hidden, { mayHaveMoreRows: true });
      const logits = linear(g, x, head); // [rows, vocab]
      return scaleMask(g, logits, 1 / widthMultiplier, w.constant("dummy_token_indices", mask));
    },
  };
}

const everyLayers = "dense_attention_every_n_layers";
const largest = 3.4028234663852886e38; // of float32

/** Whether the config says null, which is not the same as saying nothing. */
function isNull(config: ConfigReader, key: string): boolean {
  return config.keys().includes(key) && !config.has(key);
}

/** A µP multiplier: null is none. */
function multiplier(config: ConfigReader, key: string, fallback: number): number {
  return isNull(config, key) ? 1 : config.number(key, { above: 0, max: 1e6, fallback });
}

/** Blocks of the past that a head sees: the last ones, and every n-th, from another one in each head. */
function readBlocks(config: ConfigReader, heads: number): Visible {
  const size = config.integer("blocksparse_block_size", { min: 1, max: 1 << 20, fallback: 64 });
  const local = config.integer("blocksparse_num_local_blocks", { min: 1, max: 1 << 20, fallback: 16 });
  const stride = config.integer("blocksparse_vert_stride", { min: 1, max: 1 << 20, fallback: 8 });
  const isSame = config.boolean("blocksparse_homo_head_pattern", false);
  const headStep = isSame ? 0 : Math.max(1, Math.floor(stride / heads));
  return { blocks: { size, local, stride, headStep } };
}

/**
 * Ids that must never be chosen. The published config does not list them: for its vocabulary they are those of
 * tokenization_phi3_small.py, the padding of the vocabulary and its fill-in-the-middle tokens.
 */
function dummyIds(config: ConfigReader, vocab: number): readonly number[] {
  const key = "dummy_token_indices";
  if (config.keys().includes(key) || vocab !== 100352) return config.integers(key, { min: 0, max: vocab - 1 });
  const tail = Array.from({ length: 100352 - 100267 }, (_, i) => 100267 + i);
  return [100256, 100258, 100259, 100260, 100264, 100265, ...tail];
}

function norm(g: Graph, x: Value, w: Weights, c: Phi3SmallShape): Value {
  return layerNorm(g, x, w.vector("weight", c.hidden), w.vector("bias", c.hidden), c.eps);
}

function block(g: Graph, x: Value, w: Weights, c: Phi3SmallShape, layer: number): Value {
  const normed = norm(g, x, w.under("input_layernorm"), c);
  const h = add(g, x, selfAttention(g, normed, w.under("self_attn"), c, layer)); // [seq, hidden]
  return add(g, h, mlp(g, norm(g, h, w.under("post_attention_layernorm"), c), w.under("mlp"), c)); // [seq, hidden]
}

function selfAttention(g: Graph, h: Value, w: Weights, c: Phi3SmallShape, layer: number): Value {
  const q = c.heads * c.headDim;
  const rows = q + 2 * c.kvHeads * c.headDim;
  const runs = groupRuns(c);
  const weight = w.matrix("query_key_value.weight", rows, c.hidden, { runs });
  const qkv = linear(g, h, weight, w.vector("query_key_value.bias", rows, { runs })); // [seq, (heads + 2 kvHeads) headDim]
  const queries = ropeAppend(g, qkv, c, layer); // [seq, heads, headDim], padded
  const isDense = c.denseEvery !== undefined && (layer + 1) % c.denseEvery === 0;
  const mixed = attention(g, queries, c, layer, c.scale, isDense ? { window: undefined } : c.sparse);
  return linear(g, mixed, w.matrix("dense.weight", c.hidden, q), w.vector("dense.bias", c.hidden));
}

/** `query_key_value` holds a group's q heads, its k and its v, group after group: the rows as [q | k | v]. */
function groupRuns({ heads, kvHeads, headDim }: HeadGeometry): readonly (readonly [first: number, rows: number])[] {
  const ofQ = (heads / kvHeads) * headDim;
  const groups = Array.from({ length: kvHeads }, (_, group) => group * (ofQ + 2 * headDim));
  return [
    ...groups.map((first) => [first, ofQ] as const),
    ...groups.map((first) => [first + ofQ, headDim] as const),
    ...groups.map((first) => [first + ofQ + headDim, headDim] as const),
  ];
}

function mlp(g: Graph, h: Value, w: Weights, c: Phi3SmallShape): Value {
  const weight = w.matrix("up_proj.weight", c.ffn, c.hidden, { parts: 2, alternating: true });
  const up = linear(g, h, weight, w.vector("up_proj.bias", 2 * c.ffn, { alternating: true })); // [seq, 2 ffn]
  const down = w.matrix("down_proj.weight", c.hidden, c.ffn);
  return linear(g, gegelu(g, up, c.gegeluLimit), down, w.vector("down_proj.bias", c.hidden)); // [seq, hidden]
}
