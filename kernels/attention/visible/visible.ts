/** Which keys a query of attention sees. */

/** Which of the keys before it a query sees: all, those within a window, or blocks of them (the snippets beside this file). */
export type Visible =
  | { readonly window: number | undefined }
  | {
      readonly blocks: {
        /** Positions in a block. */
        readonly size: number;
        /** The last blocks, the query's own included, that every head sees. */
        readonly local: number;
        /** Of the earlier blocks, head h sees those kb with (kb + h * headStep + 1) % stride = 0. */
        readonly stride: number;
        readonly headStep: number;
      };
    };

const snippets = {
  window: new URL("./window.wgsl", import.meta.url),
  blocks: new URL("./blocks.wgsl", import.meta.url),
};

/** The snippet that says which keys a query sees, its name and its constants, and the keys of a tile, at most `keys`. */
export function visibleKeys(visible: Visible, keys: number) {
  if ("window" in visible) {
    const constants = { WINDOW: visible.window ?? 0x7fffffff, TILE: keys };
    return { variant: "", snippet: snippets.window, constants };
  }
  const { size, local, stride, headStep } = visible.blocks;
  // Tiles end where blocks do, so that no key of a block that is not seen is read.
  let tile = Math.min(size, keys);
  while (size % tile !== 0) tile--;
  const constants = { KEY_BLOCK: size, LOCAL_BLOCKS: local, STRIDE: stride, HEAD_STEP: headStep, TILE: tile };
  return { variant: ",blocks", snippet: snippets.blocks, constants };
}
