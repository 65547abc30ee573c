/**
 * `PhiForCausalLM`: phi-1, phi-1.5, phi-2 (Hugging Face transformers, models/phi/modeling_phi.py).
 * One LayerNorm feeds attention and MLP in parallel: x + attention(norm x) + mlp(norm x).
 */

import type { ConfigReader } from "../files/config.ts";
import type { Graph, Value } from "../graph/graph.ts";
import { add, attention, embed, geluNew, headNorm, layerNorm, linear, outputRows, ropeAppend } from "../graph/ops.ts";
import type { Weights } from "../graph/weights.ts";
import { type Architecture, expertKeys, limits, readHeads, refuseParts } from "./architecture.ts";
import { type RopeRules, readRope } from "./rope.ts";

interface PhiShape {
  readonly hidden: number;
  readonly ffn: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly eps: number;
  readonly qkLayernorm: boolean;
}

/** Any of transformers' types: the model's class has no rule of its own. */
const rotary: RopeRules = {
  theta: 10000,
  partial: 0.5,
  types: {
    default: "default",
    linear: "linear",
    dynamic: "dynamic",
    yarn: "yarn",
    llama3: "llama3",
    longrope: "longrope",
    su: "longrope",
  },
  original: { first: "outside" },
};

export function phi(config: ConfigReader): Architecture {
  const hidden = config.integer("hidden_size", limits.hidden);
  const ffn = config.integer("intermediate_size", { ...limits.ffn, fallback: 8192 });
  const layers = config.integer("num_hidden_layers", limits.layers);
  const vocab = config.integer("vocab_size", limits.vocab);
  const eps = config.number("layer_norm_eps", { above: 0, max: 0.1, fallback: 1e-5 });
  const tied = config.boolean("tie_word_embeddings", false);
  const qkLayernorm = config.boolean("qk_layernorm", false);
  refuseParts(config, ["sliding_window", ...expertKeys]);
  config.oneOf("hidden_act", ["gelu_new", "gelu_pytorch_tanh"], "gelu_new");
  const heads = readHeads(config, hidden);
  const shape: PhiShape = { hidden, ffn, ...heads, eps, qkLayernorm };

  return {
    name: "PhiForCausalLM",
    hidden,
    layers,
    vocab,
    ...heads,
    rope: readRope(config, heads.headDim, rotary),
    maxPositions: config.integer("max_position_embeddings", { ...limits.positions, fallback: 2048 }),
    window: undefined,
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
      const norm = w.under("model.final_layernorm");
      x = layerNorm(g, outputRows(g, x), norm.vector("weight", hidden), norm.vector("bias", hidden), eps);
      g.tap("final_norm", x);
      const head = tied ? embedding : w.matrix("lm_head.weight", vocab, hidden, { mayHaveMoreRows: true });
      return linear(g, x, head, w.vector("lm_head.bias", vocab, { mayHaveMoreRows: true })); // [rows, vocab]
    },
  };
}

function block(g: Graph, x: Value, w: Weights, c: PhiShape, layer: number): Value {
  const norm = w.under("input_layernorm");
  const h = layerNorm(g, x, norm.vector("weight", c.hidden), norm.vector("bias", c.hidden), c.eps); // [seq, hidden]
  const mixed = selfAttention(g, h, w.under("self_attn"), c, layer);
  return add(g, add(g, x, mixed), mlp(g, h, w.under("mlp"), c)); // [seq, hidden]
}

function selfAttention(g: Graph, h: Value, w: Weights, c: PhiShape, layer: number): Value {
  const q = c.heads * c.headDim;
  const kv = c.kvHeads * c.headDim;
  const weight = w.stacked(
    "qkv_proj",
    [
      ["q_proj.weight", q],
      ["k_proj.weight", kv],
      ["v_proj.weight", kv],
    ],
    c.hidden,
  );
  const bias = w.vector(
    [
      ["q_proj.bias", q],
      ["k_proj.bias", kv],
      ["v_proj.bias", kv],
    ],
    q + 2 * kv,
  );
  let qkv = linear(g, h, weight, bias); // [seq, (heads + 2 kvHeads) headDim]
  if (c.qkLayernorm) {
    const norms = {
      qGain: w.vector("q_layernorm.weight", c.headDim),
      qBias: w.vector("q_layernorm.bias", c.headDim),
      kGain: w.vector("k_layernorm.weight", c.headDim),
      kBias: w.vector("k_layernorm.bias", c.headDim),
    };
    qkv = headNorm(g, qkv, c, norms, c.eps);
  }
  const queries = ropeAppend(g, qkv, c, layer); // [seq, heads, headDim], padded
  const mixed = attention(g, queries, c, layer, c.headDim ** -0.5, { window: undefined });
  return linear(g, mixed, w.matrix("dense.weight", c.hidden, q), w.vector("dense.bias", c.hidden));
}

function mlp(g: Graph, h: Value, w: Weights, c: PhiShape): Value {
  const up = linear(g, h, w.matrix("fc1.weight", c.ffn, c.hidden), w.vector("fc1.bias", c.ffn)); // [seq, ffn]
  return linear(g, geluNew(g, up), w.matrix("fc2.weight", c.hidden, c.ffn), w.vector("fc2.bias", c.hidden));
}
