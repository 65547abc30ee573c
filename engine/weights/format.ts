/**
 * What an on-disk encoding of weights provides. The encoding is chosen for each matrix, as files hold several (a head
 * that was left unquantized, say), and every one gives its rows in a packed layout of `kernels/weights/weights.ts`.
 */

import type { Packing } from "../../kernels/weights/weights.ts";
import type { TensorInfo } from "../files/safetensors.ts";
import type { TensorNeed } from "../graph/weights.ts";

/** Reads bytes of a tensor, as `Checkpoint.read` does; counts them for the progress. */
export type ReadTensor = (
  tensor: TensorInfo,
  offsetBytes: number,
  lengthBytes: number,
  into?: Uint8Array,
) => Promise<Uint8Array>;

/** Consecutive rows as they lie on the GPU. */
export interface PackedRows {
  readonly rows: number;
  /** rowBytes(layout, cols) for each row. */
  readonly weight: Uint8Array;
  /** scaleRowBytes(packing, cols) for each row; none in plain layouts. */
  readonly scales?: Uint8Array;
}

/** A matrix [rows, cols] in the files. */
export interface MatrixSource {
  /** The tensors that it is made of. */
  readonly tensors: readonly TensorInfo[];
  /** Whether the files hold integers for it. */
  readonly isQuantized?: boolean;
  /** Whether the files' order of its columns says nothing, and was not followed. */
  readonly ignoresGroupIndex?: boolean;
  /** The packing that keeps what is stored. */
  readonly packing: Packing;
  /** Bytes that are read for the rows that the model uses. */
  readonly storedBytes: number;
  /**
   * Rows firstRow … firstRow + rows - 1 in order, some MiB at a time, in the source's own packing or in one that
   * `commonPacking` gave. The next piece may lie where the last one lay, as it may in `memory` (fresh memory costs a third
   * of a read): the caller uses that for nothing else before it has taken the last piece. Throws a PhiError "checkpoint"
   * for contents that the format does not have.
   */
  rows(read: ReadTensor, firstRow: number, rows: number, as: Packing, memory?: Uint8Array): AsyncIterable<PackedRows>;
  /** The input that each packed column belongs to [cols], where rows are packed as permuted. */
  permutation?(): Uint32Array<ArrayBuffer>;
}

export interface MatrixFormat {
  /** Whether the files store this matrix in the format. */
  stores(tensors: ReadonlyMap<string, TensorInfo>, need: TensorNeed): boolean;
  /**
   * The matrix, or what is wrong with its tensors, as `<file>: tensor "<name>": expected <x>, got <y>`. Reads no more
   * than says how the rows are packed.
   */
  open(tensors: ReadonlyMap<string, TensorInfo>, need: TensorNeed, read: ReadTensor): Promise<MatrixSource | Problem>;
}

/** What is wrong with a tensor, and what can be done about it. */
export interface Problem {
  readonly problem: string;
  readonly advice: string;
}

/** Bytes that a source reads and gives at a time, about. */
export const pieceBytes = 8 << 20;

/** Rows that make a piece: a multiple of 32 where there are as many, so that a tile (engine/weights/tiles.ts) is seldom cut. */
export function rowsOfPiece(rowBytes: number): number {
  const most = Math.floor(pieceBytes / rowBytes);
  return most < 32 ? Math.max(1, most) : most - (most % 32);
}

/** Whether a tensor has the shape that the model expects; extra rows are allowed where `need` says so. */
export function hasShape(tensor: TensorInfo, need: TensorNeed): boolean {
  return (
    tensor.shape.length === need.shape.length &&
    tensor.shape.every((n, i) => (i === 0 && need.mayHaveMoreRows ? n >= (need.shape[i] ?? 0) : n === need.shape[i]))
  );
}
