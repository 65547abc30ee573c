/**
 * From a recorded graph to a flat list of dispatches: fuses what follows a linear into its epilogue, chooses kernels and
 * assigns values to slots by lifetime. Plain data, printable (`explain`) and testable without a GPU.
 */

import {
  type AttentionTile,
  attention,
  decodeAttention,
  decodeOutput,
  hasDecodeAttention,
  joinedInput,
  ropeAppend,
  type Splits,
} from "../../kernels/attention/attention.ts";
import type { HeadShape, KvFormat } from "../../kernels/attention/kv/kv.ts";
import { argmax, sample } from "../../kernels/choose/next.ts";
import { embed } from "../../kernels/embed/embed.ts";
import { lastRow } from "../../kernels/embed/last_row.ts";
import {
  type ExpertShape,
  expertMatmul,
  expertMatvec,
  expertSum,
  groupByExpert,
  sparsemixer,
} from "../../kernels/experts/experts.ts";
import type { Kernel } from "../../kernels/kernel.ts";
import type { ActivationFormat, Epilogue } from "../../kernels/linear/linear.ts";
import { type MatmulTile, matmul } from "../../kernels/linear/matmul.ts";
import { type MatvecTile, matvec } from "../../kernels/linear/matvec.ts";
import { headNorm, layerNorm, rmsNorm } from "../../kernels/norm/norm.ts";
import { type Packing, weightLayouts } from "../../kernels/weights/weights.ts";
import type { Graph, Node, Value } from "./graph.ts";
import { nodeInputs } from "./graph.ts";
import { type MatrixRef, type RowRange, rowRanges, type VectorRef } from "./weights.ts";

/** What a binding of a dispatch is bound to. */
export type Operand =
  | { readonly slot: number }
  | { readonly matrix: MatrixRef; readonly range: number }
  | { readonly shape: MatrixRef; readonly range: number }
  | { readonly scales: MatrixRef; readonly range: number }
  | { readonly perm: MatrixRef; readonly range: number }
  | { readonly vector: VectorRef }
  | { readonly cache: "keys" | "values"; readonly layer: number }
  | { readonly shared: "state" | "ids" | "rope" | "control" | "marks" };

/** One dispatch. */
export interface Step {
  /** e.g. `layer.12/self_attn.qkv_proj matvec<bf16,none>`. */
  readonly label: string;
  readonly kernel: Kernel;
  /** By the name of the variable in the WGSL file. */
  readonly bindings: Readonly<Record<string, Operand>>;
  /** Multiplications and additions for one token, attention's left out: what a step costs, roughly. */
  readonly flopsPerToken: number;
  /** Which size of the tuning it takes: the family's, or the one that was measured under this key. */
  readonly size?: { readonly family: Family; readonly key: string };
}

/** How the next token is chosen on the GPU: the one of the highest logit, or by the whole chain of the sampler. */
export type Chooser = "greedy" | "sample";

export interface Plan {
  readonly kind: Graph["kind"];
  /** Tokens that a call may have. */
  readonly maxSeq: number;
  /** Up to the logits. */
  readonly steps: readonly Step[];
  /** How many of them, from the first, make what the cache gets. */
  readonly cacheSteps: number;
  /** What makes the next token of them, a step a way of choosing; nothing in a plan that keeps all positions. */
  readonly choosers: Readonly<Partial<Record<Chooser, Step>>>;
  /** Bytes of each slot. */
  readonly slotBytes: readonly number[];
  /** The slot of the logits [rows, vocab]. */
  readonly logitsSlot: number;
  readonly vocab: number;
  /** Slots and columns of the graph's named values, where they were asked for. */
  readonly taps: ReadonlyMap<string, { readonly slot: number; readonly cols: number }>;
}

/** The steps of a plan, its choosers behind them. */
export function allSteps({ steps, choosers }: Plan): readonly Step[] {
  return [...steps, ...Object.values(choosers)];
}

/** Sizes of workgroups and register tiles, by the family of kernels that takes them. */
export interface Sizes {
  readonly matvec: MatvecTile;
  readonly matmul: MatmulTile;
  readonly decodeAttention: AttentionTile & Splits;
  readonly prefillAttention: AttentionTile;
  readonly normLanes: number;
  readonly argmaxLanes: number;
  readonly sampleThreads: number;
}

export type Family = keyof Sizes;

/** Sizes by kernel and shape (`Step.size`), as tune.ts measures them. */
export type TunedSizes = { readonly [F in Family]?: Readonly<Record<string, Sizes[F]>> };

/** The sizes of a plan, which are chosen per adapter. */
export interface Tuning extends Sizes {
  /** In place of a family's. */
  readonly tuned?: TunedSizes;
  /** Whether compilers may unroll long loops (state.wgsl). */
  readonly unroll: boolean;
}

export interface PlanOptions {
  readonly maxSeq: number;
  readonly packing: (ref: MatrixRef) => Packing;
  readonly kv: KvFormat;
  /** What linears on integer weights make of their input; default f32. */
  readonly activations?: ActivationFormat;
  readonly rotary: number;
  readonly maxBindingBytes: number;
  readonly tuning: Tuning;
  /** Keep the named values in slots of their own, to be read back. */
  readonly taps?: boolean;
}

/** A linear with what was fused into it. */
interface FusedLinear {
  readonly op: "fusedLinear";
  readonly label: string;
  readonly x: Value;
  readonly weight: MatrixRef;
  readonly bias: VectorRef | undefined;
  readonly epilogue: Epilogue;
  /** Values of the epilogue's overrides. */
  readonly constants: Readonly<Record<string, number>> | undefined;
  readonly mask: VectorRef | undefined;
  readonly residual: Value | undefined;
  /** The attention whose parts are joined as x is read. */
  readonly joined: DecodeAttention | undefined;
  readonly out: Value;
}

/** Attention of a single token with the rotation and the append before it. */
interface DecodeAttention extends Omit<Extract<Node, { op: "attention" }>, "op"> {
  readonly op: "decodeAttention";
  readonly sized: Sized<"decodeAttention">;
  readonly split: Splits;
}

/** A kernel in a size of its family. */
interface Sized<F extends Family> {
  readonly kernel: Kernel;
  readonly size: { readonly family: F; readonly key: string };
  readonly value: Sizes[F];
}

/** The kernel of a shape, in the size that was measured for the two, or else in the family's. */
function sized<F extends Family>(
  tuning: Tuning,
  family: F,
  shape: string | number,
  kernelOf: (size: Sizes[F]) => Kernel,
): Sized<F> {
  const key = `${kernelOf(tuning[family]).name} ${shape}`;
  const value: Sizes[F] = tuning.tuned?.[family]?.[key] ?? tuning[family];
  return { kernel: kernelOf(value), size: { family, key }, value };
}

const headsText = ({ heads, kvHeads, headDim }: HeadShape) => `${heads}/${kvHeads}x${headDim}`;

/** What has no kernel and must follow a linear. */
const fusedOps = ["add", "geluNew", "gatedSilu", "gegelu", "scaleMask"] as const;
type FusedOp = (typeof fusedOps)[number];

function isFusedNode(node: Node): node is Extract<Node, { op: FusedOp }> {
  return fusedOps.some((name) => name === node.op);
}

type PlannedNode = Exclude<Node, { op: "linear" | FusedOp }> | FusedLinear | DecodeAttention;

/** Folds the activation or the residual addition that follows each linear into it. */
function fuse(graph: Graph, keep: ReadonlySet<number>): readonly PlannedNode[] {
  const consumers = new Map<number, Node[]>();
  for (const node of graph.nodes) {
    for (const value of nodeInputs(node)) consumers.set(value.id, [...(consumers.get(value.id) ?? []), node]);
  }
  const computed = new Set<number>();
  const absorbed = new Set<Node>();
  const planned: PlannedNode[] = [];
  for (const node of graph.nodes) {
    if (absorbed.has(node)) continue;
    if (node.op === "linear") {
      const users = consumers.get(node.out.id) ?? [];
      const next = users.length === 1 && !keep.has(node.out.id) ? users[0] : undefined;
      const fused = fuseLinear(node, next, computed);
      if (next !== undefined && fused.out.id === next.out.id) absorbed.add(next);
      planned.push(fused);
      computed.add(fused.out.id);
    } else if (isFusedNode(node)) {
      throw new Error(`plan: ${node.label} does not directly follow a linear, and has no kernel of its own`);
    } else {
      planned.push(node);
      computed.add(node.out.id);
    }
  }
  return planned;
}

function fuseLinear(
  node: Extract<Node, { op: "linear" }>,
  next: Node | undefined,
  computed: ReadonlySet<number>,
): FusedLinear {
  const { label, x, weight, bias } = node;
  const none = { constants: undefined, mask: undefined, residual: undefined, joined: undefined };
  const fused = { op: "fusedLinear" as const, label, x, weight, bias, ...none };
  if (next?.op === "gatedSilu" && weight.parts === 2 && bias === undefined) {
    return { ...fused, epilogue: "gated_silu", out: next.out };
  }
  if (next?.op === "gegelu" && weight.parts === 2 && bias !== undefined) {
    return { ...fused, epilogue: "bias_gegelu", constants: { LIMIT: next.limit }, out: next.out };
  }
  if (next?.op === "geluNew" && bias !== undefined) {
    return { ...fused, epilogue: "bias_gelu", out: next.out };
  }
  if (next?.op === "scaleMask" && weight.parts === 1 && bias === undefined) {
    return { ...fused, epilogue: "scale_mask", constants: { SCALE: next.scale }, mask: next.mask, out: next.out };
  }
  if (next?.op === "add") {
    const residual = next.a.id === node.out.id ? next.b : next.a;
    if (computed.has(residual.id)) {
      return { ...fused, epilogue: bias === undefined ? "residual" : "bias_residual", residual, out: next.out };
    }
  }
  if (weight.parts !== 1) throw new Error(`plan: ${label} has two parts and nothing that joins them`);
  return { ...fused, epilogue: bias === undefined ? "none" : "bias", out: node.out };
}

/**
 * In a plan of single tokens, makes one dispatch of rotation, append and attention. Where the linear behind it can join
 * parts, the keys are divided among workgroups.
 */
function fuseAttention(nodes: readonly PlannedNode[], options: PlanOptions): readonly PlannedNode[] {
  const planned: PlannedNode[] = [];
  const divided = new Map<number, DecodeAttention>();
  for (const node of nodes) {
    const before = planned.at(-1);
    if (
      node.op === "attention" &&
      before?.op === "ropeAppend" &&
      before.out.id === node.x.id &&
      hasDecodeAttention(node.heads)
    ) {
      const readers = nodes.filter((one) => plannedInputs(one).includes(node.out));
      const joins = readers.every((one) => one.op === "fusedLinear" && joinsParts(one, node.heads, options));
      const splitOf = (size: Splits): Splits => (joins ? size : { splits: 1, span: 1 });
      const { heads, scale, visible } = node;
      const inSize = sized(options.tuning, "decodeAttention", headsText(heads), (size) =>
        decodeAttention({ ...heads, kv: options.kv }, options.rotary, scale, visible, size, splitOf(size)),
      );
      const split = splitOf(inSize.value);
      const fused = { ...node, op: "decodeAttention" as const, x: before.x, sized: inSize, split };
      planned[planned.length - 1] = fused;
      if (split.splits > 1) divided.set(node.out.id, fused);
    } else {
      planned.push(node.op === "fusedLinear" ? { ...node, joined: divided.get(node.x.id) } : node);
    }
  }
  return planned;
}

/** Whether a linear reads whole vectors of one head, in their order. */
function joinsParts({ weight }: FusedLinear, { headDim }: HeadShape, { packing }: PlanOptions): boolean {
  const of = packing(weight);
  return headDim % 4 === 0 && weight.cols % weightLayouts[of.layout].blockCols === 0 && !("group" in of && of.permuted);
}

function plannedInputs(node: PlannedNode): readonly Value[] {
  if (node.op === "decodeAttention") return [node.x];
  if (node.op !== "fusedLinear") return nodeInputs(node);
  return node.residual === undefined ? [node.x] : [node.x, node.residual];
}

/**
 * Assigns each value a slot that no value alive at the same time has. Slots are whole buffers: WebGPU does not let one
 * dispatch read and write the same buffer through different bindings.
 */
function assignSlots(nodes: readonly PlannedNode[], logits: Value, keep: ReadonlySet<number>, maxSeq: number) {
  const lastUse = new Map<number, number>();
  nodes.forEach((node, index) => {
    for (const value of plannedInputs(node)) lastUse.set(value.id, index);
  });
  const bytesOf = (value: Value) => (value.rows === "seq" ? maxSeq : 1) * value.cols * 4;
  const slotBytes: number[] = [];
  const slotOf = new Map<number, number>();
  const free: number[] = [];
  nodes.forEach((node, index) => {
    const bytes = node.op === "decodeAttention" ? decodeOutput(node.heads, node.split) * 4 : bytesOf(node.out);
    // The smallest free slot that is large enough, else the largest one, which grows.
    free.sort((a, b) => (slotBytes[a] ?? 0) - (slotBytes[b] ?? 0));
    const fitting = free.findIndex((slot) => (slotBytes[slot] ?? 0) >= bytes);
    const slot = free.splice(fitting >= 0 ? fitting : free.length - 1, 1)[0] ?? slotBytes.length;
    slotBytes[slot] = Math.max(slotBytes[slot] ?? 0, bytes);
    slotOf.set(node.out.id, slot);
    for (const value of new Set(plannedInputs(node))) {
      const owned = slotOf.get(value.id);
      if (lastUse.get(value.id) === index && !keep.has(value.id) && value.id !== logits.id && owned !== undefined) {
        free.push(owned);
      }
    }
  });
  return { slotBytes, slotOf };
}

/** Plans a recorded graph whose result is `logits`. Throws an Error if the graph holds what no kernel computes. */
export function buildPlan(graph: Graph, logits: Value, options: PlanOptions): Plan {
  const { maxSeq, tuning } = options;
  const keep = new Set(options.taps ? [...graph.taps.values()].map((value) => value.id) : []);
  const fused = fuse(graph, keep);
  const nodes = graph.kind === "decode" ? fuseAttention(fused, options) : fused;
  const { slotBytes, slotOf } = assignSlots(nodes, logits, keep, maxSeq);
  const slot = (value: Value): Operand => {
    const index = slotOf.get(value.id);
    if (index === undefined) throw new Error(`plan: value ${value.id} is used before it is computed`);
    return { slot: index };
  };
  const byNode = nodes.map((node) => planNode(node, slot, options));
  const steps = byNode.flat();
  const lastWrite = nodes.findLastIndex(({ op }) => op === "ropeAppend" || op === "decodeAttention");
  const next = { state, control: { shared: "control" }, ids: { shared: "ids" }, logits: slot(logits) } as const;
  const greedy = sized(tuning, "argmaxLanes", logits.cols, argmax);
  const drawn = sized(tuning, "sampleThreads", logits.cols, sample);
  const choosers: Record<Chooser, Step> = {
    greedy: { label: "next", kernel: greedy.kernel, size: greedy.size, bindings: next, flopsPerToken: 0 },
    sample: {
      label: "next",
      kernel: drawn.kernel,
      size: drawn.size,
      bindings: { ...next, marks: { shared: "marks" } },
      flopsPerToken: 0,
    },
  };
  const taps = new Map<string, { slot: number; cols: number }>();
  if (options.taps) {
    for (const [name, value] of graph.taps) taps.set(name, { slot: slotOf.get(value.id) ?? 0, cols: value.cols });
  }
  const finished = ({ kernel, ...step }: Step): Step => ({
    ...step,
    label: `${step.label} ${kernel.name}`,
    kernel: { ...kernel, constants: { ...kernel.constants, UNROLL: tuning.unroll ? 1 : 0 } },
  });
  return {
    kind: graph.kind,
    maxSeq,
    steps: steps.map(finished),
    cacheSteps: byNode.slice(0, lastWrite + 1).flat().length,
    choosers: graph.kind === "all" ? {} : { greedy: finished(choosers.greedy), sample: finished(choosers.sample) },
    slotBytes,
    logitsSlot: slotOf.get(logits.id) ?? 0,
    vocab: logits.cols,
    taps,
  };
}

const state: Operand = { shared: "state" };

function planNode(node: PlannedNode, slot: (value: Value) => Operand, options: PlanOptions): Step[] {
  const { kv, rotary, tuning } = options;
  const { label } = node;
  const ranges = (ref: MatrixRef) => rowRanges(ref, options.packing(ref), options.maxBindingBytes);
  const one = (kernel: Kernel, bindings: Record<string, Operand>, size?: Step["size"]): Step[] => [
    { label, kernel, bindings: { state, ...bindings }, flopsPerToken: 0, ...(size && { size }) },
  ];
  switch (node.op) {
    case "embed": {
      const packing = options.packing(node.weight);
      if ("group" in packing && packing.permuted) throw new Error(`plan: ${label} takes no permuted columns`);
      const kernel = embed(packing.layout, node.weight.cols, node.scale);
      return ranges(node.weight).map((_, range) => ({
        label,
        kernel,
        bindings: { state, ids: { shared: "ids" }, x: slot(node.out), ...matrixBindings(node.weight, range, packing) },
        flopsPerToken: 0,
      }));
    }
    case "lastRow":
      return one(lastRow(node.x.cols), { x: slot(node.x), y: slot(node.out) });
    case "rmsNorm": {
      const { kernel, size } = sized(tuning, "normLanes", node.x.cols, (lanes) => rmsNorm(node.eps, lanes));
      const bindings = { x: slot(node.x), y: slot(node.out), gain: { vector: node.gain } } as const;
      return one(oneRow(kernel, node.x), bindings, size);
    }
    case "layerNorm": {
      const { kernel, size } = sized(tuning, "normLanes", node.x.cols, (lanes) => layerNorm(node.eps, lanes));
      const vectors = { gain: { vector: node.gain }, bias: { vector: node.bias } };
      return one(oneRow(kernel, node.x), { x: slot(node.x), y: slot(node.out), ...vectors }, size);
    }
    case "headNorm": {
      const { heads, kvHeads, headDim } = node.heads;
      return one(headNorm(heads, kvHeads, headDim, node.eps), {
        qkv: slot(node.x),
        y: slot(node.out),
        qGain: { vector: node.qGain },
        qBias: { vector: node.qBias },
        kGain: { vector: node.kGain },
        kBias: { vector: node.kBias },
      });
    }
    case "ropeAppend":
      return one(ropeAppend({ ...node.heads, kv }, rotary), {
        qkv: slot(node.x),
        table: { shared: "rope" },
        q: slot(node.out),
        ...cacheBindings(node.layer),
      });
    case "decodeAttention": {
      const { kernel, size } = node.sized;
      const inputs = { qkv: slot(node.x), table: { shared: "rope" } } as const;
      return one(kernel, { ...inputs, o: slot(node.out), ...cacheBindings(node.layer) }, size);
    }
    case "attention": {
      const { kernel, size } = sized(tuning, "prefillAttention", headsText(node.heads), (tile) =>
        attention({ ...node.heads, kv }, node.scale, node.visible, tile),
      );
      return one(kernel, { q: slot(node.x), o: slot(node.out), ...cacheBindings(node.layer) }, size);
    }
    case "sparsemixer":
      return one(sparsemixer(node.experts, node.jitter), { scores: slot(node.x), routing: slot(node.out) });
    case "groupByExpert":
      return one(groupByExpert(node.experts, groupLanes), { routing: slot(node.x), groups: slot(node.out) });
    case "expertLinear":
      return ranges(node.weight).map((rows, range) => planExpertLinear(node, rows, range, slot, options));
    case "expertSum":
      return one(expertSum(node.out.cols), { x: slot(node.x), residual: slot(node.residual), y: slot(node.out) });
    case "fusedLinear":
      return ranges(node.weight).map((rows, range) => planLinear(node, rows, range, slot, options));
  }
}

/** A norm of a single row (after `lastRow`) is one workgroup, however many tokens the call has. */
function oneRow(kernel: Kernel, x: Value): Kernel {
  return x.rows === 1 ? { ...kernel, grid: () => [1, 1, 1] } : kernel;
}

function planLinear(
  node: FusedLinear,
  { rows: rangeRows }: RowRange,
  range: number,
  slot: (value: Value) => Operand,
  options: PlanOptions,
): Step {
  const { weight, epilogue, constants } = node;
  const { tuning, activations } = options;
  const joined = node.joined && joinedInput(node.joined.heads, node.joined.visible, node.joined.split);
  const packing = options.packing(weight);
  const permuted = "group" in packing && packing.permuted;
  const { layout } = packing;
  const shape = { layout, activations, epilogue, cols: weight.cols, rangeRows, permuted, joined, constants };
  const sizes = `${rangeRows}x${weight.cols}`;
  const { kernel, size } =
    node.x.rows === 1
      ? sized(tuning, "matvec", sizes, (tile) => matvec(shape, tile))
      : sized(tuning, "matmul", sizes, (tile) => matmul(shape, tile));
  return {
    label: node.label,
    kernel,
    size,
    bindings: {
      state,
      x: slot(node.x),
      y: slot(node.out),
      ...matrixBindings(weight, range, packing),
      ...(node.bias === undefined ? {} : { bias: { vector: node.bias } }),
      ...(node.mask === undefined ? {} : { mask: { vector: node.mask } }),
      ...(node.residual === undefined ? {} : { residual: slot(node.residual) }),
    },
    flopsPerToken: 2 * rangeRows * weight.parts * weight.cols,
  };
}

/** Threads that look through a chunk's choices for those of an expert. */
const groupLanes = 64;

function planExpertLinear(
  node: Extract<Node, { op: "expertLinear" }>,
  { rows: rangeRows }: RowRange,
  range: number,
  slot: (value: Value) => Operand,
  options: PlanOptions,
): Step {
  const { weight, experts, epilogue, groups } = node;
  const { tuning, activations } = options;
  const packing = options.packing(weight);
  if ("group" in packing && packing.permuted) throw new Error(`plan: ${node.label} takes no permuted columns`);
  const expertRows = weight.rows / experts;
  const shape: ExpertShape = {
    layout: packing.layout,
    activations,
    epilogue,
    experts,
    expertRows,
    cols: weight.cols,
    rangeRows,
  };
  const sizes = `${rangeRows}x${weight.cols}`;
  const { kernel, size } =
    groups === undefined
      ? sized(tuning, "matvec", sizes, (tile) => expertMatvec(shape, tile))
      : sized(tuning, "matmul", sizes, (tile) => expertMatmul(shape, tile));
  return {
    label: node.label,
    kernel,
    size,
    bindings: {
      state,
      x: slot(node.x),
      y: slot(node.out),
      routing: slot(node.routing),
      ...matrixBindings(weight, range, packing),
      ...(groups === undefined ? {} : { groups: slot(groups) }),
    },
    flopsPerToken: 2 * rangeRows * weight.parts * weight.cols * weight.activeShare,
  };
}

function matrixBindings(matrix: MatrixRef, range: number, packing: Packing): Record<string, Operand> {
  const bindings = { weight: { matrix, range }, matrix: { shape: matrix, range } };
  if (!("group" in packing)) return bindings;
  const scaled = { ...bindings, scales: { scales: matrix, range } };
  return packing.permuted ? { ...scaled, perm: { perm: matrix, range } } : scaled;
}

function cacheBindings(layer: number): Record<string, Operand> {
  return { keys: { cache: "keys", layer }, values: { cache: "values", layer } };
}

/** A plan as text: a line per dispatch, with its slots, the one that chooses the likeliest token included. */
export function explain(plan: Plan): string {
  const steps = [...plan.steps, ...(plan.choosers.greedy === undefined ? [] : [plan.choosers.greedy])];
  const lines = steps.map((step) => {
    const operands = Object.entries(step.bindings).flatMap(([name, operand]) =>
      "slot" in operand ? [`${name}=#${operand.slot}`] : [],
    );
    return `  ${step.label}  ${operands.join(" ")}`;
  });
  const slots = plan.slotBytes.map((bytes, index) => `#${index} ${bytes}`).join(", ");
  const head = `${plan.kind}: ${steps.length} dispatches for up to ${plan.maxSeq} tokens; slots in bytes: ${slots}`;
  return [head, ...lines].join("\n");
}
