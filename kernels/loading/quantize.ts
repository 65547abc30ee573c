/** The quantizer that runs as weights are loaded. */

import { foldedGrid, type Kernel } from "../kernel.ts";
import { type GroupSize, type PlainLayout, type QuantizedLayout, weightSnippets } from "../weights/weights.ts";

/** Which zeros a quantized weight may have: the middle of its levels, whole numbers among them, or any float16. */
export const zeroKinds = ["middle", "whole", "any"] as const;
export type ZeroKind = (typeof zeroKinds)[number];

export interface QuantizeShape {
  readonly from: PlainLayout;
  readonly to: QuantizedLayout;
  readonly group: GroupSize;
  readonly zero: ZeroKind;
  readonly cols: number;
}

/** Rows that are quantized by a dispatch: they become rows `firstRow` … of the outputs, which have `rowsTotal` in all. */
export interface QuantizePiece {
  readonly rows: number;
  readonly firstRow: number;
  readonly rowsTotal: number;
  /** Rows that lie block by block in the outputs (weights/matrix.wgsl). */
  readonly tileRows: number;
}

/** The words of the uniform `piece`. */
export function pieceWords({ rows, firstRow, rowsTotal, tileRows }: QuantizePiece): Uint32Array<ArrayBuffer> {
  return Uint32Array.of(rows, firstRow, rowsTotal, tileRows, 0, 0, 0, 0);
}

/** Rows of a plain weight → packed integers, scales and zeros; `seq` of the grid is the number of rows. */
export function quantize({ from, to, group, zero, cols }: QuantizeShape): Kernel {
  const groups = Math.ceil(cols / group);
  return {
    name: `quantize<${from},${to},${group},${zero}>`,
    files: [new URL("./quantize.wgsl", import.meta.url), ...weightSnippets(from)],
    constants: {},
    tile: {
      GROUP: group,
      BITS: to === "q4" ? 4 : 8,
      ZERO: zeroKinds.indexOf(zero),
      RAGGED: cols % group === 0 ? 0 : 1,
    },
    grid: (rows) => foldedGrid(Math.ceil((rows * groups) / 64)),
  };
}
