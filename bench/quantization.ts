/** `quantization`: what each form of weights and of the cache costs, against the same model as it is stored. */
import {
  type Evaluation,
  evaluate,
  type LoadOptions,
  type LogitsSource,
  type Model,
  PhiError,
  type Rows,
} from "../engine/index.ts";
import type { Figure } from "./report.ts";

/** How a model is loaded. */
export type Configuration = Pick<LoadOptions, "kv" | "quantize" | "activations">;

/** The rows of the table, by name. Head and embedding are int8 where the name does not say otherwise; a8: int8 activations. */
export const configurations = {
  stored: { kv: "f16" },
  "kv-int8": { kv: "int8" },
  int8: { kv: "f16", quantize: { weights: "int8" } },
  "int8-a8": { kv: "f16", quantize: { weights: "int8" }, activations: "int8" },
  "int4-g32": { kv: "f16", quantize: { weights: "int4", groupSize: 32 } },
  "int4-g32-a8": { kv: "f16", quantize: { weights: "int4", groupSize: 32 }, activations: "int8" },
  "int4-g64": { kv: "f16", quantize: { weights: "int4", groupSize: 64 } },
  "int4-g128": { kv: "f16", quantize: { weights: "int4", groupSize: 128 } },
  "int4-g32-symmetric": { kv: "f16", quantize: { weights: "int4", groupSize: 32, scheme: "symmetric" } },
  "int4-g64-symmetric": { kv: "f16", quantize: { weights: "int4", groupSize: 64, scheme: "symmetric" } },
  "int4-g128-symmetric": { kv: "f16", quantize: { weights: "int4", groupSize: 128, scheme: "symmetric" } },
  "int4-g32-head-none": { kv: "f16", quantize: { weights: "int4", groupSize: 32, head: "none" } },
  "int4-g32-head-int4": { kv: "f16", quantize: { weights: "int4", groupSize: 32, head: "int4" } },
} as const satisfies Readonly<Record<string, Configuration>>;

export type ConfigurationName = keyof typeof configurations;
export const configurationNames = Object.keys(configurations) as ConfigurationName[];

/** What all are compared with: the weights as they are stored, and the most exact cache. */
const base: Configuration = { kv: "f32" };

export interface QuantizationBenchOptions {
  readonly names: readonly ConfigurationName[];
  /** Loads the checkpoint; what it gives is disposed here. */
  readonly open: (configuration: Configuration) => Promise<Model>;
  /** Tokens of the text. */
  readonly ids: readonly number[];
  /** Tokens of a window; default as `evaluate` has it. */
  readonly window?: number | undefined;
  readonly maxWindows?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: (text: string) => void;
}

/** A row of the table. */
export interface QuantizationRow {
  readonly name: string;
  /** On the GPU, norms and biases included. */
  readonly weightsBytes: number;
  readonly evaluation: Evaluation;
}

/** One model after the other. The base's logits are kept in memory meanwhile: 4 bytes a token and id of the vocabulary. */
export async function benchQuantization(options: QuantizationBenchOptions): Promise<readonly QuantizationRow[]> {
  const { names, open, ids, window, maxWindows, signal, onProgress } = options;
  const rows: QuantizationRow[] = [];
  let against: LogitsSource | undefined;
  const run = async (name: string, configuration: Configuration) => {
    onProgress?.(name);
    const model = await open(configuration);
    try {
      const recorder = against === undefined ? record(model) : undefined;
      const evaluation = await evaluate(recorder?.source ?? model, ids, {
        ...(window !== undefined && { window }),
        ...(maxWindows !== undefined && { maxWindows }),
        ...(against !== undefined && { against }),
        ...(signal !== undefined && { signal }),
      });
      rows.push({ name, weightsBytes: model.memory().weightsBytes, evaluation });
      against ??= recorder?.replay;
    } finally {
      model.dispose();
    }
  };
  await run("base", base);
  for (const name of names) await run(name, configurations[name]);
  return rows;
}

/** A model whose logits are kept, and what gives them again, by the ids that were run. */
function record(model: Model): { readonly source: LogitsSource & { context: number }; readonly replay: LogitsSource } {
  const kept = new Map<string, Rows[]>();
  const { context, vocabularySize } = model;
  return {
    source: {
      context,
      vocabularySize,
      async *logits(ids, options) {
        const parts: Rows[] = [];
        for await (const rows of model.logits(ids, options)) {
          parts.push(rows);
          yield rows;
        }
        kept.set(ids.join(), parts);
      },
    },
    replay: {
      vocabularySize,
      async *logits(ids) {
        const parts = kept.get(ids.join());
        if (parts === undefined) throw new PhiError("internal", "expected a window of the base, got another");
        yield* parts;
      },
    },
  };
}

/** A row as figures. The base has no divergence. */
export function quantizationFigures({ weightsBytes, evaluation }: QuantizationRow): readonly Figure[] {
  const { tokens, perplexity, against } = evaluation;
  const figures: Figure[] = [
    { name: "tokens", unit: "of the text", samples: [tokens] },
    { name: "weights", unit: "MiB", samples: [weightsBytes / 2 ** 20] },
    { name: "perplexity", unit: "a token", samples: [perplexity] },
  ];
  if (against === undefined) return figures;
  return [
    ...figures,
    { name: "mean KL", unit: "nats", samples: [against.meanKl] },
    { name: "max KL", unit: "nats", samples: [against.maxKl] },
    { name: "top-1 agreement", unit: "%", samples: [100 * against.top1Agreement] },
  ];
}

/** The rows as a Markdown table; changes are to the first, the base. */
export function quantizationTable(rows: readonly QuantizationRow[]): string {
  const head = ["", "weights, MiB", "perplexity", "change", "mean KL", "max KL", "top-1 agreement"];
  const lines = rows.map(({ name, weightsBytes, evaluation: { perplexity, against } }) => {
    const mib = (weightsBytes / 2 ** 20).toFixed(1);
    if (against === undefined) return [name, mib, perplexity.toFixed(4), "–", "–", "–", "–"];
    const change = 100 * (perplexity / against.perplexity - 1);
    return [
      name,
      mib,
      perplexity.toFixed(4),
      `${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(2)} %`,
      against.meanKl.toExponential(2),
      against.maxKl.toExponential(2),
      `${(100 * against.top1Agreement).toFixed(2)} %`,
    ];
  });
  const rule = head.map((_, column) => (column === 0 ? "---" : "---:"));
  return [head, rule, ...lines].map((cells) => `| ${cells.join(" | ")} |\n`).join("");
}
