/** From a recorded graph to its plan: what is fused (fuse.ts), each value's slot by its lifetime, each node's kernel. */

import { attention, decodeOutput, joinedInput, ropeAppend } from "../../kernels/attention/attention.ts";
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
import { matmul } from "../../kernels/linear/matmul.ts";
import { matvec } from "../../kernels/linear/matvec.ts";
import { headNorm, layerNorm, rmsNorm } from "../../kernels/norm/norm.ts";
import type { Packing } from "../../kernels/weights/weights.ts";
import { type FusedLinear, fuse, fuseAttention, headsText, type PlannedNode, plannedInputs } from "./fuse.ts";
import type { Graph, Node, Value } from "./graph.ts";
import type { Chooser, Operand, Plan, PlanOptions, Step } from "./plan.ts";
import { sized } from "./sizes.ts";
import { type MatrixRef, type RowRange, rowRanges } from "./weights.ts";

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
