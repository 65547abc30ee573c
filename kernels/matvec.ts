import { foldedGrid, type Kernel } from "./kernel.ts";
import { lanes } from "./lanes.ts";
import { type LinearShape, linearParts, linearVariant } from "./linear.ts";

export interface MatvecTile {
  /** Threads that share the columns of a row: a power of two. */
  readonly lanes: number;
  /** Groups of lanes in a workgroup, four rows each. */
  readonly groups: number;
  /**
   * Threads that share the loads of x: the size of every subgroup of the adapter, or 1. More than 1 takes `lanes` 1, and
   * `groups` a multiple.
   */
  readonly subgroup: number;
}

/** y [rows] = epilogue(W [rows, cols] · x [cols]): a linear for one token. */
export function matvec(shape: LinearShape, { lanes: rowLanes, groups, subgroup }: MatvecTile): Kernel {
  const parts = linearParts(shape);
  const shared = lanes(subgroup);
  return {
    name: `matvec<${linearVariant(shape)}>`,
    files: [new URL("./matvec.wgsl", import.meta.url), ...parts.files, ...shared.files],
    constants: { ...parts.constants, LANES: rowLanes, GROUPS: groups },
    tile: { ...parts.tile, ...shared.tile },
    features: shared.features,
    grid: () => foldedGrid(Math.ceil(shape.rangeRows / (groups * 4))),
  };
}
