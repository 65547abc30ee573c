/** What matvec and matmul share: their operands' layouts and what becomes of the sum. */

import { type Kernel, stateSnippet } from "../kernel.ts";
import { loadsSnippet, rowsSnippets, type WeightLayout, weightLayouts, weightSnippets } from "../weights/weights.ts";

/** What a linear does with its sum before it stores it. */
export type Epilogue =
  | "none"
  | "bias"
  | "residual"
  | "bias_residual"
  | "bias_gelu"
  | "bias_gegelu"
  | "gated_silu"
  | "scale_mask";

/** What a linear on integer weights makes of its input: nothing, or int8 with a step for each block of columns. */
export type ActivationFormat = "f32" | "int8";

/** A weight's layout, and what its input becomes; default f32, as it is for a plain layout in any case. */
export interface LinearFormats {
  readonly layout: WeightLayout;
  readonly activations?: ActivationFormat | undefined;
}

export interface LinearShape extends LinearFormats {
  readonly epilogue: Epilogue;
  readonly cols: number;
  /** Rows of the output that this dispatch computes: the weight's row range. */
  readonly rangeRows: number;
  /** The weight's columns are stored in another order, which a `perm` buffer gives. */
  readonly permuted?: boolean | undefined;
  /** The input is that of decodeAttention in parts, which are joined as it is read (`joinedInput` of attention). */
  readonly joined?: Pick<Kernel, "files" | "constants" | "tile"> | undefined;
  /** Values of the epilogue's own overrides. */
  readonly constants?: Readonly<Record<string, number>> | undefined;
}

const epilogues: Readonly<Record<Epilogue, readonly URL[]>> = {
  none: [new URL("./epilogues/none.wgsl", import.meta.url)],
  bias: [new URL("./epilogues/bias.wgsl", import.meta.url)],
  residual: [new URL("./epilogues/residual.wgsl", import.meta.url)],
  bias_residual: [new URL("./epilogues/bias_residual.wgsl", import.meta.url)],
  bias_gelu: [
    new URL("./epilogues/bias_gelu.wgsl", import.meta.url),
    new URL("./epilogues/gelu.wgsl", import.meta.url),
  ],
  bias_gegelu: [new URL("./epilogues/bias_gegelu.wgsl", import.meta.url)],
  gated_silu: [new URL("./epilogues/gated_silu.wgsl", import.meta.url)],
  scale_mask: [new URL("./epilogues/scale_mask.wgsl", import.meta.url)],
};

const inputs = {
  aligned: new URL("./activations/aligned.wgsl", import.meta.url),
  ragged: new URL("./activations/ragged.wgsl", import.meta.url),
  permuted: new URL("./activations/permuted.wgsl", import.meta.url),
};
const shared = new URL("./activations/shared.wgsl", import.meta.url);
const int8 = new URL("./activations/int8.wgsl", import.meta.url);

/** How threads load x and four rows of the weight, and multiply a block of both. */
function loadSnippets({ layout, activations }: LinearFormats, tokens: "one" | "several"): readonly URL[] {
  const { words } = weightLayouts[layout];
  return activations === "int8" && words !== undefined
    ? [int8, words, loadsSnippet]
    : [shared, ...rowsSnippets(layout, tokens)];
}

/** What matvec and matmul share of a linear: the snippets of state, weight, input and epilogue, and their constants. */
export function linearParts(shape: LinearShape, tokens: "one" | "several") {
  const { layout, epilogue, joined, constants } = shape;
  const input = joined ? [...joined.files, ...loadSnippets(shape, tokens)] : activationSnippets(shape, tokens);
  return {
    files: [stateSnippet, ...weightSnippets(layout), ...input, ...epilogues[epilogue]],
    constants: { ...constants, ...joined?.constants },
    tile: { ...joined?.tile },
  };
}

/** How x and the rows of a weight are read, for one token or for several. */
export function activationSnippets(
  shape: LinearFormats & Pick<LinearShape, "cols" | "permuted">,
  tokens: "one" | "several",
): readonly URL[] {
  const order = shape.cols % weightLayouts[shape.layout].blockCols === 0 ? "aligned" : "ragged";
  return [inputs[shape.permuted ? "permuted" : order], ...loadSnippets(shape, tokens)];
}

/** What the name of a linear, or of an expert's, says of its operands: `q4,bias`, `q4 int8,bias` or `q4 permuted,none`. */
export function linearVariant(
  shape: LinearFormats & Pick<LinearShape, "permuted" | "joined"> & { readonly epilogue: string },
): string {
  const int8Input = loadSnippets(shape, "one").includes(int8) ? " int8" : "";
  return `${shape.layout}${int8Input}${shape.permuted ? " permuted" : ""}${shape.joined ? " joined" : ""},${shape.epilogue}`;
}
