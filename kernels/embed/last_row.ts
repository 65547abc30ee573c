/** What follows the layers is computed for the last token only. */

import { foldedGrid, type Kernel, stateSnippet } from "../kernel.ts";

/** y [1, cols] = the last row of x [seq, cols]. */
export function lastRow(cols: number): Kernel {
  return {
    name: "lastRow",
    files: [new URL("./last_row.wgsl", import.meta.url), stateSnippet],
    constants: { COLS: cols },
    tile: {},
    grid: () => foldedGrid(Math.ceil(cols / 64)),
  };
}
