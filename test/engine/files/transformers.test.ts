/**
 * What we read in config.json and generation_config.json against transformers 5.23, on seeded variants
 * (transformers_variants.py writes them). What transformers refuses may be refused or read here, but not fail otherwise.
 */
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { PhiError } from "../../../engine/errors.ts";
import { readConfig } from "../../../engine/files/config.ts";
import { readGenerationDefaults } from "../../../engine/files/generation.ts";
import { openQuantization } from "../../../engine/files/quantization.ts";
import { createSampler } from "../../../engine/generation/sampler.ts";
import { Graph } from "../../../engine/graph/graph.ts";
import { Weights } from "../../../engine/graph/weights.ts";
import { type RopeRegime, type RopeSpec, ropeTable } from "../../../engine/models/rope.ts";
import { readArchitecture } from "../../../engine/models/table.ts";
import { samplingUnder } from "../../../library/text.ts";

type Fields = Readonly<Record<string, unknown>>;

interface ConfigResult {
  readonly heads: readonly [heads: number, kvHeads: number, headDim: number];
  readonly tie: boolean;
  readonly window: number | null;
  readonly eps: number;
  readonly vocab: number;
  readonly inv: readonly number[];
  readonly scale: number | readonly [short: number, long: number];
  readonly original?: number;
  readonly long?: readonly number[];
}

interface GenerationResult {
  readonly sample: boolean;
  /** Processors that we follow, by the field that they obey. */
  readonly p: Fields;
  readonly others: readonly string[];
  readonly eos: readonly number[];
  readonly stop?: readonly string[];
  readonly ids?: readonly number[];
  readonly probabilities?: Readonly<Record<string, number>>;
}

interface Variants {
  /** Those of transformers' classes, by model and of GenerationConfig. */
  readonly fields: Readonly<Record<string, readonly string[]>>;
  readonly bases: Readonly<Record<string, Fields>>;
  readonly prompt: readonly number[];
  readonly vocab: number;
  /** A string is the name of transformers' error. */
  readonly configs: readonly (readonly [kind: string, changes: Fields, result: ConfigResult | string])[];
  readonly generations: readonly (readonly [changes: Fields, result: GenerationResult | string])[];
}

const file = new URL("../../fixtures/transformers_variants.json", import.meta.url);
const variants = JSON.parse(readFileSync(file, "utf8")) as Variants;
const reader = (name: string, fields: Fields) => readConfig(name, new TextEncoder().encode(JSON.stringify(fields)));

/** The result, or the message of a refusal. */
function attempt<T>(work: () => T): T | string {
  try {
    return work();
  } catch (error) {
    if (error instanceof PhiError && error.kind === "checkpoint") return error.message;
    throw error;
  }
}

/** Frequencies and magnitude as the table at position 1 shows them. */
function rotation(spec: RopeSpec, regime: RopeRegime) {
  const table = ropeTable(spec, regime, 1, 2);
  const pairs = Array.from({ length: table.length / 2 }, (_, i) => [table[2 * i] ?? 0, table[2 * i + 1] ?? 0] as const);
  return {
    inv: pairs.map(([cos, sin]) => Math.atan2(sin, cos)),
    scale: Math.hypot(...(pairs[0] ?? [])),
  };
}

describe("config.json", () => {
  /** What transformers runs and we do not, by the message that says so. */
  const refusals = [
    /"hidden_act": expected/, // activations that no published Phi has
    /"sliding_window": expected none, for a "phi" has no such part/,
    /"num_key_value_heads": expected a divisor of num_attention_heads/, // its model cannot be run either
    /"attention_bias": expected false: Phi-3 has no biases/,
    /"layer_types": expected "(?:full|sliding)_attention" in each layer/,
  ];
  // float32 of the frequencies on their side, of cos and sin on ours.
  const near = (a: number, b: number) => Math.abs(a - b) <= 3e-6 * Math.max(Math.abs(a), Math.abs(b));

  function read(kind: string, changes: Fields) {
    const config = reader("config.json", { ...variants.bases[kind], ...changes });
    const architecture = readArchitecture(config);
    const weights = new Weights();
    const graph = new Graph("decode");
    architecture.forward(graph, weights);
    return { architecture, declared: weights.declared, graph };
  }

  function differences(kind: string, changes: Fields, expected: ConfigResult): readonly string[] {
    const found = attempt(() => read(kind, changes));
    if (typeof found === "string") return refusals.some((pattern) => pattern.test(found)) ? [] : [`refused: ${found}`];
    const { architecture, declared, graph } = found;
    const { heads, kvHeads, headDim, rope, window, vocab } = architecture;
    const wrong: string[] = [];
    const compare = (what: string, ours: unknown, theirs: unknown) => {
      if (JSON.stringify(ours) !== JSON.stringify(theirs)) wrong.push(`${what}: ${ours}, not ${theirs}`);
    };
    compare("heads", [heads, kvHeads, headDim], expected.heads);
    compare("vocab", vocab, expected.vocab);
    compare("window", window ?? null, expected.window);
    compare("tie", !declared.has("lm_head.weight"), expected.tie);
    const eps = graph.nodes.flatMap((node) => ("eps" in node ? [node.eps] : []));
    compare("eps", [...new Set(eps)], [expected.eps]);
    const [short, long] = typeof expected.scale === "number" ? [expected.scale, expected.scale] : expected.scale;
    const regimes = [["short", expected.inv, short] as const, ["long", expected.long ?? expected.inv, long] as const];
    for (const [regime, inv, scale] of regimes) {
      const ours = rotation(rope, regime);
      const isEqual = ours.inv.length === inv.length && ours.inv.every((value, i) => near(value, inv[i] ?? Number.NaN));
      if (!isEqual) wrong.push(`${regime} frequencies: ${ours.inv}, not ${inv}`);
      if (!near(ours.scale, scale)) wrong.push(`${regime} scale: ${ours.scale}, not ${scale}`);
    }
    compare("original", rope.longrope?.originalPositions, expected.original);
    return wrong;
  }

  test(`${variants.configs.length} variants`, () => {
    const faults = variants.configs.flatMap(([kind, changes, expected]) => {
      if (typeof expected === "string") {
        attempt(() => read(kind, changes));
        return [];
      }
      const wrong = differences(kind, changes, expected);
      return wrong.length > 0 ? [`${kind} ${JSON.stringify(changes)}: ${wrong.join("; ")}`] : [];
    });
    expect(faults.slice(0, 5), `${faults.length} differ`).toEqual([]);
    expect(variants.configs.filter(([, , expected]) => typeof expected !== "string").length).toBeGreaterThan(700);
  });
});

describe("generation_config.json", () => {
  /** The fields whose note stands for a processor of transformers. */
  const noted: Readonly<Record<string, string>> = {
    beams: "num_beams",
    NoRepeatNGramLogitsProcessor: "no_repeat_ngram_size",
    TypicalLogitsWarper: "typical_p",
    EpsilonLogitsWarper: "epsilon_cutoff",
    EtaLogitsWarper: "eta_cutoff",
    TopHLogitsWarper: "top_h",
    UnbatchedClassifierFreeGuidanceLogitsProcessor: "guidance_scale",
    SequenceBiasLogitsProcessor: "sequence_bias",
    EncoderRepetitionPenaltyLogitsProcessor: "encoder_repetition_penalty",
    EncoderNoRepeatNGramLogitsProcessor: "encoder_no_repeat_ngram_size",
    ForcedBOSTokenLogitsProcessor: "forced_bos_token_id",
    ForcedEOSTokenLogitsProcessor: "forced_eos_token_id",
    ExponentialDecayLengthPenalty: "exponential_decay_length_penalty",
    SuppressTokensAtBeginLogitsProcessor: "begin_suppress_tokens",
  };
  const { prompt, vocab } = variants;
  const config = reader("config.json", { vocab_size: vocab });
  const read = (changes: Fields) => readGenerationDefaults(config, reader("generation_config.json", changes), vocab);

  const isEmptyList = (value: unknown) => Array.isArray(value) && value.length === 0;

  /** The logits after `last`, as in the script. */
  const logitsAfter = (last: number) =>
    Float32Array.from(
      { length: vocab },
      (_, i) => ((i * 7919 + last * 104729 + ((i * last * 31) % 997)) % 1009) / 100 - 5,
    );

  function differences(changes: Fields, expected: GenerationResult): readonly string[] {
    const found = attempt(() => read(changes));
    if (typeof found === "string") return [`refused: ${found}`];
    const wrong: string[] = [];
    const compare = (what: string, ours: unknown, theirs: unknown) => {
      if (JSON.stringify(ours) !== JSON.stringify(theirs)) wrong.push(`${what}: ${ours}, not ${theirs}`);
    };
    compare("do_sample", found.doSample, expected.sample);
    compare(
      "ends",
      [...found.eosIds],
      expected.eos.filter((id) => id >= 0 && id < vocab),
    );
    compare("stop", found.stopStrings, expected.stop);
    for (const name of expected.others) {
      const key = noted[name] ?? name;
      if (isEmptyList(changes[key])) continue; // the processor does nothing
      if (!found.notes.some((note) => note.includes(`"${key}"`))) wrong.push(`no note for ${name}`);
    }
    const sampling = samplingUnder(found, { seed: 1 });
    if (expected.ids !== undefined) {
      const sampler = createSampler(sampling, vocab, found.eosIds);
      const generated: number[] = [];
      while (generated.length < 12 && !found.eosIds.includes(generated.at(-1) ?? -1)) {
        const logits = logitsAfter(generated.at(-1) ?? prompt.at(-1) ?? 0);
        generated.push(sampler.sample(logits, { prompt, generated }));
      }
      compare("ids", generated, expected.ids);
    }
    if (expected.probabilities !== undefined) {
      const logits = logitsAfter(prompt.at(-1) ?? 0);
      const own = createSampler(sampling, vocab, found.eosIds).probabilities(logits, { prompt, generated: [] });
      // Five digits are stored, half a unit of which is up to 5e-5 of a number; a float32 softmax has some more.
      const differs = own.findIndex((p, id) => Math.abs(p - (expected.probabilities?.[id] ?? 0)) > 6e-5 * p + 1e-30);
      if (differs >= 0)
        wrong.push(`probability of ${differs}: ${own[differs]}, not ${expected.probabilities[differs]}`);
    }
    return wrong;
  }

  test(`${variants.generations.length} variants`, () => {
    const faults = variants.generations.flatMap(([changes, expected]) => {
      if (typeof expected === "string") {
        attempt(() => read(changes));
        return [];
      }
      const wrong = differences(changes, expected);
      return wrong.length > 0 ? [`${JSON.stringify(changes)}: ${wrong.join("; ")}`] : [];
    });
    expect(faults.slice(0, 5), `${faults.length} differ`).toEqual([]);
    const compared = variants.generations.filter(([, e]) => typeof e !== "string" && (e.ids ?? e.probabilities));
    expect(compared.length).toBeGreaterThan(200);
  });
});

describe("docs/files-model.md", () => {
  const text = readFileSync(new URL("../../../docs/files-model.md", import.meta.url), "utf8");
  const named = new Set([...text.matchAll(/`([^`]+)`/g)].map(([, name]) => name));

  test("names every field of transformers' classes", () => {
    const fields = [...new Set(Object.values(variants.fields).flat())];
    expect(fields.length).toBeGreaterThan(100);
    expect(fields.filter((name) => !named.has(name))).toEqual([]);
  });

  test("names every field that is read", async () => {
    const asked = new Set<string>();
    const all = (config: ReturnType<typeof reader>) => {
      for (const name of config.asked) asked.add(name.slice(name.lastIndexOf(".") + 1));
    };
    const models = new URL("../../fixtures/models/", import.meta.url);
    for (const name of readdirSync(models)) {
      const config = readConfig("config.json", readFileSync(new URL(`${name}/config.json`, models)));
      const generation = reader("generation_config.json", { do_sample: true });
      readGenerationDefaults(config, generation, readArchitecture(config).vocab);
      for (const one of [config, generation]) all(one);
    }
    for (const [kind, changes] of variants.configs) {
      const config = reader("config.json", { ...variants.bases[kind], ...changes });
      attempt(() => readArchitecture(config));
      all(config);
    }
    for (const quant_method of ["gptq", "awq"]) {
      const config = reader("config.json", { quantization_config: { quant_method, bits: 4 } });
      const read = () => Promise.reject(new Error("there is nothing to read"));
      await openQuantization({ config, quantizeConfig: undefined, tensors: new Map(), read });
      all(config);
    }
    expect(asked.size).toBeGreaterThan(80);
    expect([...asked].filter((name) => !named.has(name))).toEqual([]);
  });
});
