/** What matvec and matmul share: their operands' layouts and what becomes of the sum. */

import { stateSnippet } from "./kernel.ts";
import { type WeightLayout, weightLayouts, weightSnippets } from "./weights.ts";

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

export interface LinearShape {
  readonly layout: WeightLayout;
  readonly epilogue: Epilogue;
  readonly cols: number;
  /** Rows of the output that this dispatch computes: the weight's row range. */
  readonly rangeRows: number;
  /** The weight's columns are stored in another order, which a `perm` buffer gives. */
  readonly permuted?: boolean | undefined;
  /** Values of the epilogue's own overrides. */
  readonly constants?: Readonly<Record<string, number>> | undefined;
}

const epilogues: Readonly<Record<Epilogue, readonly URL[]>> = {
  none: [new URL("./epilogues/none.wgsl", import.meta.url)],
  bias: [new URL("./epilogues/bias.wgsl", import.meta.url)],
  residual: [new URL("./epilogues/residual.wgsl", import.meta.url)],
  bias_residual: [new URL("./epilogues/bias_residual.wgsl", import.meta.url)],
  bias_gelu: [new URL("./epilogues/bias_gelu.wgsl", import.meta.url), new URL("./gelu.wgsl", import.meta.url)],
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

/** The snippets of a linear: state, weight, input, epilogue. */
export function linearSnippets({ layout, epilogue, cols, permuted }: LinearShape): readonly URL[] {
  return [
    stateSnippet,
    ...weightSnippets(layout),
    ...activationSnippets(layout, cols, permuted),
    ...epilogues[epilogue],
  ];
}

/** How x is read beside a weight of `cols` columns. */
export function activationSnippets(layout: WeightLayout, cols: number, permuted = false): readonly URL[] {
  const order = cols % weightLayouts[layout].blockCols === 0 ? "aligned" : "ragged";
  return [inputs[permuted ? "permuted" : order], shared];
}

/** What a linear's name says of its operands, e.g. `q4,bias` or `q4 permuted,none`. */
export function linearVariant({ layout, epilogue, permuted }: LinearShape): string {
  return `${layout}${permuted ? " permuted" : ""},${epilogue}`;
}
