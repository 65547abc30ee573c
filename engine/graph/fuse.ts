/** What of a recorded graph becomes one dispatch: a linear with what follows it, attention with what comes before it. */

import { decodeAttention, hasDecodeAttention, type Splits } from "../../kernels/attention/attention.ts";
import type { HeadShape } from "../../kernels/attention/kv/kv.ts";
import type { Epilogue } from "../../kernels/linear/linear.ts";
import { weightLayouts } from "../../kernels/weights/weights.ts";
import { type Graph, type Node, nodeInputs, type Value } from "./graph.ts";
import type { PlanOptions } from "./plan.ts";
import { type Sized, sized } from "./sizes.ts";
import type { MatrixRef, VectorRef } from "./weights.ts";

/** A linear with what was fused into it. */
export interface FusedLinear {
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
export interface DecodeAttention extends Omit<Extract<Node, { op: "attention" }>, "op"> {
  readonly op: "decodeAttention";
  readonly sized: Sized<"decodeAttention">;
  readonly split: Splits;
}

/** The shape of attention in the key of a size. */
export const headsText = ({ heads, kvHeads, headDim }: HeadShape) => `${heads}/${kvHeads}x${headDim}`;

/** What has no kernel and must follow a linear. */
const fusedOps = ["add", "geluNew", "gatedSilu", "gegelu", "scaleMask"] as const;
type FusedOp = (typeof fusedOps)[number];

function isFusedNode(node: Node): node is Extract<Node, { op: FusedOp }> {
  return fusedOps.some((name) => name === node.op);
}

/** What becomes one dispatch, or one for each range of a weight. */
export type PlannedNode = Exclude<Node, { op: "linear" | FusedOp }> | FusedLinear | DecodeAttention;

/** Folds the activation or the residual addition that follows each linear into it. */
export function fuse(graph: Graph, keep: ReadonlySet<number>): readonly PlannedNode[] {
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
export function fuseAttention(nodes: readonly PlannedNode[], options: PlanOptions): readonly PlannedNode[] {
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

/** The values that a node reads. */
export function plannedInputs(node: PlannedNode): readonly Value[] {
  if (node.op === "decodeAttention") return [node.x];
  if (node.op !== "fusedLinear") return nodeInputs(node);
  return node.residual === undefined ? [node.x] : [node.x, node.residual];
}
