import { foldedGrid, type Kernel, stateSnippet } from "./kernel.ts";

/** What the key/value cache keeps its numbers in. */
export type KvFormat = "f32" | "f16" | "int8";

export interface HeadShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

export interface KvShape extends HeadShape {
  readonly kv: KvFormat;
}

export interface AttentionTile {
  /** Threads in a workgroup, and keys that are scored at a time. */
  readonly threads: number;
}

const unscaled = new URL("./kv/unscaled.wgsl", import.meta.url);
const packs: Readonly<Record<KvFormat, readonly URL[]>> = {
  f32: [new URL("./kv/f32.wgsl", import.meta.url), unscaled],
  f16: [new URL("./kv/f16.wgsl", import.meta.url), unscaled],
  int8: [new URL("./kv/int8.wgsl", import.meta.url)],
};
const head = new URL("./kv/head.wgsl", import.meta.url);

/** Bytes of four dimensions of a head, and of the scale behind a head where the format has one. */
const packBytes: Readonly<Record<KvFormat, { readonly four: number; readonly scale: number }>> = {
  f32: { four: 16, scale: 0 },
  f16: { four: 8, scale: 0 },
  int8: { four: 4, scale: 4 },
};

/** vec4f in a head, padding included. */
export function headVecs(headDim: number): number {
  return Math.ceil(headDim / 4);
}

/** Bytes of one head's keys (or values) at one position. */
export function kvHeadBytes(kv: KvFormat, headDim: number): number {
  const { four, scale } = packBytes[kv];
  return headVecs(headDim) * four + scale;
}

function headConstants({ heads, kvHeads, headDim }: KvShape): Record<string, number> {
  return { HEADS: heads, KV_HEADS: kvHeads, HEAD_DIM: headDim };
}

/** Rotates q [seq, heads, headDim] and k by position and appends k and v to the cache. */
export function ropeAppend(shape: KvShape, rotary: number): Kernel {
  const threads = (shape.heads + 2 * shape.kvHeads) * headVecs(shape.headDim);
  return {
    name: `ropeAppend<${shape.kv}>`,
    files: [new URL("./rope_append.wgsl", import.meta.url), stateSnippet, head, ...packs[shape.kv]],
    constants: { ...headConstants(shape), ROTARY: rotary },
    tile: {},
    grid: (seq) => foldedGrid(Math.ceil((seq * threads) / 64)),
  };
}

/** Which of the keys before it a query sees: all, those within a window, or blocks of them (visible/*.wgsl). */
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

const visibleSnippets = {
  window: new URL("./visible/window.wgsl", import.meta.url),
  blocks: new URL("./visible/blocks.wgsl", import.meta.url),
};

/** The snippet that says which keys a query sees, its name and its constants. */
function visibleKeys(visible: Visible) {
  if ("window" in visible) {
    return { variant: "", snippet: visibleSnippets.window, constants: { WINDOW: visible.window ?? 0x7fffffff } };
  }
  const { size, local, stride, headStep } = visible.blocks;
  const constants = { KEY_BLOCK: size, LOCAL_BLOCKS: local, STRIDE: stride, HEAD_STEP: headStep };
  return { variant: ",blocks", snippet: visibleSnippets.blocks, constants };
}

/** o [seq, heads * headDim] from q and those keys and values of the cache that each query sees. */
export function attention(shape: KvShape, scale: number, visible: Visible, tile: AttentionTile): Kernel {
  const group = shape.heads / shape.kvHeads;
  const { variant, snippet, constants } = visibleKeys(visible);
  return {
    name: `attention<${shape.kv}${variant}>`,
    files: [new URL("./attention.wgsl", import.meta.url), stateSnippet, head, ...packs[shape.kv], snippet],
    constants: { ...headConstants(shape), ...constants, SCALE: scale, THREADS: tile.threads },
    tile: { SUMS: Math.ceil(headVecs(shape.headDim) / tile.threads) },
    grid: (seq) => [shape.kvHeads, Math.ceil((seq * group) / 4), 1],
  };
}
