/**
 * What weights a model asks for, and how they lie on the GPU. A model file declares matrices and vectors by their names
 * in the checkpoint; declaring costs nothing, so that missing and mis-shaped tensors are all known before any upload.
 */

import { rowBytes, type WeightLayout } from "../kernels/weights.ts";

/** A tensor of the checkpoint with the shape that the model expects. */
export interface TensorNeed {
  readonly name: string;
  readonly shape: readonly number[];
  /** Whether the file may hold more rows than are used (an embedding padded past the vocabulary). */
  readonly mayHaveMoreRows: boolean;
}

/** A weight matrix [parts * rows, cols]: one tensor, or several one below the other. */
export interface MatrixRef {
  readonly kind: "matrix";
  /** Identifies the matrix within the model. */
  readonly key: string;
  /** Last part of the name, for labels. */
  readonly leaf: string;
  readonly tensors: readonly TensorNeed[];
  readonly rows: number;
  readonly cols: number;
  /** 2 for [gate | up], whose rows j and rows + j are used together. */
  readonly parts: 1 | 2;
}

/** A vector, float32 on the GPU: one tensor, or several one after the other. */
export interface VectorRef {
  readonly kind: "vector";
  readonly key: string;
  readonly leaf: string;
  readonly tensors: readonly TensorNeed[];
  readonly length: number;
}

export type WeightRef = MatrixRef | VectorRef;

/** The declarations of one model, by name prefix. */
export class Weights {
  readonly declared: Map<string, WeightRef>;
  readonly #prefix: string;
  readonly #label: string;

  constructor(declared = new Map<string, WeightRef>(), prefix = "", label = "") {
    this.declared = declared;
    this.#prefix = prefix;
    this.#label = label;
  }

  /** The same declarations below `prefix`; `label` false leaves the prefix out of labels (where a scope says it). */
  under(prefix: string, { label = true } = {}): Weights {
    return new Weights(this.declared, `${this.#prefix}${prefix}.`, label ? `${this.#label}${prefix}.` : "");
  }

  /** A matrix [parts * rows, cols] from one tensor. */
  matrix(
    name: string,
    rows: number,
    cols: number,
    options: { parts?: 1 | 2; mayHaveMoreRows?: boolean } = {},
  ): MatrixRef {
    const parts = options.parts ?? 1;
    const shape = [parts * rows, cols];
    const need = { name: this.#prefix + name, shape, mayHaveMoreRows: options.mayHaveMoreRows ?? false };
    return this.#declare({
      kind: "matrix",
      key: need.name,
      leaf: this.#leaf(name),
      tensors: [need],
      rows,
      cols,
      parts,
    });
  }

  /** Several matrices with the same columns, one below the other: [sum of rows, cols]. */
  stacked(leaf: string, tensors: readonly (readonly [name: string, rows: number])[], cols: number): MatrixRef {
    const needs = tensors.map(([name, rows]) => ({
      name: this.#prefix + name,
      shape: [rows, cols],
      mayHaveMoreRows: false,
    }));
    const rows = tensors.reduce((sum, [, count]) => sum + count, 0);
    const key = needs.map((need) => need.name).join("+");
    return this.#declare({ kind: "matrix", key, leaf: this.#label + leaf, tensors: needs, rows, cols, parts: 1 });
  }

  /** A vector from one tensor, or from several one after the other. */
  vector(
    tensors: string | readonly (readonly [name: string, length: number])[],
    length: number,
    { mayHaveMoreRows = false } = {},
  ): VectorRef {
    const list = typeof tensors === "string" ? [[tensors, length] as const] : tensors;
    const needs = list.map(([name, n]) => ({ name: this.#prefix + name, shape: [n], mayHaveMoreRows }));
    const key = needs.map((need) => need.name).join("+");
    return this.#declare({ kind: "vector", key, leaf: this.#leaf(list[0]?.[0] ?? ""), tensors: needs, length });
  }

  #leaf(name: string): string {
    return this.#label + name.replace(/\.(weight|bias)$/, "");
  }

  #declare<Ref extends WeightRef>(ref: Ref): Ref {
    const known = this.declared.get(ref.key);
    if (known === undefined) this.declared.set(ref.key, ref);
    return ref;
  }
}

/** Consecutive rows of each part of a matrix, small enough for one binding. */
export interface RowRange {
  readonly firstRow: number;
  readonly rows: number;
}

/** Splits a matrix into row ranges of at most `maxBindingBytes`, as even as possible. */
export function rowRanges(ref: MatrixRef, layout: WeightLayout, maxBindingBytes: number): readonly RowRange[] {
  const rowsPerBinding = Math.floor(maxBindingBytes / (rowBytes(layout, ref.cols) * ref.parts));
  const count = Math.ceil(ref.rows / Math.max(1, rowsPerBinding));
  const rows = Math.ceil(ref.rows / count);
  return Array.from({ length: count }, (_, i) => ({ firstRow: i * rows, rows: Math.min(rows, ref.rows - i * rows) }));
}
