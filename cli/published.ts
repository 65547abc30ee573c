/**
 * The text models of Microsoft's Phi family on the Hugging Face hub, by the geometry of their config.json. Sizes are
 * computed from it by the engine (cli/models.ts), so only what no size follows from is written down here.
 *
 * Sources: each model's card and config.json on huggingface.co; the configs as litgpt (litgpt/config.py) and other
 * public repositories quote them. Fields that change neither sizes nor tensors are left out. longrope's factors have
 * the right number and no particular values, but for phi-4-mini.
 */
import type { Config } from "../engine/index.ts";

export interface PublishedModel {
  /** On the hub. */
  readonly name: string;
  readonly licence: string;
  readonly config: Config;
  /** The tiny reference checkpoints of the same architecture that the tests compare every layer of. */
  readonly verifiedBy: string;
}

const mit = { licence: "MIT" };

const phi: Config = {
  architectures: ["PhiForCausalLM"],
  model_type: "phi",
  hidden_act: "gelu_new",
  layer_norm_eps: 1e-5,
  rope_theta: 10000.0,
  rope_scaling: null,
  qk_layernorm: false,
  tie_word_embeddings: false,
  vocab_size: 51200,
  max_position_embeddings: 2048,
  torch_dtype: "float16",
};

/** phi-1 and phi-1.5 differ in nothing but their weights. */
const phi1: Config = {
  ...phi,
  hidden_size: 2048,
  intermediate_size: 8192,
  num_hidden_layers: 24,
  num_attention_heads: 32,
  num_key_value_heads: null,
  partial_rotary_factor: 0.5,
  bos_token_id: null,
  eos_token_id: null,
};

const phi3: Config = {
  architectures: ["Phi3ForCausalLM"],
  model_type: "phi3",
  hidden_act: "silu",
  rms_norm_eps: 1e-5,
  rope_theta: 10000.0,
  rope_scaling: null,
  attention_bias: false,
  tie_word_embeddings: false,
  vocab_size: 32064,
  max_position_embeddings: 4096,
  original_max_position_embeddings: 4096,
  bos_token_id: 1,
  eos_token_id: 32000,
  pad_token_id: 32000,
  torch_dtype: "bfloat16",
};

const factors = (count: number) => Array<number>(count).fill(1.0);

const longrope = (rotary: number, more: Config = {}): Config => ({
  type: "longrope",
  short_factor: factors(rotary / 2),
  long_factor: factors(rotary / 2),
  ...more,
});

const phi3Mini: Config = {
  ...phi3,
  hidden_size: 3072,
  intermediate_size: 8192,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 32,
  sliding_window: 2047,
};

const phi3Mini128k: Config = {
  ...phi3Mini,
  max_position_embeddings: 131072,
  rope_scaling: longrope(96),
  sliding_window: 262144,
};

const phi3Medium: Config = {
  ...phi3,
  hidden_size: 5120,
  intermediate_size: 17920,
  num_hidden_layers: 40,
  num_attention_heads: 40,
  num_key_value_heads: 10,
  sliding_window: 2047,
};

const phi3Small: Config = {
  architectures: ["Phi3SmallForCausalLM"],
  model_type: "phi3small",
  hidden_act: "gegelu",
  hidden_size: 4096,
  ff_intermediate_size: 14336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  layer_norm_epsilon: 1e-5,
  gegelu_limit: 20.0,
  blocksparse_block_size: 64,
  blocksparse_homo_head_pattern: false,
  blocksparse_num_local_blocks: 16,
  blocksparse_vert_stride: 8,
  dense_attention_every_n_layers: 2,
  mup_attn_multiplier: 1.0,
  mup_embedding_multiplier: 10.0,
  mup_use_scaling: true,
  mup_width_multiplier: 8.0,
  rope_embedding_base: 1000000,
  rope_position_scale: 1.0,
  vocab_size: 100352,
  max_position_embeddings: 8192,
  bos_token_id: 100257,
  eos_token_id: 100257,
  torch_dtype: "bfloat16",
};

const phi4: Config = {
  ...phi3Medium,
  vocab_size: 100352,
  max_position_embeddings: 16384,
  original_max_position_embeddings: 16384,
  rope_theta: 250000,
  sliding_window: null,
  bos_token_id: 100257,
  eos_token_id: 100265,
  pad_token_id: 100349,
};

const phi4Reasoning: Config = {
  ...phi4,
  max_position_embeddings: 32768,
  original_max_position_embeddings: 32768,
  rope_theta: 500000,
};

/** A geometric row that stops at 32: the published values, to three digits or better. */
const phi4MiniLongFactors = Array.from({ length: 48 }, (_, i) => Number(Math.min(1.118320672 ** i, 32).toFixed(6)));

const phi4Mini: Config = {
  ...phi3,
  vocab_size: 200064,
  hidden_size: 3072,
  intermediate_size: 8192,
  num_hidden_layers: 32,
  num_attention_heads: 24,
  num_key_value_heads: 8,
  partial_rotary_factor: 0.75,
  max_position_embeddings: 131072,
  rope_scaling: { type: "longrope", short_factor: factors(48), long_factor: phi4MiniLongFactors },
  sliding_window: 262144,
  tie_word_embeddings: true,
  bos_token_id: 199999,
  eos_token_id: 199999,
  pad_token_id: 199999,
};

const moeScale = 1.243163121016122;
const phi35Moe: Config = {
  ...phi3,
  architectures: ["PhiMoEForCausalLM"],
  model_type: "phimoe",
  hidden_size: 4096,
  intermediate_size: 6400,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  num_local_experts: 16,
  num_experts_per_tok: 2,
  router_jitter_noise: 0.01,
  attention_bias: true,
  lm_head_bias: true,
  max_position_embeddings: 131072,
  rope_scaling: longrope(128, {
    original_max_position_embeddings: 4096,
    short_mscale: moeScale,
    long_mscale: moeScale,
  }),
  sliding_window: 131072,
};

/** By the short names that bench/ uses, oldest first. */
export const publishedModels = {
  "phi-1": { name: "microsoft/phi-1", ...mit, config: phi1, verifiedBy: "phi-1" },
  "phi-1_5": { name: "microsoft/phi-1_5", ...mit, config: phi1, verifiedBy: "phi-1_5" },
  "phi-2": {
    name: "microsoft/phi-2",
    ...mit,
    config: {
      ...phi,
      hidden_size: 2560,
      intermediate_size: 10240,
      num_hidden_layers: 32,
      num_attention_heads: 32,
      num_key_value_heads: 32,
      partial_rotary_factor: 0.4,
      bos_token_id: 50256,
      eos_token_id: 50256,
    },
    verifiedBy: "phi-2",
  },
  "phi-3-mini-4k": {
    name: "microsoft/Phi-3-mini-4k-instruct",
    ...mit,
    config: phi3Mini,
    verifiedBy: "phi-3-mini-4k",
  },
  "phi-3-mini-128k": {
    name: "microsoft/Phi-3-mini-128k-instruct",
    ...mit,
    config: phi3Mini128k,
    verifiedBy: "phi-3-mini-128k",
  },
  "phi-3-small-8k": {
    name: "microsoft/Phi-3-small-8k-instruct",
    ...mit,
    config: phi3Small,
    verifiedBy: "phi-3-small-8k",
  },
  "phi-3-small-128k": {
    name: "microsoft/Phi-3-small-128k-instruct",
    ...mit,
    config: {
      ...phi3Small,
      max_position_embeddings: 131072,
      rope_scaling: longrope(128, {
        type: "su",
        original_max_position_embeddings: 8192,
        short_mscale: 1.0,
        long_mscale: 1.1902380714238083,
      }),
    },
    verifiedBy: "phi-3-small-128k",
  },
  "phi-3-medium-4k": {
    name: "microsoft/Phi-3-medium-4k-instruct",
    ...mit,
    config: phi3Medium,
    verifiedBy: "phi-3-medium-4k",
  },
  "phi-3-medium-128k": {
    name: "microsoft/Phi-3-medium-128k-instruct",
    ...mit,
    config: {
      ...phi3Medium,
      max_position_embeddings: 131072,
      rope_scaling: longrope(128),
      sliding_window: 131072,
    },
    verifiedBy: "phi-3-medium-4k, phi-3-mini-128k",
  },
  "phi-3.5-mini": {
    name: "microsoft/Phi-3.5-mini-instruct",
    ...mit,
    config: phi3Mini128k,
    verifiedBy: "phi-3-mini-128k",
  },
  "phi-3.5-moe": {
    name: "microsoft/Phi-3.5-MoE-instruct",
    ...mit,
    config: phi35Moe,
    verifiedBy: "phi-3.5-moe",
  },
  "phi-4": { name: "microsoft/phi-4", ...mit, config: phi4, verifiedBy: "phi-4" },
  "phi-4-mini": { name: "microsoft/Phi-4-mini-instruct", ...mit, config: phi4Mini, verifiedBy: "phi-4-mini" },
  "phi-4-reasoning": {
    name: "microsoft/Phi-4-reasoning",
    ...mit,
    config: phi4Reasoning,
    verifiedBy: "phi-4",
  },
  "phi-4-reasoning-plus": {
    name: "microsoft/Phi-4-reasoning-plus",
    ...mit,
    config: phi4Reasoning,
    verifiedBy: "phi-4",
  },
  "phi-4-mini-reasoning": {
    name: "microsoft/Phi-4-mini-reasoning",
    ...mit,
    config: phi4Mini,
    verifiedBy: "phi-4-mini",
  },
} as const satisfies Readonly<Record<string, PublishedModel>>;

const slimMoe = "SlimMoE, a pruned phi-3.5-MoE with code of its own: nothing here was compared with it";

/** Models of the family whose architecture is not implemented, or not verified. */
export const otherModels = [
  { name: "microsoft/Phi-mini-MoE-instruct", ...mit, reason: slimMoe },
  { name: "microsoft/Phi-tiny-MoE-instruct", ...mit, reason: slimMoe },
  {
    name: "microsoft/Phi-4-mini-flash-reasoning",
    ...mit,
    reason: "SambaY: state-space layers beside attention",
  },
] as const;
