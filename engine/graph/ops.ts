/** The operations that a model is written in. Each records one node and returns its value. */

import type { Visible } from "../../kernels/attention/visible/visible.ts";
import { choicesPerToken, type ExpertEpilogue, groupColumns } from "../../kernels/experts/experts.ts";
import type { Graph, HeadGeometry, Value } from "./graph.ts";
import type { MatrixRef, VectorRef } from "./weights.ts";

export type { Visible } from "../../kernels/attention/visible/visible.ts";

/** Rows of the token embedding [vocab, hidden], by the ids of the call, times `scale`: [seq, hidden]. */
export function embed(g: Graph, weight: MatrixRef, scale = 1): Value {
  const out = g.value(g.kind === "decode" ? 1 : "seq", weight.cols);
  g.nodes.push({ op: "embed", label: g.label(weight.leaf), weight, scale, out });
  return out;
}

/** The rows whose logits are wanted: all of x, or its last row. */
export function outputRows(g: Graph, x: Value): Value {
  if (g.kind !== "prefill") return x;
  const out = g.value(1, x.cols);
  g.nodes.push({ op: "lastRow", label: g.label("last"), x, out });
  return out;
}

/** x / sqrt(mean(x²) + eps) * gain, row by row. */
export function rmsNorm(g: Graph, x: Value, gain: VectorRef, eps: number): Value {
  const out = g.value(x.rows, x.cols);
  g.nodes.push({ op: "rmsNorm", label: g.label(gain.leaf), x, gain, eps, out });
  return out;
}

/** (x - mean) / sqrt(variance + eps) * gain + bias, row by row. */
export function layerNorm(g: Graph, x: Value, gain: VectorRef, bias: VectorRef, eps: number): Value {
  const out = g.value(x.rows, x.cols);
  g.nodes.push({ op: "layerNorm", label: g.label(gain.leaf), x, gain, bias, eps, out });
  return out;
}

/** LayerNorm over each query and key head of a fused row [q | k | v]; v passes through. */
export function headNorm(
  g: Graph,
  x: Value,
  heads: HeadGeometry,
  norms: { qGain: VectorRef; qBias: VectorRef; kGain: VectorRef; kBias: VectorRef },
  eps: number,
): Value {
  const out = g.value(x.rows, x.cols);
  g.nodes.push({ op: "headNorm", label: g.label("qk_layernorm"), x, heads, ...norms, eps, out });
  return out;
}

/** x · Wᵀ + bias: [rows, cols of W] → [rows, rows of W], the parts of W side by side. */
export function linear(g: Graph, x: Value, weight: MatrixRef, bias?: VectorRef): Value {
  const out = g.value(x.rows, weight.rows * weight.parts);
  g.nodes.push({ op: "linear", label: g.label(weight.leaf), x, weight, bias, out });
  return out;
}

/** The tanh form of GELU. */
export function geluNew(g: Graph, x: Value): Value {
  const out = g.value(x.rows, x.cols);
  g.nodes.push({ op: "geluNew", label: g.label("gelu_new"), x, out });
  return out;
}

/** silu(gate) * up for x = [gate | up]: [rows, 2 ffn] → [rows, ffn]. */
export function gatedSilu(g: Graph, x: Value): Value {
  const out = g.value(x.rows, x.cols / 2);
  g.nodes.push({ op: "gatedSilu", label: g.label("silu"), x, out });
  return out;
}

/**
 * Phi-3-small's gated GELU, a * sigmoid(1.702 a) * (b + 1) for x = [a | b], after a was clamped to at most `limit` and b
 * to ±limit: [rows, 2 ffn] → [rows, ffn].
 */
export function gegelu(g: Graph, x: Value, limit: number): Value {
  const out = g.value(x.rows, x.cols / 2);
  g.nodes.push({ op: "gegelu", label: g.label("gegelu"), x, limit, out });
  return out;
}

/** scale * x + mask, column by column: the most negative float32 in `mask` is the result there. */
export function scaleMask(g: Graph, x: Value, scale: number, mask: VectorRef): Value {
  const out = g.value(x.rows, x.cols);
  g.nodes.push({ op: "scaleMask", label: g.label("mask"), x, scale, mask, out });
  return out;
}

/** a + b. */
export function add(g: Graph, a: Value, b: Value): Value {
  const out = g.value(a.rows, a.cols);
  g.nodes.push({ op: "add", label: g.label("add"), a, b, out });
  return out;
}

/** Rotates q and k of a fused row [q | k | v] by position and appends k and v to the layer's cache: the queries. */
export function ropeAppend(g: Graph, x: Value, heads: HeadGeometry, layer: number): Value {
  const out = g.value(x.rows, heads.heads * Math.ceil(heads.headDim / 4) * 4);
  g.nodes.push({ op: "ropeAppend", label: g.label("rope"), x, heads, layer, out });
  return out;
}

/** Causal attention of the queries on the layer's cache: [rows, heads * headDim]. */
export function attention(
  g: Graph,
  x: Value,
  heads: HeadGeometry,
  layer: number,
  scale: number,
  visible: Visible,
): Value {
  const out = g.value(x.rows, heads.heads * heads.headDim);
  g.nodes.push({ op: "attention", label: g.label("attention"), x, heads, layer, scale, visible, out });
  return out;
}

/**
 * Which two experts each row of scores [rows, experts] takes, with their weights: (expert, weight) twice, [rows, 4]. An
 * expert within 2 * jitter of the best score, relatively, counts in its weight.
 */
export function sparsemixer(g: Graph, x: Value, jitter: number): Value {
  const out = g.value(x.rows, 2 * choicesPerToken);
  g.nodes.push({ op: "sparsemixer", label: g.label("sparsemixer"), x, experts: x.cols, jitter, out });
  return out;
}

/** The matrices of all experts, one after the other: up [gate | up] of experts * ffn rows, down of experts * hidden. */
export interface Experts {
  readonly experts: number;
  readonly up: MatrixRef;
  readonly down: MatrixRef;
}

/** residual + the sum of weight * down(silu(gate x) * up x) over the experts that `routing` has for each row. */
export function experts(g: Graph, x: Value, routing: Value, { experts, up, down }: Experts, residual: Value): Value {
  const groups = x.rows === 1 ? undefined : groupByExpert(g, routing, experts);
  const linear = (input: Value, weight: MatrixRef, epilogue: ExpertEpilogue): Value => {
    const out = g.value(x.rows, (choicesPerToken * weight.rows) / experts);
    const operands = { x: input, routing, groups, weight, experts, epilogue };
    g.nodes.push({ op: "expertLinear", label: g.label(weight.leaf), ...operands, out });
    return out;
  };
  const inner = linear(x, up, "gated_silu"); // [rows, 2, ffn]
  const outer = linear(inner, down, "weighted"); // [rows, 2, hidden]
  const out = g.value(x.rows, residual.cols);
  g.nodes.push({ op: "expertSum", label: g.label("experts.sum"), x: outer, residual, out });
  return out;
}

function groupByExpert(g: Graph, routing: Value, experts: number): Value {
  const out = g.value(routing.rows, groupColumns(experts));
  g.nodes.push({ op: "groupByExpert", label: g.label("experts.group"), x: routing, experts, out });
  return out;
}
