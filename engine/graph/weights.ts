/**
 * What weights a model asks for, and how they lie on the GPU. A model file declares matrices and vectors by their names
 * in the checkpoint; declaring costs nothing, so that missing and mis-shaped tensors are all known before any upload.
 */

import { type Packing, permutationBytes, rowBytes, scaleRowBytes } from "../../kernels/weights/weights.ts";

/** A tensor of the checkpoint with the shape that the model expects. */
export interface TensorNeed {
  readonly name: string;
  readonly shape: readonly number[];
  /** Whether the file may hold more rows than are used (an embedding padded past the vocabulary). */
  readonly mayHaveMoreRows: boolean;
}

/** Consecutive rows (of a vector: elements) of a tensor. */
export interface RowRun {
  readonly need: TensorNeed;
  readonly first: number;
  readonly rows: number;
}

/** How the rows of a matrix or the elements of a vector are put together from what is stored. */
export interface StoredOrder {
  readonly tensors: readonly TensorNeed[];
  /** One after the other, these runs of the tensors are all the rows. */
  readonly runs: readonly RowRun[];
  /** Whether the rows of two parts alternate in what is stored: row 2j is row j of the first part. */
  readonly alternating: boolean;
}

/** A weight matrix [parts * rows, cols]: one tensor, or several one below the other, or their rows in another order. */
export interface MatrixRef extends StoredOrder {
  readonly kind: "matrix";
  /** Identifies the matrix within the model. */
  readonly key: string;
  /** Last part of the name, for labels. */
  readonly leaf: string;
  readonly rows: number;
  readonly cols: number;
  /** 2 for [gate | up], whose rows j and rows + j are used together. */
  readonly parts: 1 | 2;
  /** Share of the rows that a token uses: below 1 for the matrices of experts, of which it takes some. */
  readonly activeShare: number;
  /** Whether it may become integers; not the scores of a router, where a small error chooses another expert. */
  readonly quantizable: boolean;
}

export interface MatrixOptions extends OrderOptions {
  readonly parts?: 1 | 2;
  /** Default true. */
  readonly quantizable?: boolean;
}

/** A vector, float32 on the GPU: one tensor, or several one after the other, or their elements in another order. */
export interface VectorRef extends StoredOrder {
  readonly kind: "vector";
  readonly key: string;
  readonly leaf: string;
  readonly length: number;
  /** What it holds where that comes from config.json and no tensor has it. */
  readonly values: readonly number[] | undefined;
}

/** How a single tensor's rows are ordered, where not as they are stored. */
export interface OrderOptions {
  /** First row and count of each run, in the order that the model wants them. */
  readonly runs?: readonly (readonly [first: number, rows: number])[];
  readonly alternating?: boolean;
  readonly mayHaveMoreRows?: boolean;
}

function storedOrder(needs: readonly TensorNeed[], { runs, alternating = false }: OrderOptions = {}): StoredOrder {
  const ordered = needs.flatMap((need) =>
    (runs ?? [[0, need.shape[0] ?? 0]]).map(([first, rows]) => ({ need, first, rows })),
  );
  return { tensors: needs, runs: ordered, alternating };
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
  matrix(name: string, rows: number, cols: number, options: MatrixOptions = {}): MatrixRef {
    const parts = options.parts ?? 1;
    const shape = [parts * rows, cols];
    const need = { name: this.#prefix + name, shape, mayHaveMoreRows: options.mayHaveMoreRows ?? false };
    return this.#declare({
      kind: "matrix",
      key: need.name,
      leaf: this.#leaf(name),
      ...storedOrder([need], options),
      rows,
      cols,
      parts,
      activeShare: 1,
      quantizable: options.quantizable ?? true,
    });
  }

  /** Several matrices with the same columns, one below the other: [sum of rows, cols], which `parts` share equally. */
  stacked(
    leaf: string,
    tensors: readonly (readonly [name: string, rows: number])[],
    cols: number,
    { parts = 1, activeShare = 1 }: { readonly parts?: 1 | 2; readonly activeShare?: number } = {},
  ): MatrixRef {
    const needs = tensors.map(([name, rows]) => ({
      name: this.#prefix + name,
      shape: [rows, cols],
      mayHaveMoreRows: false,
    }));
    const rows = tensors.reduce((sum, [, count]) => sum + count, 0) / parts;
    const key = needs.map((need) => need.name).join("+");
    const order = storedOrder(needs);
    const common = { leaf: this.#label + leaf, ...order, rows, cols, parts, activeShare, quantizable: true };
    return this.#declare({ kind: "matrix", key, ...common });
  }

  /** A vector from one tensor, or from several one after the other. */
  vector(
    tensors: string | readonly (readonly [name: string, length: number])[],
    length: number,
    options: OrderOptions = {},
  ): VectorRef {
    const list = typeof tensors === "string" ? [[tensors, length] as const] : tensors;
    const mayHaveMoreRows = options.mayHaveMoreRows ?? false;
    const needs = list.map(([name, n]) => ({ name: this.#prefix + name, shape: [n], mayHaveMoreRows }));
    const key = needs.map((need) => need.name).join("+");
    const leaf = this.#leaf(list[0]?.[0] ?? "");
    return this.#declare({ kind: "vector", key, leaf, ...storedOrder(needs, options), length, values: undefined });
  }

  /** A vector of given numbers. */
  constant(name: string, values: readonly number[]): VectorRef {
    const key = this.#prefix + name;
    return this.#declare({ kind: "vector", key, leaf: name, ...storedOrder([]), length: values.length, values });
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

/**
 * Splits a matrix into row ranges of at most `maxBindingBytes`, as even as possible. A permuted matrix is split at its
 * tensors too, as each has a permutation of its own.
 */
export function rowRanges(ref: MatrixRef, packing: Packing, maxBindingBytes: number): readonly RowRange[] {
  const rowsPerBinding = Math.floor(maxBindingBytes / (rowBytes(packing.layout, ref.cols) * ref.parts));
  const split = "group" in packing && packing.permuted && ref.parts === 1;
  let firstRow = 0;
  return (split ? rowsByTensor(ref) : [ref.rows]).flatMap((total) => {
    const first = firstRow;
    firstRow += total;
    const count = Math.ceil(total / Math.max(1, rowsPerBinding));
    const rows = Math.ceil(total / count);
    return Array.from({ length: count }, (_, i) => ({
      firstRow: first + i * rows,
      rows: Math.min(rows, total - i * rows),
    }));
  });
}

/** Rows that come one after the other from the same tensor. */
function rowsByTensor({ runs }: MatrixRef): readonly number[] {
  const counts: number[] = [];
  runs.forEach(({ need, rows }, i) => {
    if (i > 0 && runs[i - 1]?.need === need) counts.push((counts.pop() ?? 0) + rows);
    else counts.push(rows);
  });
  return counts;
}

/** Bytes of a matrix on the GPU: padding, scales and the order of columns, which each range has, included. */
export function matrixBytes(ref: MatrixRef, packing: Packing, maxBindingBytes: number): number {
  const perm = "group" in packing && packing.permuted ? permutationBytes(packing.layout, ref.cols) : 0;
  return rowRanges(ref, packing, maxBindingBytes).reduce((sum, { rows }) => {
    // Device.createBuffer rounds up.
    const buffers = [rowBytes(packing.layout, ref.cols), scaleRowBytes(packing, ref.cols)].map(
      (bytes) => Math.ceil((bytes * rows * ref.parts) / 16) * 16,
    );
    return buffers.reduce((total, bytes) => total + bytes, sum + perm);
  }, 0);
}

/** Rows that lie one after the other in a tensor and, of each part, in the matrix. */
export interface StoredRows {
  readonly need: TensorNeed;
  /** First row in the tensor. */
  readonly first: number;
  readonly rows: number;
  /** Where they belong: to this part from this row on, or to both parts in turn. */
  readonly part: number | "alternating";
  readonly partRow: number;
}

/** What of the tensors makes a row range of a matrix. */
export function storedRows(ref: MatrixRef, range: RowRange): readonly StoredRows[] {
  const found: StoredRows[] = [];
  const parts = ref.alternating ? 1 : ref.parts;
  const step = ref.alternating ? ref.parts : 1; // stored rows of one row of a part
  for (let part = 0; part < parts; part++) {
    const wantedFirst = step * (part * ref.rows + range.firstRow);
    const wantedEnd = wantedFirst + step * range.rows;
    let at = 0;
    for (const { need, first, rows } of ref.runs) {
      const from = Math.max(at, wantedFirst);
      const count = Math.min(at + rows, wantedEnd) - from;
      if (count > 0) {
        const partRow = (from - part * ref.rows) / step;
        found.push({
          need,
          first: first + from - at,
          rows: count,
          part: ref.alternating ? "alternating" : part,
          partRow,
        });
      }
      at += rows;
    }
  }
  return found;
}

/** The tensor and row where row `partRow` of a part is stored. */
export function storedRow(ref: MatrixRef, part: number, partRow: number): { need: TensorNeed; row: number } {
  const [found] = storedRows(ref, { firstRow: partRow, rows: 1 }).filter(
    (rows) => rows.part === part || rows.part === "alternating",
  );
  if (found === undefined) throw new Error(`${ref.key}: there is no row ${partRow} of part ${part}`);
  return { need: found.need, row: found.first + (found.part === "alternating" ? part : 0) };
}
