/** What matvec and matmul share: their operands' layouts and what becomes of the sum. */

import { stateSnippet } from "./kernel.ts";
import { type WeightLayout, weightLayouts, weightSnippets } from "./weights.ts";

/** What a linear does with its sum before it stores it. */
export type Epilogue = "none" | "bias" | "residual" | "bias_residual" | "bias_gelu" | "gated_silu";

export interface LinearShape {
  readonly layout: WeightLayout;
  readonly epilogue: Epilogue;
  readonly cols: number;
  /** Rows of the output that this dispatch computes: the weight's row range. */
  readonly rangeRows: number;
}

const epilogues: Readonly<Record<Epilogue, readonly URL[]>> = {
  none: [new URL("./epilogues/none.wgsl", import.meta.url)],
  bias: [new URL("./epilogues/bias.wgsl", import.meta.url)],
  residual: [new URL("./epilogues/residual.wgsl", import.meta.url)],
  bias_residual: [new URL("./epilogues/bias_residual.wgsl", import.meta.url)],
  bias_gelu: [new URL("./epilogues/bias_gelu.wgsl", import.meta.url), new URL("./gelu.wgsl", import.meta.url)],
  gated_silu: [new URL("./epilogues/gated_silu.wgsl", import.meta.url)],
};

const aligned = new URL("./activations/aligned.wgsl", import.meta.url);
const ragged = new URL("./activations/ragged.wgsl", import.meta.url);

/** The snippets of a linear: state, weight, input, epilogue. */
export function linearSnippets({ layout, epilogue, cols }: LinearShape): readonly URL[] {
  const input = cols % weightLayouts[layout].blockCols === 0 ? aligned : ragged;
  return [stateSnippet, ...weightSnippets(layout), input, ...epilogues[epilogue]];
}
