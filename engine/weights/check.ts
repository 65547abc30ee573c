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

/**
 * Compares names, shapes and dtypes; of quantized modules also reads how their columns are ordered. What the files hold
 * as floats gets the packing of `quantize`. Throws one PhiError "checkpoint" that names all the missing tensors, or all
 * the mis-shaped ones (up to 20 and a count), and refuses tensors of layers past the config's last.
 */
export async function checkWeights(
  checkpoint: Pick<Checkpoint, "name" | "config" | "quantizeConfig" | "tensors" | "read">,
  architecture: Pick<Architecture, "name" | "layers" | "layerPattern">,
  declared: ReadonlyMap<string, WeightRef>,
  quantize?: QuantizeTargets,
): Promise<CheckedWeights> {
  const { tensors } = checkpoint;
  const quantization = await openQuantization(checkpoint);
  const formats = formatsOf(quantization);
  const refs = [...declared.values()];
  const needs = refs.flatMap((ref) => ref.tensors.map((need) => ({ need, kind: ref.kind })));
  const formatOf = (need: TensorNeed) => formats.find((format) => format.stores(tensors, need));
  const missing = needs.filter(({ need, kind }) =>
    kind === "matrix" ? formatOf(need) === undefined : !tensors.has(need.name),
  );
  if (missing.length > 0) {
    const names = list(missing.map(({ need }) => `"${printable(need.name)}" [${need.shape.join(", ")}]`));
    throw new PhiError(
      "checkpoint",
      `${printable(checkpoint.name)}: expected ${needs.length} tensors, got ${needs.length - missing.length}; missing: ${names}`,
      ["Is the download complete, and is config.json from the same checkpoint?"],
    );
  }
  const wrong: string[] = [];
  const sources = new Map<string, MatrixSource>();
  const vectors = new Map<string, FloatTensor>();
  const open = async ({ need, kind }: (typeof needs)[number]): Promise<MatrixSource | FloatTensor | Problem> => {
    const stored = tensors.get(need.name);
    const opened =
      kind === "matrix"
        ? await formatOf(need)?.open(tensors, need, checkpoint.read)
        : stored && floatTensor(stored, need);
    if (opened === undefined) throw new Error(`${need.name} is missing`);
    return opened;
  };
  for (let first = 0; first < needs.length; first += openedAtOnce) {
    const batch = needs.slice(first, first + openedAtOnce);
    for (const [i, opened] of (await Promise.all(batch.map(open))).entries()) {
      const name = batch[i]?.need.name ?? "";
      if ("problem" in opened) wrong.push(opened.problem);
      else if ("packing" in opened) sources.set(name, opened);
      else vectors.set(name, opened);
    }
  }
  if (wrong.length > 0) {
    throw new PhiError("checkpoint", list(wrong, "; "), ["Is this config.json from another checkpoint?"]);
  }
  const used = new Set([...vectors.keys(), ...[...sources.values()].flatMap((s) => s.tensors.map(({ name }) => name))]);
  const surplus = [...tensors.keys()].filter((name) => !used.has(name));
  const deeper = surplus.filter(
    (name) => Number(architecture.layerPattern.exec(name)?.[1] ?? -1) >= architecture.layers,
  );
  if (deeper.length > 0) {
    const names = list(deeper.map((name) => `"${printable(name)}"`));
    throw new PhiError(
      "checkpoint",
      `config.json: "num_hidden_layers": expected a layer for every tensor of the files, got ${architecture.layers}; beyond it: ${names}`,
      ["Is this config.json from another checkpoint?"],
    );
  }
  const matrices = refs.filter((ref) => ref.kind === "matrix");
  const biases = surplus.flatMap((name) => {
    const module = name.replace(/\.bias$/, "");
    const isMatrix = module !== name && sources.has(`${module}.weight`);
    return isMatrix ? (tensors.get(name) ?? []) : [];
  });
  await refuseBiases(biases, checkpoint.read, architecture);
  const known = <Found>(found: ReadonlyMap<string, Found>, { name }: TensorNeed): Found => {
    const entry = found.get(name);
    if (entry === undefined) throw new Error(`${name} was not declared`);
    return entry;
  };
  const source = (need: TensorNeed) => known(sources, need);
  const tensor = (need: TensorNeed) => known(vectors, need);
  const packings = new Map(
    matrices.map((ref) => [
      ref.key,
      commonPacking(
        ref,
        ref.tensors.map((need) => source(need).packing),
      ),
    ]),
  );
  const delivered = (ref: MatrixRef): Packing => packings.get(ref.key) ?? { layout: "f32" };
  const packing = (ref: MatrixRef): Packing => {
    const stored = delivered(ref);
    return "group" in stored ? stored : (quantize?.packing(ref) ?? stored);
  };
  const unpacked = matrices.filter(
    (ref) => packing(ref).layout === "f32" && ref.tensors.some((need) => source(need).isQuantized),
  );
  const widened =
    unpacked.length === 0
      ? []
      : [
          `${unpacked.length} quantized matrices become float32, for their groups are of unequal sizes or differ from part to part: ${list(unpacked.map(({ key }) => printable(key)))}`,
        ];
  const asked = matrices.filter((ref) => quantize?.packing(ref) !== undefined);
  const keptCount = asked.filter((ref) => "group" in delivered(ref)).length;
  const kept = keptCount > 0 ? [`${keptCount} matrices are quantized in the files and stay as they are stored`] : [];
  const unused =
    surplus.length === 0
      ? []
      : [`${surplus.length} tensors of the files are not used: ${list(surplus.map(printable))}`];
  const count = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1);
  return {
    declared,
    quantization,
    packing,
    delivered,
    zero: quantize?.zero ?? "any",
    source,
    tensor,
    parameters: needs.reduce((sum, { need }) => sum + count(need.shape), 0),
    storedBytes: needs.reduce(
      (sum, { need, kind }) =>
        sum + (kind === "matrix" ? source(need).storedBytes : count(need.shape) * plainBytes(tensor(need).dtype)),
      0,
    ),
    notes: [...(quantization?.notes ?? []), ...widened, ...kept, ...unused],
  };
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
