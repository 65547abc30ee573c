/** Packed layouts of a weight on the GPU: one WGSL snippet each, which reads one block of a row. */

/** float32, IEEE float16 or bfloat16, in the bits of the checkpoint. */
export type PlainLayout = "f32" | "f16" | "bf16";

/** Integers of 4 or 8 bits: value = scale * (q - zero), with a float16 scale and zero for each group. */
export type QuantizedLayout = "q4" | "q8";

export type WeightLayout = PlainLayout | QuantizedLayout;

/** Consecutive columns that share a scale and a zero. */
export const groupSizes = [32, 64, 128] as const;
export type GroupSize = (typeof groupSizes)[number];

/** How the rows of a matrix lie on the GPU. */
export type Packing =
  | { readonly layout: PlainLayout }
  | {
      readonly layout: QuantizedLayout;
      readonly group: GroupSize;
      /** The columns are stored in another order: column k belongs to input `perm[k]` (kernels/linear/activations/permuted.wgsl). */
      readonly permuted?: boolean;
    };

interface LayoutDescription {
  readonly snippet: URL;
  /** Reads a block as words of four integers, where it can be. */
  readonly words?: URL;
  /** Columns that are read at once; rows are padded with zeros to a multiple. */
  readonly blockCols: number;
  readonly bytesPerBlock: number;
}

export const weightLayouts: Readonly<Record<WeightLayout, LayoutDescription>> = {
  f32: { snippet: new URL("./f32.wgsl", import.meta.url), blockCols: 8, bytesPerBlock: 32 },
  f16: { snippet: new URL("./f16.wgsl", import.meta.url), blockCols: 8, bytesPerBlock: 16 },
  bf16: { snippet: new URL("./bf16.wgsl", import.meta.url), blockCols: 8, bytesPerBlock: 16 },
  q4: {
    snippet: new URL("./q4.wgsl", import.meta.url),
    words: new URL("./q4_words.wgsl", import.meta.url),
    blockCols: 32,
    bytesPerBlock: 16,
  },
  q8: {
    snippet: new URL("./q8.wgsl", import.meta.url),
    words: new URL("./q8_words.wgsl", import.meta.url),
    blockCols: 32,
    bytesPerBlock: 32,
  },
};

/** Bytes of one row of `cols` columns, padding included; scales lie in a buffer of their own. */
export function rowBytes(layout: WeightLayout, cols: number): number {
  const { blockCols, bytesPerBlock } = weightLayouts[layout];
  return Math.ceil(cols / blockCols) * bytesPerBlock;
}

/** Bytes of the scales and zeros of one row: a word for each group. */
export function scaleRowBytes(packing: Packing, cols: number): number {
  return "group" in packing ? 4 * Math.ceil(cols / packing.group) : 0;
}

/** Bytes of the order of permuted columns: a word for each column of the blocks. */
export function permutationBytes(layout: QuantizedLayout, cols: number): number {
  const { blockCols } = weightLayouts[layout];
  return 4 * blockCols * Math.ceil(cols / blockCols);
}

/** Blocks that share a scale, as a power of two. */
function groupShift(packing: Packing): number {
  return "group" in packing ? Math.log2(packing.group / weightLayouts[packing.layout].blockCols) : 0;
}

/** A binding's rows of a matrix; what is absent is what a matrix has that is bound as a whole, its rows one after the other. */
export interface BoundMatrix {
  /** Rows of each part, the first of them row `first` of the `rowsTotal` that a part has. */
  readonly rows: number;
  readonly cols: number;
  readonly first?: number | undefined;
  readonly rowsTotal?: number | undefined;
  readonly parts?: number | undefined;
  readonly packing?: Packing | undefined;
  /** Rows that lie block by block. */
  readonly tileRows?: number | undefined;
}

/** The words of the uniform `matrix` (weights/matrix.wgsl). */
export function matrixWords(bound: BoundMatrix): Uint32Array<ArrayBuffer> {
  const { rows, cols, first = 0, rowsTotal = rows, parts = 1, packing, tileRows = 1 } = bound;
  const shift = packing === undefined ? 0 : groupShift(packing);
  return Uint32Array.of(first, rows, rowsTotal, cols, shift, tileRows, rows * parts, 0);
}

const matrix = new URL("./matrix.wgsl", import.meta.url);

const rows = new URL("./rows.wgsl", import.meta.url);
const q4Rows = new URL("./q4_rows.wgsl", import.meta.url);
const sums = new URL("./sums.wgsl", import.meta.url);

/** The blocks that one load of a linear's input is for. */
export const loadsSnippet = new URL("./loads.wgsl", import.meta.url);

/** With which a linear reads and multiplies four rows of a weight at a time, for one token or for several. */
export function rowsSnippets(layout: WeightLayout, tokens: "one" | "several"): readonly URL[] {
  return [layout === "q4" && tokens === "one" ? q4Rows : rows, sums, loadsSnippet];
}

/** The snippets with which a kernel reads a weight of this layout, in row ranges. */
export function weightSnippets(layout: WeightLayout): readonly URL[] {
  const scales = layout === "q4" || layout === "q8" ? [new URL("./scales.wgsl", import.meta.url)] : [];
  return [weightLayouts[layout].snippet, ...scales, matrix];
}
