/** Packed layouts of a weight on the GPU: one WGSL snippet each, which reads one block of a row. */

/** float32, IEEE float16 or bfloat16, in the bits of the checkpoint. */
export type WeightLayout = "f32" | "f16" | "bf16";

interface LayoutDescription {
  readonly snippet: URL;
  /** Columns that are read at once; rows are padded with zeros to a multiple. */
  readonly blockCols: number;
  readonly bytesPerBlock: number;
}

export const weightLayouts: Readonly<Record<WeightLayout, LayoutDescription>> = {
  f32: { snippet: new URL("./weights/f32.wgsl", import.meta.url), blockCols: 8, bytesPerBlock: 32 },
  f16: { snippet: new URL("./weights/f16.wgsl", import.meta.url), blockCols: 8, bytesPerBlock: 16 },
  bf16: { snippet: new URL("./weights/bf16.wgsl", import.meta.url), blockCols: 8, bytesPerBlock: 16 },
};

/** Bytes of one row of `cols` columns, padding included. */
export function rowBytes(layout: WeightLayout, cols: number): number {
  const { blockCols, bytesPerBlock } = weightLayouts[layout];
  return Math.ceil(cols / blockCols) * bytesPerBlock;
}

const matrix = new URL("./weights/matrix.wgsl", import.meta.url);

/** The snippets with which a kernel reads a weight of this layout, in row ranges. */
export function weightSnippets(layout: WeightLayout): readonly URL[] {
  return [weightLayouts[layout].snippet, matrix];
}
