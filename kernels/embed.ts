import { foldedGrid, type Kernel, stateSnippet } from "./kernel.ts";
import { type WeightLayout, weightLayouts, weightSnippets } from "./weights.ts";

/** x [seq, cols] = rows of E [vocab, cols] by token id; ids outside the bound row range are left to another dispatch. */
export function embed(layout: WeightLayout, cols: number): Kernel {
  const blocks = Math.ceil(cols / weightLayouts[layout].blockCols);
  return {
    name: `embed<${layout}>`,
    files: [new URL("./embed.wgsl", import.meta.url), stateSnippet, ...weightSnippets(layout)],
    constants: {},
    tile: {},
    grid: (seq) => foldedGrid(Math.ceil((seq * blocks) / 64)),
  };
}
