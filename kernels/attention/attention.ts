/**
 * Attention: rotated heads go to the cache (kv/), each query meets the keys that it sees (visible/). Several tokens take
 * ropeAppend and attention, a single one decodeAttention, whose keys may be divided among workgroups (splits.wgsl); the
 * linear behind it then joins the parts as it reads them (joined.wgsl).
 */

import { foldedGrid, type Kernel, stateSnippet } from "../kernel.ts";
import { lanes } from "../lanes/lanes.ts";
import { type HeadShape, headVecs, type KvShape, kvSnippets } from "./kv/kv.ts";
import { type Visible, visibleKeys } from "./visible/visible.ts";

export interface AttentionTile {
  /** Threads in a workgroup, and keys that are scored at a time: a multiple of `subgroup`. */
  readonly threads: number;
  /** Groups of four queries of a workgroup, where several tokens make them. */
  readonly quads: number;
  /** Threads that share loads: the size of every subgroup of the adapter, or 1. */
  readonly subgroup: number;
}

const core = new URL("./attention.wgsl", import.meta.url);
const prefill = new URL("./prefill.wgsl", import.meta.url);
const decode = new URL("./decode.wgsl", import.meta.url);
const exchange = {
  together: new URL("./together.wgsl", import.meta.url),
  apart: new URL("./apart.wgsl", import.meta.url),
};
const splitsSnippet = new URL("./splits.wgsl", import.meta.url);
const rotate = new URL("./kv/rotate.wgsl", import.meta.url);

function headConstants({ heads, kvHeads, headDim }: KvShape): Record<string, number> {
  return { HEADS: heads, KV_HEADS: kvHeads, HEAD_DIM: headDim };
}

/** Rotates q [seq, heads, headDim] and k by position and appends k and v to the cache. */
export function ropeAppend(shape: KvShape, rotary: number): Kernel {
  const threads = (shape.heads + 2 * shape.kvHeads) * headVecs(shape.headDim);
  return {
    name: `ropeAppend<${shape.kv}>`,
    files: [new URL("./rope_append.wgsl", import.meta.url), stateSnippet, rotate, ...kvSnippets(shape.kv)],
    constants: { ...headConstants(shape), ROTARY: rotary },
    tile: {},
    grid: (seq) => foldedGrid(Math.ceil((seq * threads) / 64)),
  };
}

/** What attention's kernels are made of, but for what is read and written. */
function attentionKernel(shape: KvShape, scale: number, visible: Visible, tile: AttentionTile, quads: number) {
  const { variant, snippet, constants } = visibleKeys(visible, tile.threads);
  const shared = lanes(tile.subgroup);
  const exchanged = exchange[tile.threads === tile.subgroup ? "together" : "apart"];
  return {
    variant: `${shape.kv}${variant}`,
    files: [stateSnippet, ...kvSnippets(shape.kv), snippet, exchanged, ...shared.files],
    constants: { ...headConstants(shape), ...constants, SCALE: scale, THREADS: tile.threads },
    tile: { QUADS: quads, SUMS: Math.ceil(headVecs(shape.headDim) / tile.threads), ...shared.tile },
    features: shared.features,
  };
}

/** o [seq, heads * headDim] from q and those keys and values of the cache that each query sees. */
export function attention(shape: KvShape, scale: number, visible: Visible, tile: AttentionTile): Kernel {
  const { variant, files, ...kernel } = attentionKernel(shape, scale, visible, tile, tile.quads);
  const rows = shape.heads / shape.kvHeads;
  return {
    ...kernel,
    name: `attention<${variant}>`,
    files: [core, prefill, ...files],
    grid: (seq) => [shape.kvHeads, Math.ceil((seq * rows) / (tile.quads * 4)), 1],
  };
}

/** How the keys that a single token sees are divided among workgroups. */
export interface Splits {
  /** Parts at most. */
  readonly splits: number;
  /** Keys of a part at least. */
  readonly span: number;
}

/** Overrides and consts of splits.wgsl. */
function splitConstants(visible: Visible, { splits, span }: Splits) {
  const seen = "window" in visible ? visible.window : undefined;
  return { constants: { SPAN: span, SEEN: seen ?? 0x7fffffff }, tile: { SPLITS: splits } };
}

/** Whether decodeAttention has a kernel: the heads of a group are the queries of one workgroup. */
export function hasDecodeAttention({ heads, kvHeads }: HeadShape): boolean {
  return heads / kvHeads <= 8;
}

/** Elements of decodeAttention's output. */
export function decodeOutput({ heads, headDim }: HeadShape, { splits }: Splits): number {
  return splits === 1 ? heads * headDim : splits * heads * (headDim + 4);
}

/** o from a fused row [q | k | v] of a single token, which is rotated and appended to the cache: see decode.wgsl. */
export function decodeAttention(
  shape: KvShape,
  rotary: number,
  scale: number,
  visible: Visible,
  tile: AttentionTile,
  split: Splits,
): Kernel {
  const quads = Math.ceil(shape.heads / shape.kvHeads / 4);
  const { variant, files, ...kernel } = attentionKernel(shape, scale, visible, tile, quads);
  const divided = splitConstants(visible, split);
  return {
    ...kernel,
    name: `decodeAttention<${variant}>`,
    files: [core, decode, splitsSnippet, rotate, ...files],
    constants: { ...kernel.constants, ...divided.constants, ROTARY: rotary },
    tile: { ...kernel.tile, ...divided.tile },
    grid: () => [shape.kvHeads, split.splits, 1],
  };
}

/** What a linear needs to read decodeAttention's output (`LinearShape.joined`): see joined.wgsl. */
export function joinedInput(
  { heads, headDim }: HeadShape,
  visible: Visible,
  split: Splits,
): Pick<Kernel, "files" | "constants" | "tile"> {
  const { constants, tile } = splitConstants(visible, split);
  const files = [new URL("./joined.wgsl", import.meta.url), splitsSnippet];
  return { files, constants: { ...constants, HEADS: heads, HEAD_DIM: headDim }, tile };
}
