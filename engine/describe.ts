/** What a checkpoint is and what it will take, from its JSON and headers alone: no weight is read, no device made. */

import { type KvFormat, kvHeadBytes } from "../kernels/attention/kv/kv.ts";
import type { ActivationFormat } from "../kernels/linear/linear.ts";
import { PhiError } from "./errors.ts";
import { type Checkpoint, openCheckpoint } from "./files/checkpoint.ts";
import { type GenerationDefaults, readGenerationDefaults } from "./files/generation.ts";
import type { Folder } from "./files/source.ts";
import { sequenceBytes } from "./generation/sequence.ts";
import { adapterName, isSoftwareAdapter, maxBindingBytes } from "./gpu/adapter.ts";
import { buildPlan } from "./graph/build.ts";
import { Graph } from "./graph/graph.ts";
import { tuningFor } from "./graph/sizes.ts";
import { type MatrixRef, matrixBytes, rowRanges, Weights } from "./graph/weights.ts";
import type { Architecture } from "./models/architecture.ts";
import { declareWeights } from "./models/architecture.ts";
import { type RopePolicy, withRopePolicy } from "./models/rope.ts";
import { readArchitecture } from "./models/table.ts";
import { cacheRows, contextBuffers, layerCacheBytes } from "./run/cache.ts";
import { checkContext, chunkFor } from "./run/context.ts";
import { checkActivations } from "./weights/activations.ts";
import { type CheckedWeights, checkWeights } from "./weights/check.ts";
import { type QuantizeDescription, type QuantizeOptions, quantizeTargets } from "./weights/quantize.ts";

/** The parts whose parameters are counted. */
export type ModelPart = "embedding" | "attention" | "mlp" | "norms" | "head" | "other";

/** Tensors of one dtype in the files, whether or not the model uses them. */
export interface StoredTensors {
  readonly dtype: string;
  readonly tensors: number;
  readonly bytes: number;
}

/** A checkpoint as its headers describe it. */
export interface CheckpointDescription {
  readonly name: string;
  readonly files: readonly string[];
  readonly tensors: number;
  /** Most bytes first. */
  readonly stored: readonly StoredTensors[];
  readonly storedBytes: number;
  readonly notes: readonly string[];
  /** The model, or undefined where it cannot be run, for the reason in `problem`. */
  readonly model: ModelDescription | undefined;
  /** What `loadModel` would throw for config.json, generation_config.json or the tensors of these (good) headers. */
  readonly problem: PhiError | undefined;
}

/** What config.json says of quantized modules. */
export interface StoredQuantization {
  readonly method: "gptq" | "awq";
  readonly bits: 4 | 8;
  /** Columns that share a scale; undefined: all of a row's. */
  readonly groupSize: number | undefined;
  readonly symmetric: boolean;
  /** Whether the columns' groups follow an order of their own. */
  readonly actOrder: boolean;
  /** Modules that are stored quantized; the others are as they were. */
  readonly modules: number;
}

export interface ModelDescription {
  /** `model_type` of config.json. */
  readonly type: string;
  /** The class that publishes it, e.g. `Phi3ForCausalLM`. */
  readonly architecture: string;
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocabulary: number;
  readonly parameters: number;
  readonly parametersByPart: Readonly<Record<ModelPart, number>>;
  /** How the files are quantized, if they are. */
  readonly quantization: StoredQuantization | undefined;
  /** Whether the output head is the embedding. */
  readonly tied: boolean;
  /** Positions that the model was trained for. */
  readonly maxPositions: number;
  /** Keys that a query sees, where there is a sliding window. */
  readonly window: number | undefined;
  readonly rope: {
    readonly kind: "plain" | "longrope";
    readonly theta: number;
    /** Dimensions of a head that are rotated. */
    readonly rotary: number;
    /** longrope: sequences up to this length use the short factors. */
    readonly originalPositions: number | undefined;
  };
  /** Positions of the cache, as asked for or by default. */
  readonly context: number;
  readonly kv: KvFormat;
  /** What linears on integer weights make of their input. */
  readonly activations: ActivationFormat;
  /** What float weights become while they are loaded. */
  readonly quantize: QuantizeDescription;
  readonly generationDefaults: GenerationDefaults;
  /** Bytes of keys and values for 1,000 tokens in all layers; past a sliding window no more are added. */
  readonly kvBytesPer1000Tokens: number;
  /**
   * What it takes on an adapter; without one, on a GPU with WebGPU's default limits raised to 1 GiB. `context` in place of
   * its own positions.
   */
  needs(adapter?: GPUAdapter, context?: number): GpuNeeds;
}

/** Bytes on the GPU for one model at its context. */
export interface GpuNeeds {
  readonly weightsBytes: number;
  /** Weights that are read for one new token: all but the rest of the embedding and, of experts, those not taken. */
  readonly weightBytesPerToken: number;
  readonly kvBytes: number;
  /** Activations, rotary table and small buffers. */
  readonly activationBytes: number;
  readonly totalBytes: number;
  /** Prompt tokens that are run at a time. */
  readonly chunkTokens: number;
  readonly adapter: string | undefined;
  readonly isSoftware: boolean;
  /** Why it cannot run there, one line each; empty where no limit stands against it. */
  readonly obstacles: readonly string[];
}

export interface DescribeOptions {
  /** As in `LoadOptions`. */
  readonly context?: number;
  readonly kv?: KvFormat;
  readonly activations?: ActivationFormat;
  readonly rope?: RopePolicy;
  readonly quantize?: QuantizeOptions;
}

/**
 * Describes a checkpoint folder. Throws a PhiError "checkpoint" or "io" where the files cannot be read as a checkpoint,
 * and "usage" for a context that the model does not have; what is wrong with readable files is the `problem`.
 */
export async function describeCheckpoint(
  folder: Folder,
  options: DescribeOptions = {},
): Promise<CheckpointDescription> {
  const checkpoint = await openCheckpoint(folder);
  try {
    return await describeOpened(checkpoint, options);
  } finally {
    await checkpoint.close();
  }
}

async function describeOpened(checkpoint: Checkpoint, options: DescribeOptions): Promise<CheckpointDescription> {
  const stored = new Map<string, { tensors: number; bytes: number }>();
  for (const { dtype, sizeBytes } of checkpoint.tensors.values()) {
    const sum = stored.get(dtype) ?? { tensors: 0, bytes: 0 };
    stored.set(dtype, { tensors: sum.tensors + 1, bytes: sum.bytes + sizeBytes });
  }
  const facts = {
    name: checkpoint.name,
    files: [...new Set([...checkpoint.tensors.values()].map(({ file }) => file))].sort(),
    tensors: checkpoint.tensors.size,
    stored: [...stored].map(([dtype, sum]) => ({ dtype, ...sum })).sort((a, b) => b.bytes - a.bytes),
    storedBytes: [...stored.values()].reduce((total, { bytes }) => total + bytes, 0),
  };
  try {
    const { model, notes } = await describeModel(checkpoint, options);
    return { ...facts, notes: [...checkpoint.notes, ...notes], model, problem: undefined };
  } catch (error) {
    if (!(error instanceof PhiError && error.kind === "checkpoint")) throw error;
    return { ...facts, notes: checkpoint.notes, model: undefined, problem: error };
  }
}

async function describeModel(
  checkpoint: Checkpoint,
  options: DescribeOptions,
): Promise<{ readonly model: ModelDescription; readonly notes: readonly string[] }> {
  const architecture = readArchitecture(checkpoint.config);
  const defaults = readGenerationDefaults(checkpoint.config, checkpoint.generationConfig, architecture.vocab);
  const quantize = quantizeTargets(architecture, options.quantize);
  const weights = await checkWeights(checkpoint, architecture, declareWeights(architecture), quantize);
  const activations = checkActivations(options.activations, weights);
  const context = checkContext(options.context, architecture);
  withRopePolicy(architecture.rope, options.rope); // refused here, before a device is opened
  const kv = options.kv ?? "f16";
  const { name, layers, hidden, heads, kvHeads, headDim, vocab, maxPositions, window, rope } = architecture;
  const parametersByPart = countByPart(weights);
  const model: ModelDescription = {
    type: checkpoint.config.string("model_type"),
    architecture: name,
    layers,
    hidden,
    heads,
    kvHeads,
    headDim,
    vocabulary: vocab,
    parameters: weights.parameters,
    parametersByPart,
    quantization: storedQuantization(weights),
    tied: parametersByPart.head === 0,
    maxPositions,
    window,
    rope: {
      kind: rope.longrope === undefined ? "plain" : "longrope",
      theta: rope.theta,
      rotary: rope.rotary,
      originalPositions: rope.longrope?.originalPositions,
    },
    context,
    kv,
    activations,
    quantize: quantize.description,
    generationDefaults: defaults,
    kvBytesPer1000Tokens: 1000 * 2 * layers * kvHeads * kvHeadBytes(kv, headDim),
    needs: (adapter, at = context) => needsOf(architecture, weights, { context: at, kv }, adapter),
  };
  return { model, notes: [...weights.notes, ...defaults.notes] };
}

function storedQuantization({ quantization, declared, source }: CheckedWeights): StoredQuantization | undefined {
  if (quantization === undefined) return undefined;
  const { method, bits, groupCols, sym, descAct } = quantization;
  const needs = [...declared.values()].flatMap((ref) => (ref.kind === "matrix" ? ref.tensors : []));
  const modules = new Set(needs.filter((need) => source(need).isQuantized).map(({ name }) => name)).size;
  return { method, bits, groupSize: groupCols, symmetric: sym, actOrder: descAct, modules };
}

/** Tensor names of all Phi models, the more telling part of a name first: `self_attn.q_layernorm` is a norm. */
const parts: readonly (readonly [ModelPart, RegExp])[] = [
  ["embedding", /embed_tokens/],
  ["head", /lm_head/],
  ["norms", /norm\./],
  ["attention", /self_attn\./],
  ["mlp", /mlp\.|moe\./],
];

function countByPart(weights: CheckedWeights): Record<ModelPart, number> {
  const counts = { embedding: 0, attention: 0, mlp: 0, norms: 0, head: 0, other: 0 };
  for (const { name, shape } of [...weights.declared.values()].flatMap((ref) => ref.tensors)) {
    const part = parts.find(([, pattern]) => pattern.test(name))?.[0] ?? "other";
    counts[part] += shape.reduce((product, n) => product * n, 1);
  }
  return counts;
}

/** Bytes of the matrices that a graph of one token reads. */
function weightBytesRead(graph: Graph, bytesOf: (ref: MatrixRef) => number): number {
  return graph.nodes.reduce((sum, node) => {
    if (!("weight" in node)) return sum;
    const bytes = bytesOf(node.weight);
    return sum + Math.ceil(node.op === "embed" ? bytes / node.weight.rows : bytes * node.weight.activeShare);
  }, 0);
}

/** What is assumed of a GPU when there is none to ask. */
const assumed = { isSoftware: false, bindingBytes: 2 ** 30 };

/** Buffers are rounded up as `Device.createBuffer` does. */
const rounded = (bytes: number) => Math.max(16, Math.ceil(bytes / 16) * 16);

function needsOf(
  architecture: Architecture,
  weights: CheckedWeights,
  { context, kv }: { readonly context: number; readonly kv: KvFormat },
  adapter: GPUAdapter | undefined,
): GpuNeeds {
  const isSoftware = adapter ? isSoftwareAdapter(adapter.info) : assumed.isSoftware;
  const bindingBytes = adapter ? maxBindingBytes(adapter.limits) : assumed.bindingBytes;
  const chunkTokens = Math.min(context, chunkFor({ isSoftware }, weights, architecture));
  const rows = cacheRows(architecture, context, chunkTokens);

  let weightsBytes = 0;
  let rangeCount = 0;
  for (const ref of weights.declared.values()) {
    if (ref.kind === "vector") weightsBytes += rounded(ref.length * 4);
    else {
      weightsBytes += matrixBytes(ref, weights.packing(ref), bindingBytes);
      rangeCount += rowRanges(ref, weights.packing(ref), bindingBytes).length;
    }
  }
  const slots: number[] = [];
  let weightBytesPerToken = 0;
  for (const kind of ["prefill", "decode"] as const) {
    const graph = new Graph(kind);
    const logits = architecture.forward(graph, new Weights());
    const plan = buildPlan(graph, logits, {
      maxSeq: kind === "decode" ? 1 : chunkTokens,
      packing: weights.packing,
      kv,
      rotary: architecture.rope.rotary,
      maxBindingBytes: bindingBytes,
      tuning: tuningFor({ isSoftware, subgroupSize: 1 }), // the size of no buffer depends on it
    });
    if (kind === "decode")
      weightBytesPerToken = weightBytesRead(graph, (ref) => matrixBytes(ref, weights.packing(ref), bindingBytes));
    plan.slotBytes.forEach((bytes, slot) => {
      slots[slot] = Math.max(slots[slot] ?? 0, rounded(bytes));
    });
  }
  const ropeBytes = rounded(context * architecture.rope.rotary * 4);
  const smallBytes = sequenceBytes(architecture.vocab, chunkTokens) + 32 * rangeCount; // with the shapes of row ranges
  const activationBytes = slots.reduce((sum, bytes) => sum + bytes, ropeBytes + smallBytes);
  const kvBytes = 2 * architecture.layers * rounded(layerCacheBytes(architecture, kv, rows));

  const obstacles: string[] = [];
  const refuse = (what: string, bytes: number, advice: string) => {
    if (bytes > bindingBytes) obstacles.push(`${what} ${bytes} bytes, and it binds at most ${bindingBytes}${advice}`);
  };
  if (adapter) {
    for (const { what, bytes } of contextBuffers(architecture, kv, rows, context))
      refuse(what, bytes, ": give a smaller context");
    refuse("the activations of one chunk take", Math.max(...slots), "");
  }
  return {
    weightsBytes,
    weightBytesPerToken,
    kvBytes,
    activationBytes,
    totalBytes: weightsBytes + kvBytes + activationBytes,
    chunkTokens,
    adapter: adapter && adapterName(adapter.info),
    isSoftware,
    obstacles,
  };
}
