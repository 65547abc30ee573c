/** Rotary position embedding: what a config says of it, and its tables, computed in float64. */

import { PhiError } from "../errors.ts";
import type { ConfigReader } from "../files/config.ts";

/** Per-dimension divisors of the frequencies, and what cos and sin are multiplied by. */
export interface RopeScale {
  readonly factors: readonly number[];
  readonly magnitude: number;
}

export interface RopeSpec {
  /** Dimensions of a head that are rotated, from the first. */
  readonly rotary: number;
  readonly theta: number;
  /** Positions are divided by this. */
  readonly positionScale: number;
  /** longrope: `short` for sequences of up to `originalPositions` tokens, `long` for longer ones, for all positions. */
  readonly longrope:
    | { readonly originalPositions: number; readonly short: RopeScale; readonly long: RopeScale }
    | undefined;
}

/** Keys of config.json where they are not those of Hugging Face's own models. */
export interface RopeNames {
  readonly theta: string;
  /** The base where the config gives none. */
  readonly fallback: number;
  readonly scale?: string;
}

export type RopeRegime = "short" | "long";

/**
 * Which of longrope's factors apply: `hf-exact` by the length of the whole sequence, as in transformers; `short` or `long`
 * always these, so that no sequence is ever run again.
 */
export type RopePolicy = "hf-exact" | "short" | "long";

/** A spec under a policy. Throws a PhiError "usage" for `short` and `long` where there is one set of factors only. */
export function withRopePolicy(spec: RopeSpec, policy: RopePolicy = "hf-exact"): RopeSpec {
  if (policy === "hf-exact") return spec;
  if (spec.longrope === undefined) {
    throw new PhiError(
      "usage",
      `--rope: expected a model with longrope's short and long factors for "${policy}", got one without`,
    );
  }
  const originalPositions = policy === "short" ? Number.POSITIVE_INFINITY : 0;
  return { ...spec, longrope: { ...spec.longrope, originalPositions } };
}

/**
 * Reads the old keys (`rope_theta`, `rope_scaling`, `partial_rotary_factor`) or the newer `rope_parameters`, which holds
 * all three and wins; `names` are the config's own for the base and for what positions are divided by. Only plain rotation and longrope (also under its first name, `su`) are published for Phi; any other
 * type is refused by name. The scaling of cos and sin is sqrt(1 + ln(s) / ln(original)), s = max / original positions
 * (Ding et al. 2024, arXiv 2402.13753; Hugging Face transformers, modeling_rope_utils).
 */
export function readRope(
  config: ConfigReader,
  headDim: number,
  defaultPartial: number,
  names: RopeNames = { theta: "rope_theta", fallback: 10000 },
): RopeSpec {
  const parameters = config.object("rope_parameters");
  const scaling = parameters ?? config.object("rope_scaling");
  const holder = (key: string) => (parameters?.has(key) ? parameters : config);
  const theta = holder(names.theta).number(names.theta, { above: 0, max: 1e12, fallback: names.fallback });
  const positionScale = names.scale === undefined ? 1 : config.number(names.scale, { above: 0, max: 1e6, fallback: 1 });
  const partial = holder("partial_rotary_factor").number("partial_rotary_factor", {
    above: 0,
    max: 1,
    fallback: defaultPartial,
  });
  const rotary = Math.floor(headDim * partial);
  if (rotary < 2 || rotary % 2 !== 0) {
    config.fail("partial_rotary_factor", `an even number of rotary dimensions (head_dim ${headDim} * factor)`);
  }

  const typeKey = scaling?.has("rope_type") ? "rope_type" : "type";
  const type = scaling?.oneOf(typeKey, ["default", "longrope", "su"], "default") ?? "default";
  if (scaling === undefined || type === "default") return { rotary, theta, positionScale, longrope: undefined };

  const key = "original_max_position_embeddings";
  const maxPositions = config.integer("max_position_embeddings", { min: 1, max: 2 ** 31 - 1 });
  const stated = [scaling, config].filter((holder) => holder.has(key));
  const [original = maxPositions, other = original] = stated.map((holder) =>
    holder.integer(key, { min: 2, max: 2 ** 31 - 1 }),
  );
  if (other !== original) config.fail(key, `${original}, as in ${scaling.file}`);
  const stretch =
    config.has(key) || !scaling.has("factor") ? maxPositions / original : scaling.number("factor", { above: 0 });
  const magnitude = scaling.number("attention_factor", {
    above: 0,
    fallback: stretch <= 1 ? 1 : Math.sqrt(1 + Math.log(stretch) / Math.log(original)),
  });
  const scale = (factors: string, mscale: string): RopeScale => ({
    factors: scaling.numbers(factors, { length: rotary / 2, above: 0 }),
    magnitude: scaling.number(mscale, { above: 0, fallback: magnitude }),
  });
  return {
    rotary,
    theta,
    positionScale,
    longrope: {
      originalPositions: original,
      short: scale("short_factor", "short_mscale"),
      long: scale("long_factor", "long_mscale"),
    },
  };
}

/** Which factors apply to a sequence of `tokens` tokens. */
export function ropeRegime(spec: RopeSpec, tokens: number): RopeRegime {
  return spec.longrope !== undefined && tokens > spec.longrope.originalPositions ? "long" : "short";
}

/**
 * Interleaved cos and sin, [positions - firstPosition, rotary / 2, 2], computed in float64 and rounded once: drivers'
 * own `sin` is off by up to 2e-4 (SwiftShader).
 */
export function ropeTable(
  spec: RopeSpec,
  regime: RopeRegime,
  firstPosition: number,
  positions: number,
): Float32Array<ArrayBuffer> {
  const half = spec.rotary / 2;
  const { factors, magnitude } = spec.longrope?.[regime] ?? { factors: undefined, magnitude: 1 };
  const frequencies = Array.from({ length: half }, (_, i) => spec.theta ** (-i / half) / (factors?.[i] ?? 1));
  const table = new Float32Array((positions - firstPosition) * half * 2);
  let at = 0;
  for (let position = firstPosition; position < positions; position++) {
    for (const frequency of frequencies) {
      const angle = (position / spec.positionScale) * frequency;
      table[at++] = Math.cos(angle) * magnitude;
      table[at++] = Math.sin(angle) * magnitude;
    }
  }
  return table;
}
