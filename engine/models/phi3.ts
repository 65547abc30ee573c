/**
 * `Phi3ForCausalLM`: phi-3-mini and phi-3-medium (4k, 128k), phi-3.5-mini, phi-4, phi-4-mini
 * (Hugging Face transformers, models/phi3/modeling_phi3.py).
 * Pre-norm residual blocks with RMSNorm, fused [q | k | v] and [gate | up], no biases.
 */

import type { ConfigReader } from "../files/config.ts";
import type { Graph, Value } from "../graph/graph.ts";
import { add, attention, embed, gatedSilu, linear, outputRows, rmsNorm, ropeAppend } from "../graph/ops.ts";
import type { Weights } from "../graph/weights.ts";
import { type Architecture, expertKeys, limits, readHeads, refuseParts } from "./architecture.ts";
import { type RopeRules, readRope } from "./rope.ts";

interface Phi3Shape {
  readonly hidden: number;
  readonly ffn: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly eps: number;
  /** A query sees this many keys, itself included; undefined: all. */
  readonly window: number | undefined;
}

/** `su` and `yarn` are names that longrope had in the first configs. */
const rotary: RopeRules = {
  theta: 10000,
  partial: 1,
  types: { default: "default", longrope: "longrope", su: "longrope", yarn: "longrope" },
  original: { first: "outside", fallback: 4096 },
};

export function phi3(config: ConfigReader): Architecture {
  const hidden = config.integer("hidden_size", limits.hidden);
  const ffn = config.integer("intermediate_size", limits.ffn);
  const layers = config.integer("num_hidden_layers", limits.layers);
  const vocab = config.integer("vocab_size", limits.vocab);
  const eps = config.number("rms_norm_eps", { above: 0, max: 0.1, fallback: 1e-5 });
  const tied = config.boolean("tie_word_embeddings", false);
  refuseParts(config, expertKeys);
  config.oneOf("hidden_act", ["silu", "swish"], "silu");
  for (const key of ["attention_bias", "mlp_bias", "lm_head_bias"]) {
    if (config.boolean(key, false)) config.fail(key, "false: Phi-3 has no biases");
  }
  const heads = readHeads(config, hidden);
  const maxPositions = config.integer("max_position_embeddings", limits.positions);
  const window = config.has("sliding_window") ? config.integer("sliding_window", limits.positions) : undefined;
  const shape: Phi3Shape = { hidden, ffn, ...heads, eps, window };

  return {
    name: "Phi3ForCausalLM",
    hidden,
    layers,
    vocab,
    ...heads,
    rope: readRope(config, heads.headDim, rotary),
    maxPositions,
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
      x = rmsNorm(g, outputRows(g, x), w.vector("model.norm.weight", hidden), eps);
      g.tap("final_norm", x);
      return linear(g, x, tied ? embedding : w.matrix("lm_head.weight", vocab, hidden, { mayHaveMoreRows: true }));
    },
  };
}

function block(g: Graph, x: Value, w: Weights, c: Phi3Shape, layer: number): Value {
  const normed = rmsNorm(g, x, w.vector("input_layernorm.weight", c.hidden), c.eps);
  const h = add(g, x, selfAttention(g, normed, w.under("self_attn"), c, layer)); // [seq, hidden]
  const again = rmsNorm(g, h, w.vector("post_attention_layernorm.weight", c.hidden), c.eps);
  return add(g, h, mlp(g, again, w.under("mlp"), c)); // [seq, hidden]
}

function selfAttention(g: Graph, h: Value, w: Weights, c: Phi3Shape, layer: number): Value {
  const q = c.heads * c.headDim;
  const kv = c.kvHeads * c.headDim;
  const qkv = linear(g, h, w.matrix("qkv_proj.weight", q + 2 * kv, c.hidden)); // [seq, (heads + 2 kvHeads) headDim]
  const queries = ropeAppend(g, qkv, c, layer); // [seq, heads, headDim], padded
  const mixed = attention(g, queries, c, layer, c.headDim ** -0.5, { window: c.window });
  return linear(g, mixed, w.matrix("o_proj.weight", c.hidden, q)); // [seq, hidden]
}

function mlp(g: Graph, h: Value, w: Weights, c: Phi3Shape): Value {
  const gateUp = linear(g, h, w.matrix("gate_up_proj.weight", c.ffn, c.hidden, { parts: 2 })); // [seq, 2 ffn]
  return linear(g, gatedSilu(g, gateUp), w.matrix("down_proj.weight", c.hidden, c.ffn)); // [seq, hidden]
}
