/**
 * `PhimoeForCausalLM` (`PhiMoEForCausalLM` in the published config): phi-3.5-MoE
 * (Hugging Face transformers, models/phimoe/modeling_phimoe.py).
 * Pre-norm residual blocks with LayerNorm; in place of an MLP two of the experts, chosen token by token.
 */

import type { ConfigReader } from "../files/config.ts";
import type { Graph, HeadGeometry, Value } from "../graph/graph.ts";
import {
  add,
  attention,
  embed,
  experts,
  layerNorm,
  linear,
  outputRows,
  ropeAppend,
  sparsemixer,
} from "../graph/ops.ts";
import type { VectorRef, Weights } from "../graph/weights.ts";
import { type Architecture, limits, readHeads } from "./architecture.ts";
import { type RopeRules, readRope } from "./rope.ts";

interface PhimoeShape extends HeadGeometry {
  readonly hidden: number;
  readonly ffn: number;
  readonly eps: number;
  readonly attentionBias: boolean;
  /** A query sees this many keys, itself included; undefined: all. */
  readonly window: number | undefined;
  readonly experts: number;
  /** How far from the best expert's score another one counts for its weight. */
  readonly jitter: number;
}

const rotary: RopeRules = {
  theta: 1e6,
  partial: undefined,
  types: { default: "default", longrope: "longrope", su: "longrope" },
  original: { first: "only within" },
};

export function phimoe(config: ConfigReader): Architecture {
  const hidden = config.integer("hidden_size", limits.hidden);
  const ffn = config.integer("intermediate_size", limits.ffn);
  const layers = config.integer("num_hidden_layers", limits.layers);
  const vocab = config.integer("vocab_size", limits.vocab);
  const eps = config.number("rms_norm_eps", { above: 0, max: 0.1, fallback: 1e-5 });
  const tied = config.boolean("tie_word_embeddings", false);
  const headBias = config.boolean("lm_head_bias", false);
  config.oneOf("hidden_act", ["silu", "swish"], "silu");
  const perToken = "num_experts_per_tok";
  if (config.integer(perToken, { ...limits.experts, fallback: 2 }) !== 2)
    config.fail(perToken, "2, as sparsemixer has");
  const heads = readHeads(config, hidden, 8);
  const window = config.has("sliding_window") ? config.integer("sliding_window", limits.positions) : undefined;
  const shape: PhimoeShape = {
    hidden,
    ffn,
    ...heads,
    eps,
    attentionBias: config.boolean("attention_bias", false),
    window,
    experts: config.integer("num_local_experts", { ...limits.experts, fallback: 16 }),
    jitter: config.number("router_jitter_noise", { min: 0, max: 1e6, fallback: 0.01 }),
  };

  return {
    name: "PhimoeForCausalLM",
    hidden,
    layers,
    vocab,
    ...heads,
    rope: readRope(config, heads.headDim, rotary),
    maxPositions: config.integer("max_position_embeddings", limits.positions),
    window,
    layerPattern: /^model\.layers\.(\d+)\./,
    forward(g, w) {
      const embedding = w.matrix("model.embed_tokens.weight", vocab, hidden, { mayHaveMoreRows: true });
      let x = embed(g, embedding); // [seq, hidden]
      g.tap("embed", x);
      for (let layer = 0; layer < layers; layer++) {
        g.scope(`layer.${layer}`);
        x = block(g, x, w.under(`model.layers.${layer}`, { label: false }), shape, layer);
        g.tap(`layer.${layer}`, x);
      }
      g.scope("");
      x = norm(g, outputRows(g, x), w.under("model.norm"), shape);
      g.tap("final_norm", x);
      const head = tied ? embedding : w.matrix("lm_head.weight", vocab, hidden, { mayHaveMoreRows: true });
      const bias = headBias ? w.vector("lm_head.bias", vocab, { mayHaveMoreRows: true }) : undefined;
      return linear(g, x, head, bias); // [rows, vocab]
    },
  };
}

function norm(g: Graph, x: Value, w: Weights, c: PhimoeShape): Value {
  return layerNorm(g, x, w.vector("weight", c.hidden), w.vector("bias", c.hidden), c.eps);
}

function block(g: Graph, x: Value, w: Weights, c: PhimoeShape, layer: number): Value {
  const normed = norm(g, x, w.under("input_layernorm"), c);
  const h = add(g, x, selfAttention(g, normed, w.under("self_attn"), c, layer)); // [seq, hidden]
  const again = norm(g, h, w.under("post_attention_layernorm"), c);
  return sparseMoe(g, again, h, w.under("block_sparse_moe"), c); // [seq, hidden]
}

function selfAttention(g: Graph, h: Value, w: Weights, c: PhimoeShape, layer: number): Value {
  const q = c.heads * c.headDim;
  const kv = c.kvHeads * c.headDim;
  const named = (leaf: "weight" | "bias") =>
    [
      [`q_proj.${leaf}`, q],
      [`k_proj.${leaf}`, kv],
      [`v_proj.${leaf}`, kv],
    ] as const;
  const biasOf = (tensors: Parameters<Weights["vector"]>[0], length: number): VectorRef | undefined =>
    c.attentionBias ? w.vector(tensors, length) : undefined;
  const weight = w.stacked("qkv_proj", named("weight"), c.hidden);
  const qkv = linear(g, h, weight, biasOf(named("bias"), q + 2 * kv)); // [seq, (heads + 2 kvHeads) headDim]
  const queries = ropeAppend(g, qkv, c, layer); // [seq, heads, headDim], padded
  const mixed = attention(g, queries, c, layer, c.headDim ** -0.5, { window: c.window });
  return linear(g, mixed, w.matrix("o_proj.weight", c.hidden, q), biasOf("o_proj.bias", c.hidden)); // [seq, hidden]
}

/** residual + the two experts that the router chose for each row of h, as it weighs them. */
function sparseMoe(g: Graph, h: Value, residual: Value, w: Weights, c: PhimoeShape): Value {
  const scores = linear(g, h, w.matrix("gate.weight", c.experts, c.hidden, { quantizable: false })); // [seq, experts]
  const each = Array.from({ length: c.experts }, (_, expert) => expert);
  const all = (name: string, rows: number) => each.map((e) => [`experts.${e}.${name}.weight`, rows] as const);
  const share = { activeShare: 2 / c.experts };
  const up = w.stacked("experts.w1+w3", [...all("w1", c.ffn), ...all("w3", c.ffn)], c.hidden, { parts: 2, ...share });
  const down = w.stacked("experts.w2", all("w2", c.hidden), c.ffn, share);
  return experts(g, h, sparsemixer(g, scores, c.jitter), { experts: c.experts, up, down }, residual); // [seq, hidden]
}
