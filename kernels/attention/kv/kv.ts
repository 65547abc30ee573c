/** How heads lie in the key/value cache and in rotated queries, and the formats that the cache keeps its numbers in. */

/** What the key/value cache keeps its numbers in. */
export type KvFormat = "f32" | "f16" | "int8";

/** Query heads, and the key/value heads that groups of them share, of equal size. */
export interface HeadShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

export interface KvShape extends HeadShape {
  readonly kv: KvFormat;
}

const unscaled = new URL("./unscaled.wgsl", import.meta.url);
const packs: Readonly<Record<KvFormat, readonly URL[]>> = {
  f32: [new URL("./f32.wgsl", import.meta.url), unscaled],
  f16: [new URL("./f16.wgsl", import.meta.url), unscaled],
  int8: [new URL("./int8.wgsl", import.meta.url)],
};
const head = new URL("./head.wgsl", import.meta.url);

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

/** The snippets with which a kernel reads and writes the cache in this format. */
export function kvSnippets(kv: KvFormat): readonly URL[] {
  return [head, ...packs[kv]];
}
