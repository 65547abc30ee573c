import { foldedGrid, type Kernel } from "./kernel.ts";

const word = new URL("./units/word.wgsl", import.meta.url);
const vector = new URL("./units/vector.wgsl", import.meta.url);

/** Rows of `itemBytes` items (4, or a multiple of 16), row after row → tiles, item by item; `seq` of the grid is the number of items. */
export function tile(itemBytes: number): Kernel {
  return {
    name: `tile<${itemBytes}>`,
    files: [new URL("./tile.wgsl", import.meta.url), itemBytes === 4 ? word : vector],
    constants: { UNITS: itemBytes === 4 ? 1 : itemBytes / 16 },
    tile: {},
    grid: (items) => foldedGrid(Math.ceil(items / 64)),
  };
}
