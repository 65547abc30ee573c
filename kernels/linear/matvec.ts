/** The linear of one token, and how its threads share rows, which the one of experts does in the same way. */

import { foldedGrid, type Kernel } from "../kernel.ts";
import { lanes } from "../lanes/lanes.ts";
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
  /**
   * The lanes' sums are added within the subgroup, not in workgroup memory. It takes `groups` 1, and subgroups that all
   * have `lanes` threads or more.
   */
  readonly subgroupSum?: boolean;
}

const treeSum = new URL("./reduction/tree.wgsl", import.meta.url);
const subgroupAdd = new URL("./reduction/subgroup.wgsl", import.meta.url);

/** What a kernel needs for the threads of its rows: snippets and features of how they share loads and add their sums. */
export function matvecThreads({ lanes: rowLanes, groups, subgroup, subgroupSum = false }: MatvecTile) {
  const shared = lanes(subgroup);
  return {
    files: [...shared.files, subgroupSum ? subgroupAdd : treeSum],
    constants: { LANES: rowLanes, GROUPS: groups },
    tile: shared.tile,
    features: subgroupSum ? (["subgroups"] as const) : shared.features,
  };
}

/** y [rows] = epilogue(W [rows, cols] · x [cols]): a linear for one token. */
export function matvec(shape: LinearShape, size: MatvecTile): Kernel {
  const parts = linearParts(shape, "one");
  const threads = matvecThreads(size);
  return {
    name: `matvec<${linearVariant(shape)}>`,
    files: [new URL("./matvec.wgsl", import.meta.url), ...parts.files, ...threads.files],
    constants: { ...parts.constants, ...threads.constants },
    tile: { ...parts.tile, ...threads.tile },
    features: threads.features,
    grid: () => foldedGrid(Math.ceil(shape.rangeRows / (size.groups * 4))),
  };
}
