/** `phi models`: the published models, with what the engine computes of each from its config. */
import { declaredFolder, describeCheckpoint, type ModelDescription } from "../engine/index.ts";
import { formatBytes, jsonLine } from "./format.ts";
import { print } from "./output.ts";
import { otherModels, type PublishedModel, publishedModels } from "./published.ts";

/** A row of the table. Memory is what it takes on a GPU at a context of at most 4096, with an f16 cache. */
export interface ModelFacts {
  readonly name: string;
  readonly licence: string;
  readonly architecture: string;
  readonly parameters: number;
  readonly context: number;
  /** The weights, without the tokenizer's files. */
  readonly downloadBytes: number;
  /** The weights on the GPU with `--quantize int4`. */
  readonly int4Bytes: number;
  readonly kvBytesPer1000Tokens: number;
  /** As published: bfloat16 or float16. */
  readonly gpuBytes: number;
  readonly gpuInt4Bytes: number;
  readonly verified: string;
}

/** The facts of every model that runs here. */
export function modelFacts(): Promise<readonly ModelFacts[]> {
  return Promise.all(Object.values<PublishedModel>(publishedModels).map(factsOf));
}

async function factsOf({ name, licence, config, verifiedBy }: PublishedModel): Promise<ModelFacts> {
  const folder = declaredFolder(name, { config }, config.torch_dtype === "float16" ? "F16" : "BF16");
  const weights = await folder.open("model.safetensors");
  const model = await describe(folder);
  const int4 = (await describe(folder, { quantize: { weights: "int4" } })).needs();
  return {
    name,
    licence,
    architecture: model.architecture,
    parameters: model.parameters,
    context: model.maxPositions,
    downloadBytes: weights?.sizeBytes ?? 0,
    int4Bytes: int4.weightsBytes,
    kvBytesPer1000Tokens: model.kvBytesPer1000Tokens,
    gpuBytes: model.needs().totalBytes,
    gpuInt4Bytes: int4.totalBytes,
    verified: `tiny reference (${verifiedBy})`,
  };
}

async function describe(...args: Parameters<typeof describeCheckpoint>): Promise<ModelDescription> {
  const { model, problem } = await describeCheckpoint(...args);
  if (model === undefined) throw problem;
  return model;
}

const billions = (parameters: number) => `${(parameters / 1e9).toFixed(2)} B`;

/** The cells of a row, under the names of `columns`. */
export function factCells(facts: ModelFacts): readonly string[] {
  return [
    facts.name,
    facts.architecture,
    billions(facts.parameters),
    facts.context.toLocaleString("en-US"),
    facts.licence,
    formatBytes(facts.downloadBytes),
    formatBytes(facts.int4Bytes),
    formatBytes(facts.kvBytesPer1000Tokens),
    formatBytes(facts.gpuBytes),
    formatBytes(facts.gpuInt4Bytes),
    facts.verified,
  ];
}

export const columns = [
  "model",
  "architecture",
  "parameters",
  "context",
  "licence",
  "download",
  "int4",
  "cache / 1,000 tokens",
  "GPU",
  "GPU, int4",
  "verified",
] as const;

export async function models({ json = false }: { readonly json?: boolean }): Promise<void> {
  const all = await modelFacts();
  if (json) return print(jsonLine([...all.map(factsJson), ...otherModels.map(otherJson)]));
  const rows = [columns, ...all.map(factCells)];
  const widths = columns.map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  const isNumber = (i: number) => i !== 1 && /^[\d.]/.test(rows[1]?.[i] ?? "");
  const line = (row: readonly string[]) =>
    row.map((cell, i) => (isNumber(i) ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0))).join("  ");
  const others = otherModels.map(({ name, reason }) => `${name}: not supported. ${reason}`);
  await print([...rows.map((row) => line(row).trimEnd()), "", ...others, ""].join("\n"));
}

function factsJson(facts: ModelFacts) {
  return {
    name: facts.name,
    supported: true,
    licence: facts.licence,
    architecture: facts.architecture,
    parameters: facts.parameters,
    context: facts.context,
    download_bytes: facts.downloadBytes,
    int4_bytes: facts.int4Bytes,
    kv_bytes_per_1000_tokens: facts.kvBytesPer1000Tokens,
    gpu_bytes: facts.gpuBytes,
    gpu_int4_bytes: facts.gpuInt4Bytes,
    verified: facts.verified,
  };
}

const otherJson = ({ name, licence, reason }: (typeof otherModels)[number]) => ({
  name,
  supported: false,
  licence,
  reason,
});
