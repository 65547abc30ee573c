/** What every model file provides, what they share in reading a config, and the table of them by `model_type`. */

import type { ConfigReader } from "../files/config.ts";
import { Graph, type HeadGeometry, type Value } from "../graph/graph.ts";
import { type WeightRef, Weights } from "../graph/weights.ts";
import type { RopeSpec } from "./rope.ts";

export interface Architecture extends HeadGeometry {
  /** The class that publishes it, e.g. `Phi3ForCausalLM`. */
  readonly name: string;
  readonly hidden: number;
  readonly layers: number;
  readonly vocab: number;
  readonly rope: RopeSpec;
  /** Positions that the model was trained for. */
  readonly maxPositions: number;
  /** Keys that a query sees, where all layers have a sliding window. */
  readonly window: number | undefined;
  /** Names of a layer's tensors, its number first: a number past the last layer means that config.json is another's. */
  readonly layerPattern: RegExp;
  /** Records the forward pass: token ids of the call → logits [rows, vocab]. */
  forward(g: Graph, w: Weights): Value;
}

/** Ranges far beyond any published model, near enough to refuse nonsense before anything is allocated for it. */
export const limits = {
  hidden: { min: 1, max: 65536 },
  ffn: { min: 1, max: 1 << 20 },
  layers: { min: 1, max: 1024 },
  heads: { min: 1, max: 1024 },
  headDim: { min: 2, max: 512 },
  experts: { min: 2, max: 256 },
  vocab: { min: 1, max: 1 << 22 },
  positions: { min: 1, max: 2 ** 40 },
} as const;

/** How configs of other models say that there is a mixture of experts. */
export const expertKeys: readonly string[] = ["num_local_experts", "num_experts", "n_routed_experts"];

/** Refuses parts of other models that a config asks for and this one has not: they would be left out without a word. */
export function refuseParts(config: ConfigReader, keys: readonly string[]): void {
  for (const key of keys) {
    if (config.has(key)) config.fail(key, `none, for a "${config.string("model_type")}" has no such part`);
  }
}

/** Parts of models that are more than a language model, or whose layers differ. */
const foreignParts = ["text_config", "vision_config", "audio_config", "per_layer_config", "compression_config"];

/**
 * What every model's config may say beyond its own fields: refuses parts that no model here has, and notes what is not
 * followed though a reader may expect it. `names` are the classes that publish the model.
 */
export function checkCommonFields(config: ConfigReader, names: readonly string[]): void {
  refuseParts(config, foreignParts);
  const classes = config.strings("architectures");
  if (classes.length > 0 && !classes.some((name) => names.includes(name))) {
    config.note("architectures", `${config.show("architectures")} is not followed: it is run as ${names[0]}`);
  }
  const window = config.has("sliding_window");
  const kind = window ? "sliding_attention" : "full_attention";
  for (const type of config.strings("layer_types")) {
    if (type !== kind) config.fail("layer_types", `"${kind}" in each layer, as "sliding_window" says`);
  }
  if (window && !config.boolean("use_sliding_window", true)) {
    config.note("use_sliding_window", "false is not followed: sliding_window is, as in transformers");
  }
  if (window && config.has("max_window_layers")) {
    config.note("max_window_layers", "is not followed: all layers have the sliding window, as in transformers");
  }
  // Of phi-4-mini's own code, which transformers does not run.
  for (const key of ["full_attn_mod", "interpolate_factor"]) {
    if (config.number(key, { fallback: 1 }) !== 1) config.note(key, `${config.show(key)} is not followed`);
  }
  if (config.boolean("is_encoder_decoder", false)) config.note("is_encoder_decoder", "is not followed");
}

/**
 * `num_attention_heads`, `num_key_value_heads` (null: as many; absent: `kvFallback`, by default as many) and `head_dim`
 * (absent: hidden / heads).
 */
export function readHeads(config: ConfigReader, hidden: number, kvFallback?: number): HeadGeometry {
  const heads = config.integer("num_attention_heads", limits.heads);
  const key = "num_key_value_heads";
  const fallback = config.keys().includes(key) ? heads : (kvFallback ?? heads);
  const kvHeads = config.integer(key, { ...limits.heads, fallback });
  if (heads % kvHeads !== 0) config.fail("num_key_value_heads", `a divisor of num_attention_heads (${heads})`);
  if (!config.has("head_dim") && hidden % heads !== 0) {
    config.fail("num_attention_heads", `a divisor of hidden_size (${hidden})`);
  }
  const headDim = config.integer("head_dim", { ...limits.headDim, fallback: hidden / heads });
  if (headDim < 2 || headDim % 2 !== 0 || headDim > limits.headDim.max) {
    config.fail(
      config.has("head_dim") ? "head_dim" : "num_attention_heads",
      `an even head_dim from 2 to ${limits.headDim.max} (hidden_size ${hidden} / num_attention_heads ${heads} = ${hidden / heads})`,
    );
  }
  return { heads, kvHeads, headDim };
}

/** The weights that an architecture asks for, by key; no byte of them is read. */
export function declareWeights(architecture: Pick<Architecture, "forward">): ReadonlyMap<string, WeightRef> {
  const weights = new Weights();
  architecture.forward(new Graph("decode"), weights);
  return weights.declared;
}
