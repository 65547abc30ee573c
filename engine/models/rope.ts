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
  /** Divisors for sequences of every length (yarn, llama3). */
  readonly scaled?: RopeScale;
  /** longrope: `short` for sequences of up to `originalPositions` tokens, `long` for longer ones, for all positions. */
  readonly longrope:
    | { readonly originalPositions: number; readonly short: RopeScale; readonly long: RopeScale }
    | undefined;
}

type RopeType = "default" | "linear" | "dynamic" | "yarn" | "llama3" | "longrope";

/** What a model makes of the rotary fields of its config. */
export interface RopeRules {
  /** The base where the config gives none. */
  readonly theta: number;
  /** The share of a head that is rotated where the config gives none; undefined: always all of it. */
  readonly partial: number | undefined;
  /** Its types, by the names that configs have for them. */
  readonly types: Readonly<Partial<Record<string, RopeType>>>;
  /**
   * longrope's original positions, by where config.json says them: `outside`: beside the rotary fields before within;
   * `within`: the other way round; `only within`: not beside them. `fallback`: where it does not; default: the model's
   * positions.
   */
  readonly original: { readonly first: "outside" | "within" | "only within"; readonly fallback?: number };
  /** Keys where they are not those of Hugging Face's own models: of the base, and of what positions are divided by. */
  readonly thetaKey?: string;
  readonly scaleKey?: string;
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
 * Reads the rotary fields as transformers 5.23 does (`RotaryEmbeddingConfigMixin` and each model's configuration):
 * `rope_scaling`, where it is there and not empty, stands in place of all of `rope_parameters`; what the one of them that
 * counts leaves out is looked for beside it. The scaling of longrope's cos and sin is `attention_factor`, or
 * sqrt(1 + ln(s) / ln(original)), s = `factor`, or max / original positions (Ding et al. 2024, arXiv 2402.13753).
 */
export function readRope(config: ConfigReader, headDim: number, rules: RopeRules): RopeSpec {
  const { thetaKey = "rope_theta", scaleKey } = rules;
  const within = rotaryFields(config);
  const holder = (key: string) => (within?.has(key) ? within : config);
  const theta = holder(thetaKey).number(thetaKey, { above: 0, max: 1e12, fallback: rules.theta });
  const positionScale = scaleKey === undefined ? 1 : config.number(scaleKey, { above: 0, max: 1e6, fallback: 1 });
  const plain = { rotary: readRotary(holder, headDim, rules), theta, positionScale, longrope: undefined };

  const typeKey = within?.has("rope_type") ? "rope_type" : "type";
  const names = Object.keys(rules.types);
  const type = rules.types[within?.oneOf(typeKey, names, "default") ?? "default"] ?? "default";
  if (within === undefined || type === "default") return plain;
  if (type === "linear") return { ...plain, positionScale: positionScale * readFactor(within) };
  if (type === "dynamic") {
    // Up to max_position_embeddings, which no sequence here passes, it changes nothing.
    readFactor(within);
    within.note(typeKey, '"dynamic" changes nothing: no sequence is longer than max_position_embeddings');
    return plain;
  }
  const maxPositions = config.integer("max_position_embeddings", { min: 1, max: 2 ** 31 - 1 });
  const original = readOriginal(config, within, rules.original, maxPositions);
  if (type === "yarn") return { ...plain, scaled: yarn(within, plain, original) };
  if (type === "llama3") return { ...plain, scaled: llama3(within, plain, original) };
  return { ...plain, longrope: longrope(within, plain.rotary, original, maxPositions) };
}

/** The object that says how heads are rotated. */
function rotaryFields(config: ConfigReader): ConfigReader | undefined {
  const [parameters, scaling] = [config.object("rope_parameters"), config.object("rope_scaling")];
  if (scaling === undefined || scaling.keys().length === 0) return parameters;
  if (parameters !== undefined) config.note("rope_parameters", "is not followed: rope_scaling is, as in transformers");
  return scaling;
}

function readRotary(holder: (key: string) => ConfigReader, headDim: number, { partial: fallback }: RopeRules): number {
  const key = "partial_rotary_factor";
  const partial = holder(key).number(key, { above: 0, max: 1, fallback: fallback ?? 1 });
  if (fallback === undefined && partial !== 1)
    holder(key).note(key, `${partial} is not followed: whole heads are rotated`);
  const rotary = fallback === undefined ? headDim : Math.floor(headDim * partial);
  if (rotary >= 2 && rotary % 2 === 0) return rotary;
  return holder(key).fail(key, `an even number of rotary dimensions (head_dim ${headDim} * factor)`);
}

function readFactor(within: ConfigReader): number {
  return within.number("factor", { above: 0, max: 1e6 });
}

const originalKey = "original_max_position_embeddings";

function readOriginal(
  config: ConfigReader,
  within: ConfigReader,
  { first, fallback }: RopeRules["original"],
  maxPositions: number,
): number {
  const readers = first === "outside" ? [config, within] : [within, config];
  const stated = readers.filter((reader) => reader.has(originalKey));
  const [one, other] = stated.map((reader) => reader.integer(originalKey, { min: 2, max: 2 ** 31 - 1 }));
  // A class whose own field has a default never looks within.
  const isElsewhere =
    (first === "outside" && fallback !== undefined && !config.has(originalKey)) ||
    (first === "only within" && !within.has(originalKey));
  const original = isElsewhere ? (fallback ?? maxPositions) : one;
  const unread = [one, other].find((value) => value !== undefined && value !== original);
  if (unread !== undefined) within.note(originalKey, `${unread} is not followed: ${original} is, as in transformers`);
  return original ?? fallback ?? maxPositions;
}

function longrope(within: ConfigReader, rotary: number, original: number, maxPositions: number) {
  const stretch = within.has("factor") ? readFactor(within) : maxPositions / original;
  const magnitude = within.number("attention_factor", {
    above: 0,
    fallback: stretch <= 1 ? 1 : Math.sqrt(1 + Math.log(stretch) / Math.log(original)),
  });
  const scale = (factors: string, mscale: string): RopeScale => ({
    factors: within.numbers(factors, { length: rotary / 2, above: 0 }),
    magnitude: within.number(mscale, { above: 0, fallback: magnitude }),
  });
  return {
    originalPositions: original,
    short: scale("short_factor", "short_mscale"),
    long: scale("long_factor", "long_mscale"),
  };
}

type PlainRope = Pick<RopeSpec, "rotary" | "theta">;

/** Peng et al. 2023, arXiv 2309.00071, as transformers computes it: slow dimensions are stretched, fast ones are not. */
function yarn(within: ConfigReader, { rotary, theta }: PlainRope, original: number): RopeScale {
  const factor = readFactor(within);
  const positive = (key: string, fallback: number) => within.number(key, { min: 0, max: 1e9, fallback }) || fallback;
  const scaling = (times: number) => (factor <= 1 ? 1 : 0.1 * times * Math.log(factor) + 1);
  const [mscale, mscaleAll] = ["mscale", "mscale_all_dim"].map((key) => within.number(key, { min: 0, fallback: 0 }));
  const own = mscale && mscaleAll ? scaling(mscale) / scaling(mscaleAll) : scaling(1);
  const dimensionOf = (turns: number) => (rotary * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const bounds = [dimensionOf(positive("beta_fast", 32)), dimensionOf(positive("beta_slow", 1))];
  const [low = 0, high = 0] = within.boolean("truncate", true)
    ? bounds.map((bound, i) => (i === 0 ? Math.floor(bound) : Math.ceil(bound)))
    : bounds;
  const [first, last] = [Math.max(low, 0), Math.min(high, rotary - 1)];
  const width = first === last ? 0.001 : last - first;
  const factors = Array.from({ length: rotary / 2 }, (_, i) => {
    const stretched = Math.max(0, Math.min(1, (i - first) / width));
    return 1 / (stretched / factor + 1 - stretched);
  });
  return { factors, magnitude: within.number("attention_factor", { above: 0, fallback: own }) };
}

/** Llama 3.1's: long wavelengths are stretched, short ones are not, and those between in part. */
function llama3(within: ConfigReader, { rotary, theta }: PlainRope, original: number): RopeScale {
  const factor = readFactor(within);
  const low = within.number("low_freq_factor", { above: 0, max: 1e6 });
  const high = within.number("high_freq_factor", { above: 0, max: 1e6 });
  if (high <= low) within.fail("high_freq_factor", `a number above low_freq_factor (${low})`);
  const factors = Array.from({ length: rotary / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * theta ** ((2 * i) / rotary);
    if (wavelength > original / low) return factor;
    if (wavelength < original / high) return 1;
    const kept = (original / wavelength - low) / (high - low);
    return 1 / ((1 - kept) / factor + kept);
  });
  return { factors, magnitude: 1 };
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
  const { factors, magnitude } = spec.longrope?.[regime] ?? spec.scaled ?? { factors: undefined, magnitude: 1 };
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
