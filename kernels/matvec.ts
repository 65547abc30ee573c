import { foldedGrid, type Kernel } from "./kernel.ts";
import { type LinearShape, linearSnippets, linearVariant } from "./linear.ts";

export interface MatvecTile {
  /** Threads that share the columns of a row: a power of two. */
  readonly lanes: number;
  /** Groups of lanes in a workgroup, four rows each. */
  readonly groups: number;
}

/** y [rows] = epilogue(W [rows, cols] · x [cols]): a linear for one token. */
export function matvec(shape: LinearShape, { lanes, groups }: MatvecTile): Kernel {
  return {
    name: `matvec<${linearVariant(shape)}>`,
    files: [new URL("./matvec.wgsl", import.meta.url), ...linearSnippets(shape)],
    constants: { ...shape.constants, LANES: lanes, GROUPS: groups },
    tile: {},
    grid: () => foldedGrid(Math.ceil(shape.rangeRows / (groups * 4))),
  };
}
