/**
 * A model's forward pass as a list of nodes. A model file runs once per kind of graph and records what it would compute;
 * `build.ts` turns the record into dispatches. Plain data: no device, no kernels.
 */

import type { Visible } from "../../kernels/attention/visible/visible.ts";
import type { ExpertEpilogue } from "../../kernels/experts/experts.ts";
import type { MatrixRef, VectorRef } from "./weights.ts";

/** How many rows a value has: one per token of the call, or one in all. */
export type Rows = "seq" | 1;

/** A float32 matrix [rows, cols] that a node computes. */
export interface Value {
  readonly id: number;
  readonly rows: Rows;
  readonly cols: number;
}

export interface HeadGeometry {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

export type Node = { readonly label: string; readonly out: Value } & (
  | { readonly op: "embed"; readonly weight: MatrixRef; readonly scale: number }
  | { readonly op: "lastRow"; readonly x: Value }
  | { readonly op: "rmsNorm"; readonly x: Value; readonly gain: VectorRef; readonly eps: number }
  | {
      readonly op: "layerNorm";
      readonly x: Value;
      readonly gain: VectorRef;
      readonly bias: VectorRef;
      readonly eps: number;
    }
  | {
      readonly op: "headNorm";
      readonly x: Value;
      readonly heads: HeadGeometry;
      readonly eps: number;
      readonly qGain: VectorRef;
      readonly qBias: VectorRef;
      readonly kGain: VectorRef;
      readonly kBias: VectorRef;
    }
  | { readonly op: "linear"; readonly x: Value; readonly weight: MatrixRef; readonly bias: VectorRef | undefined }
  | { readonly op: "geluNew"; readonly x: Value }
  | { readonly op: "gatedSilu"; readonly x: Value }
  | { readonly op: "gegelu"; readonly x: Value; readonly limit: number }
  | { readonly op: "scaleMask"; readonly x: Value; readonly scale: number; readonly mask: VectorRef }
  | { readonly op: "sparsemixer"; readonly x: Value; readonly experts: number; readonly jitter: number }
  | { readonly op: "groupByExpert"; readonly x: Value; readonly experts: number }
  | {
      readonly op: "expertLinear";
      readonly x: Value;
      readonly routing: Value;
      /** The choices by expert; undefined for a single token. */
      readonly groups: Value | undefined;
      readonly weight: MatrixRef;
      readonly experts: number;
      readonly epilogue: ExpertEpilogue;
    }
  | { readonly op: "expertSum"; readonly x: Value; readonly residual: Value }
  | { readonly op: "add"; readonly a: Value; readonly b: Value }
  | { readonly op: "ropeAppend"; readonly x: Value; readonly heads: HeadGeometry; readonly layer: number }
  | {
      readonly op: "attention";
      readonly x: Value;
      readonly heads: HeadGeometry;
      readonly layer: number;
      readonly scale: number;
      readonly visible: Visible;
    }
);

/** The values that a node reads. */
export function nodeInputs(node: Node): readonly Value[] {
  switch (node.op) {
    case "embed":
      return [];
    case "add":
      return [node.a, node.b];
    case "expertLinear":
      return node.groups === undefined ? [node.x, node.routing] : [node.x, node.routing, node.groups];
    case "expertSum":
      return [node.x, node.residual];
    default:
      return [node.x];
  }
}

/** What a graph is for: logits of every position, of the last one after several tokens, or of a single token. */
export type GraphKind = "all" | "prefill" | "decode";

/** The record under construction. */
export class Graph {
  readonly kind: GraphKind;
  readonly nodes: Node[] = [];
  /** Named values of interest (`embed`, `layer.0`, …, `final_norm`), for comparison layer by layer. */
  readonly taps = new Map<string, Value>();
  #scope = "";
  #values = 0;

  constructor(kind: GraphKind) {
    this.kind = kind;
  }

  /** Labels of the nodes recorded from here on begin with this, e.g. `layer.12`. */
  scope(name: string): void {
    this.#scope = name;
  }

  /** A label in the grammar of profiler, plan and errors, e.g. `layer.12/self_attn.qkv_proj`. */
  label(leaf: string): string {
    return this.#scope === "" ? leaf : `${this.#scope}/${leaf}`;
  }

  value(rows: Rows, cols: number): Value {
    return { id: this.#values++, rows, cols };
  }

  tap(name: string, value: Value): void {
    this.taps.set(name, value);
  }
}
