import { foldedGrid, type Kernel } from "./kernel.ts";
import { type GroupSize, type PlainLayout, type QuantizedLayout, weightSnippets } from "./weights.ts";

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
