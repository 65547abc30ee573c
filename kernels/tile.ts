import { foldedGrid, type Kernel } from "./kernel.ts";

/** Rows of `itemBytes` items (a multiple of 4), row after row → tiles, item by item; `seq` of the grid is the number of items. */
export function tile(itemBytes: number): Kernel {
  return {
    name: `tile<${itemBytes}>`,
    files: [new URL("./tile.wgsl", import.meta.url)],
    constants: { WORDS: itemBytes / 4 },
    tile: {},
    grid: (items) => foldedGrid(Math.ceil(items / 64)),
  };
}
