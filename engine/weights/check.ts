/** Compares a checkpoint's tensors with what a model asks for: names, shapes, dtypes, and how each matrix will be packed. */

import type { ZeroKind } from "../../kernels/loading/quantize.ts";
import type { Packing } from "../../kernels/weights/weights.ts";
import { PhiError, printable } from "../errors.ts";
import type { Checkpoint } from "../files/checkpoint.ts";
import { openQuantization, type Quantization } from "../files/quantization.ts";
import type { TensorInfo } from "../files/safetensors.ts";
import type { MatrixRef, TensorNeed, WeightRef } from "../graph/weights.ts";
import { type Architecture, limits } from "../models/architecture.ts";
import { awq } from "./awq.ts";
import type { MatrixFormat, MatrixSource, Problem, ReadTensor } from "./format.ts";
import { gptq } from "./gptq.ts";
import { type FloatTensor, floatTensor, isPlain, plain, plainBytes, toFloat32 } from "./plain.ts";
import type { QuantizeTargets } from "./quantize.ts";

const maxNamesShown = 20;
/** Modules whose order of columns is read at the same time: over a network each is an answer to wait for. */
const openedAtOnce = 16;

/** The checkpoint's tensors as the model will use them. */
export interface CheckedWeights {
  readonly declared: ReadonlyMap<string, WeightRef>;
  /** How the checkpoint says that it is quantized. */
  readonly quantization: Quantization | undefined;
  /** How a matrix lies on the GPU. */
  packing(ref: MatrixRef): Packing;
  /** How the files' rows of a matrix reach the GPU: as they will lie there, or plain rows that are quantized there. */
  delivered(ref: MatrixRef): Packing;
  /** Which zeros those get. */
  readonly zero: ZeroKind;
  /** Where the rows of a matrix come from. */
  source(need: TensorNeed): MatrixSource;
  /** The tensor of a vector. */
  tensor(need: TensorNeed): FloatTensor;
  /** Parameters that the model uses. */
  readonly parameters: number;
  /** Bytes that are read from the files. */
  readonly storedBytes: number;
  /** Tensors in the file that the model does not use. */
  readonly notes: readonly string[];
}

/** The on-disk encodings that are looked for, in this order: each module has the one whose tensors are there. */
function formatsOf(quantization: Quantization | undefined): readonly MatrixFormat[] {
  if (quantization === undefined) return [plain];
  return [quantization.method === "gptq" ? gptq(quantization) : awq(quantization), plain];
}

type Stored = Pick<Checkpoint, "name" | "config" | "quantizeConfig" | "tensors" | "read"> &
  Partial<Pick<Checkpoint, "absent">>;
type Expected = Pick<Architecture, "name" | "layers" | "layerPattern">;

/** A tensor that the model needs, and what for. */
interface Wanted {
  readonly need: TensorNeed;
  readonly kind: WeightRef["kind"];
}

/**
 * Compares names, shapes and dtypes; of quantized modules also reads how their columns are ordered. What the files hold
 * as floats gets the packing of `quantize`. Throws one PhiError "checkpoint" that names all the missing tensors, or all
 * the mis-shaped ones (up to 20 and a count), and refuses tensors of layers past the config's last.
 */
export async function checkWeights(
  checkpoint: Stored,
  architecture: Expected,
  declared: ReadonlyMap<string, WeightRef>,
  quantize?: QuantizeTargets,
): Promise<CheckedWeights> {
  const quantization = await openQuantization(checkpoint);
  const refs = [...declared.values()];
  const wanted = refs.flatMap((ref) => ref.tensors.map((need) => ({ need, kind: ref.kind })));
  const { sources, vectors } = await openTensors(checkpoint, wanted, formatsOf(quantization));
  const surplus = await checkSurplus(checkpoint, architecture, sources, vectors);
  const source = (need: TensorNeed) => known(sources, need);
  const tensor = (need: TensorNeed) => known(vectors, need);
  const matrices = refs.filter((ref) => ref.kind === "matrix");
  const { delivered, packing } = planPackings(matrices, source, quantize);
  const count = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1);
  const storedBytes = ({ need, kind }: Wanted) =>
    kind === "matrix" ? source(need).storedBytes : count(need.shape) * plainBytes(tensor(need).dtype);
  return {
    declared,
    quantization,
    packing,
    delivered,
    zero: quantize?.zero ?? "any",
    source,
    tensor,
    parameters: wanted.reduce((sum, { need }) => sum + count(need.shape), 0),
    storedBytes: wanted.reduce((sum, want) => sum + storedBytes(want), 0),
    notes: [
      ...(quantization?.notes ?? []),
      ...indexNotes(sources),
      ...doubleNotes(sources, vectors),
      ...packingNotes(matrices, source, { packing, delivered }, quantize),
      ...(surplus.length > 0
        ? [`${surplus.length} tensors of the files are not used: ${list(surplus.map(printable))}`]
        : []),
    ],
  };
}

function known<Found>(found: ReadonlyMap<string, Found>, { name }: TensorNeed): Found {
  const entry = found.get(name);
  if (entry === undefined) throw new Error(`${name} was not declared`);
  return entry;
}

interface OpenedTensors {
  readonly sources: ReadonlyMap<string, MatrixSource>;
  readonly vectors: ReadonlyMap<string, FloatTensor>;
}

/** Every tensor that the model needs, by its name. */
async function openTensors(
  checkpoint: Stored,
  wanted: readonly Wanted[],
  formats: readonly MatrixFormat[],
): Promise<OpenedTensors> {
  const { tensors, read } = checkpoint;
  const formatOf = (need: TensorNeed) => formats.find((format) => format.stores(tensors, need));
  const missing = wanted.filter(({ need, kind }) =>
    kind === "matrix" ? formatOf(need) === undefined : !tensors.has(need.name),
  );
  if (missing.length > 0) refuseMissing(checkpoint, wanted, missing);
  const problems: Problem[] = [];
  const sources = new Map<string, MatrixSource>();
  const vectors = new Map<string, FloatTensor>();
  const open = async ({ need, kind }: Wanted): Promise<MatrixSource | FloatTensor | Problem> => {
    const stored = tensors.get(need.name);
    const opened =
      kind === "matrix" ? await formatOf(need)?.open(tensors, need, read) : stored && floatTensor(stored, need);
    if (opened === undefined) throw new Error(`${need.name} is missing`);
    return opened;
  };
  for (let first = 0; first < wanted.length; first += openedAtOnce) {
    const batch = wanted.slice(first, first + openedAtOnce);
    for (const [i, opened] of (await Promise.all(batch.map(open))).entries()) {
      const name = batch[i]?.need.name ?? "";
      if ("problem" in opened) problems.push(opened);
      else if ("packing" in opened) sources.set(name, opened);
      else vectors.set(name, opened);
    }
  }
  if (problems.length > 0) {
    const advice = [...new Set(problems.map((problem) => problem.advice))].slice(0, 2);
    const what = problems.map(({ problem }) => problem);
    throw new PhiError("checkpoint", list(what, "; "), advice);
  }
  return { sources, vectors };
}

/** Names what is missing and, as the one may be the other under another name, what is there and not asked for. */
function refuseMissing(
  { name, tensors, absent }: Stored,
  wanted: readonly Wanted[],
  missing: readonly Wanted[],
): never {
  const names = list(missing.map(({ need }) => `"${printable(need.name)}" [${need.shape.join(", ")}]`));
  const asked = new Set(wanted.map(({ need }) => need.name));
  const others = [...tensors.keys()].filter((other) => !asked.has(other) && !asked.has(weightOf(other)));
  const surplus = others.length > 0 ? `; not asked for: ${list(others.map((other) => `"${printable(other)}"`))}` : "";
  throw new PhiError(
    "checkpoint",
    `${printable(name)}: expected ${wanted.length} tensors, got ${wanted.length - missing.length}; missing: ${names}${surplus}`,
    [missingAdvice(missing, others, absent)],
  );
}

/** The matrix that a tensor of a quantized module is a part of. */
function weightOf(name: string): string {
  return name.replace(/\.(?:qweight|qzeros|scales|g_idx)$/, ".weight");
}

function missingAdvice(
  missing: readonly Wanted[],
  others: readonly string[],
  absent: ReadonlySet<string> | undefined,
): string {
  if (others.some((name) => /\.lora_[AB]\.|\.base_layer\./.test(name))) {
    return "An adapter is not merged into these weights: call merge_and_unload() of PEFT before they are saved.";
  }
  if (missing.some(({ need }) => absent?.has(need.name))) {
    return "The index and the files are from different versions of the checkpoint: download both again.";
  }
  const under = (suffix: string) => others.find((name) => name.endsWith(`.${suffix}`));
  for (const { need } of missing) {
    const bare = need.name.replace(/^model\./, "");
    const found = under(need.name) ?? under(bare);
    const prefix = found?.slice(0, found.length - (found.endsWith(need.name) ? need.name : bare).length);
    if (prefix !== undefined)
      return `They may be those under "${printable(prefix)}": save the model without that prefix.`;
  }
  return "Is the download complete, and is config.json from the same checkpoint?";
}

/** Tensors that the model does not use; none of them may be something that it should have used. */
async function checkSurplus(
  { tensors, read }: Stored,
  architecture: Expected,
  sources: ReadonlyMap<string, MatrixSource>,
  vectors: ReadonlyMap<string, FloatTensor>,
): Promise<readonly string[]> {
  const used = new Set([...vectors.keys(), ...[...sources.values()].flatMap((s) => s.tensors.map(({ name }) => name))]);
  const surplus = [...tensors.keys()].filter((name) => !used.has(name));
  const layerOf = (name: string) => Number(architecture.layerPattern.exec(name)?.[1] ?? -1);
  const deeper = surplus.filter((name) => layerOf(name) >= architecture.layers);
  if (deeper.length > 0) {
    const names = list(deeper.map((name) => `"${printable(name)}"`));
    throw new PhiError(
      "checkpoint",
      `config.json: "num_hidden_layers": expected a layer for every tensor of the files, got ${architecture.layers}; beyond it: ${names}`,
      ["Is this config.json from another checkpoint?"],
    );
  }
  const biases = surplus.flatMap((name) => {
    const module = name.replace(/\.bias$/, "");
    const isMatrix = module !== name && sources.has(`${module}.weight`);
    return isMatrix ? (tensors.get(name) ?? []) : [];
  });
  await refuseBiases(biases, read, architecture);
  return surplus;
}

interface Packings {
  delivered(ref: MatrixRef): Packing;
  packing(ref: MatrixRef): Packing;
}

/** How each matrix reaches the GPU and how it lies there. */
function planPackings(
  matrices: readonly MatrixRef[],
  source: (need: TensorNeed) => MatrixSource,
  quantize: QuantizeTargets | undefined,
): Packings {
  const common = (ref: MatrixRef) =>
    commonPacking(
      ref,
      ref.tensors.map((need) => source(need).packing),
    );
  const packings = new Map(matrices.map((ref) => [ref.key, common(ref)]));
  const delivered = (ref: MatrixRef): Packing => packings.get(ref.key) ?? { layout: "f32" };
  const packing = (ref: MatrixRef): Packing => {
    const stored = delivered(ref);
    return "group" in stored ? stored : (quantize?.packing(ref) ?? stored);
  };
  return { delivered, packing };
}

function packingNotes(
  matrices: readonly MatrixRef[],
  source: (need: TensorNeed) => MatrixSource,
  { packing, delivered }: Packings,
  quantize: QuantizeTargets | undefined,
): readonly string[] {
  const unpacked = matrices.filter(
    (ref) => packing(ref).layout === "f32" && ref.tensors.some((need) => source(need).isQuantized),
  );
  const widened = `${unpacked.length} quantized matrices become float32, for their groups are of unequal sizes or differ from part to part: ${list(unpacked.map(({ key }) => printable(key)))}`;
  const asked = matrices.filter((ref) => quantize?.packing(ref) !== undefined);
  const keptCount = asked.filter((ref) => "group" in delivered(ref)).length;
  const kept = `${keptCount} matrices are quantized in the files and stay as they are stored`;
  return [...(unpacked.length > 0 ? [widened] : []), ...(keptCount > 0 ? [kept] : [])];
}

function indexNotes(sources: ReadonlyMap<string, MatrixSource>): readonly string[] {
  const ignored = [...sources].filter(([, source]) => source.ignoresGroupIndex).map(([name]) => printable(name));
  if (ignored.length === 0) return [];
  return [
    `g_idx is all zeros beside several groups, which are taken in their order, in ${ignored.length} matrices: ${list(ignored)}`,
  ];
}

/** float64 is the one stored type that does not keep its bits. */
function doubleNotes(
  sources: ReadonlyMap<string, MatrixSource>,
  vectors: ReadonlyMap<string, FloatTensor>,
): readonly string[] {
  const stored = [...[...sources.values()].flatMap(({ tensors }) => tensors), ...vectors.values()];
  const count = stored.filter(({ dtype }) => dtype === "F64").length;
  return count > 0 ? [`${count} tensors of float64 become float32`] : [];
}

/**
 * The packing of matrices that are stacked: their own; where they are integers of the same size, that of the smallest
 * groups, in an order of columns for each; else float32.
 */
function commonPacking(ref: MatrixRef, packings: readonly Packing[]): Packing {
  const plain = { layout: "f32" } as const;
  const common = packings.reduce((all, one) => {
    if (!("group" in all && "group" in one)) return all.layout === one.layout ? all : plain;
    const permuted = all.permuted || one.permuted;
    const group = all.group < one.group ? all.group : one.group;
    return all.layout === one.layout ? { layout: all.layout, group, ...(permuted && { permuted }) } : plain;
  });
  // The rows of a dispatch share its input, and so the order of its columns: a range each does not do for two parts,
  // nor for experts.
  const oneInput = ref.parts === 2 || ref.activeShare < 1;
  return "group" in common && common.permuted && oneInput && ref.tensors.length > 1 ? plain : common;
}

/**
 * A bias that the model has no use for must do nothing: AutoGPTQ writes zeros for modules without one. Throws a
 * PhiError "checkpoint" for any other.
 */
async function refuseBiases(
  biases: readonly TensorInfo[],
  read: ReadTensor,
  architecture: Pick<Architecture, "name">,
): Promise<void> {
  for (const bias of biases) {
    if (!isPlain(bias.dtype)) continue;
    const values = toFloat32(await read(bias, 0, Math.min(bias.sizeBytes, 4 * limits.ffn.max)), bias.dtype);
    if (values.every((value) => value === 0)) continue;
    throw new PhiError(
      "checkpoint",
      `${printable(bias.file)}: tensor "${printable(bias.name)}": expected zeros, for ${architecture.name} has no such bias, got others`,
      ["Is this config.json from another checkpoint?"],
    );
  }
}

function list(items: readonly string[], separator = ", "): string {
  const shown = items.slice(0, maxNamesShown).join(separator);
  return items.length > maxNamesShown ? `${shown}${separator}and ${items.length - maxNamesShown} more` : shown;
}
