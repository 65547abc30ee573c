/** Token ids become rows. */

import { foldedGrid, type Kernel, stateSnippet } from "../kernel.ts";
import { type WeightLayout, weightLayouts, weightSnippets } from "../weights/weights.ts";

/** x [seq, cols] = scale * rows of E [vocab, cols] by token id; ids outside the bound row range are another dispatch's. */
export function embed(layout: WeightLayout, cols: number, scale: number): Kernel {
  const blocks = Math.ceil(cols / weightLayouts[layout].blockCols);
  return {
    name: `embed<${layout}>`,
    files: [new URL("./embed.wgsl", import.meta.url), stateSnippet, ...weightSnippets(layout)],
    constants: { SCALE: scale },
    tile: {},
    grid: (seq) => foldedGrid(Math.ceil((seq * blocks) / 64)),
  };
}
