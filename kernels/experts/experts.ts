/** The kernels of a mixture of experts. A token makes two choices: choice c is that of token c / 2. */

import { foldedGrid, type Kernel, stateSnippet } from "../kernel.ts";
import { lanes } from "../lanes/lanes.ts";
import { activationSnippets, type LinearFormats, linearVariant } from "../linear/linear.ts";
import type { MatmulTile } from "../linear/matmul.ts";
import { type MatvecTile, matvecThreads } from "../linear/matvec.ts";
import { weightSnippets } from "../weights/weights.ts";

/** Experts that a token takes: sparsemixer chooses two. */
export const choicesPerToken = 2;

/** Columns of the list of choices by expert, [seq, groupColumns]. */
export function groupColumns(experts: number): number {
  return 2 * experts; // a count and `seq` entries for each, in words
}

/** What becomes of an expert's sums: the gated activation of its first matrix, or the weighted result of its second. */
export type ExpertEpilogue = "gated_silu" | "weighted";

export interface ExpertShape extends LinearFormats {
  readonly epilogue: ExpertEpilogue;
  readonly experts: number;
  /** Rows of one expert, in each part. */
  readonly expertRows: number;
  readonly cols: number;
  /** Rows of the weight's row range, which is of all experts one after the other. */
  readonly rangeRows: number;
}

const epilogues: Readonly<Record<ExpertEpilogue, URL>> = {
  gated_silu: new URL("./epilogues/expert_gated_silu.wgsl", import.meta.url),
  weighted: new URL("./epilogues/expert_weighted.wgsl", import.meta.url),
};

function expertSnippets(shape: ExpertShape, tokens: "one" | "several"): readonly URL[] {
  const { layout, epilogue } = shape;
  return [stateSnippet, ...weightSnippets(layout), ...activationSnippets(shape, tokens), epilogues[epilogue]];
}

/** The first matrix reads the token, for both its choices; the second what the first made of each choice. */
function expertConstants({ epilogue, expertRows }: ExpertShape): Record<string, number> {
  return { EXPERT_ROWS: expertRows, CHOICES_PER_X: epilogue === "gated_silu" ? choicesPerToken : 1 };
}

/** routing [seq, 2] of (expert, weight) from scores [seq, experts]. */
export function sparsemixer(experts: number, jitter: number): Kernel {
  return {
    name: "sparsemixer",
    files: [new URL("./sparsemixer.wgsl", import.meta.url), stateSnippet],
    constants: { EXPERTS: experts, THRESHOLD: 2 * jitter },
    tile: {},
    grid: (seq) => [Math.ceil(seq / 64), 1, 1],
  };
}

/** The choices of all tokens by expert: counts [experts], then a list [seq] for each. */
export function groupByExpert(experts: number, lanes: number): Kernel {
  return {
    name: "groupByExpert",
    files: [new URL("./group_by_expert.wgsl", import.meta.url), stateSnippet],
    constants: { EXPERTS: experts, LANES: lanes },
    tile: {},
    grid: () => [experts, 1, 1],
  };
}

/** y [2, expertRows] of one token's two choices. */
export function expertMatvec(shape: ExpertShape, size: MatvecTile): Kernel {
  const threads = matvecThreads(size);
  const rows = Math.min(shape.expertRows, shape.rangeRows);
  return {
    name: `expertMatvec<${linearVariant(shape)}>`,
    files: [new URL("./expert_matvec.wgsl", import.meta.url), ...expertSnippets(shape, "one"), ...threads.files],
    constants: { ...expertConstants(shape), ...threads.constants },
    tile: threads.tile,
    features: threads.features,
    grid: () => [Math.ceil(rows / (size.groups * 4)), choicesPerToken, 1],
  };
}

/** Choices of an expert are few: an eighth of a chunk's tokens where it is one of 16. */
const mostChoices = 8;

/** y [seq * 2, expertRows] of the choices of several tokens. */
export function expertMatmul(shape: ExpertShape, { threads, tokens, subgroup }: MatmulTile): Kernel {
  const shared = lanes(subgroup);
  const choices = Math.min(tokens, mostChoices);
  const rows = Math.min(shape.expertRows, shape.rangeRows);
  return {
    name: `expertMatmul<${linearVariant(shape)}>`,
    files: [new URL("./expert_matmul.wgsl", import.meta.url), ...expertSnippets(shape, "several"), ...shared.files],
    constants: { ...expertConstants(shape), EXPERTS: shape.experts, THREADS: threads },
    tile: { CHOICES: choices, ...shared.tile },
    features: shared.features,
    grid: (seq) => [Math.ceil(rows / (threads * 4)), Math.ceil(seq / choices), shape.experts],
  };
}

/** y [seq, cols] = residual + both choices' x [seq, 2, cols]. */
export function expertSum(cols: number): Kernel {
  return {
    name: "expertSum",
    files: [new URL("./expert_sum.wgsl", import.meta.url), stateSnippet],
    constants: { COLS: cols },
    tile: {},
    grid: (seq) => foldedGrid(Math.ceil((seq * cols) / 64)),
  };
}
