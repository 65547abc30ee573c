/** The options of every command that runs a model, and what loading and describing make of them. */
import { PhiError, printable } from "../engine/errors.ts";
import type { ActivationFormat, GroupSize, KvFormat, QuantizeScheme, RopePolicy, WeightType } from "../engine/index.ts";

/** Options of every command that runs a model. */
export interface RunOptions {
  readonly model?: string;
  readonly adapter?: string;
  readonly kv: KvFormat;
  /** What linears on integer weights make of their input. */
  readonly activations?: ActivationFormat;
  readonly context?: number;
  readonly rope?: RopePolicy;
  readonly allowSymlinks?: boolean;
  readonly allowNanWeights?: boolean;
  /** File for a trace of the GPU's time, which is measured then. */
  readonly profile?: string;
  /** False: no optional feature of WebGPU is used. */
  readonly features?: boolean;
  /** What float weights become, and the head and the embedding of them; how. */
  readonly quantize?: WeightType;
  readonly quantizeHead?: WeightType;
  readonly groupSize?: GroupSize;
  readonly quantizeScheme?: QuantizeScheme;
}

/** `--no-features` and `PHI_FEATURES=none` keep optional features of WebGPU out of use. Throws a PhiError "usage". */
export function usedFeatures(options: Pick<RunOptions, "features">, value = process.env.PHI_FEATURES): "all" | "none" {
  if (value !== undefined && !["", "all", "none"].includes(value)) {
    throw new PhiError("usage", `PHI_FEATURES: expected all or none, got "${printable(value)}"`);
  }
  return options.features === false || value === "none" ? "none" : "all";
}

/** The options of loading and of describing that a command gives. */
export function loadOptions({
  kv,
  activations,
  context,
  rope,
  quantize,
  quantizeHead,
  groupSize,
  quantizeScheme,
}: Partial<RunOptions>) {
  return {
    ...(kv !== undefined && { kv }),
    ...(activations !== undefined && { activations }),
    ...(context !== undefined && { context }),
    ...(rope !== undefined && { rope }),
    quantize: {
      weights: quantize ?? "none",
      ...(quantizeHead !== undefined && { head: quantizeHead }),
      ...(groupSize !== undefined && { groupSize }),
      ...(quantizeScheme !== undefined && { scheme: quantizeScheme }),
    },
  } as const;
}
