/**
 * Instances of the kernels' work, with what float64 loops make of them: small ones, by which kernels are checked on a
 * user's adapter (selfcheck.ts), and of a model's sizes, where they are timed. Shapes are data to most kernels, so it is
 * the model's own pipelines that run either way. The formulas are formulas.ts's; problems/ has a file for each folder of
 * kernels, which makes operands, lays them as the kernel reads them, and says what should come of them.
 */

import type { Kernel } from "../../kernels/kernel.ts";
import type { Plan, PlanOptions, Step } from "../graph/plan.ts";
import { rowRanges } from "../graph/weights.ts";
import { attention, decodeAttention, ropeAppend } from "./problems/attention.ts";
import { argmax, sample } from "./problems/choose.ts";
import { embed, lastRow } from "./problems/embed.ts";
import { expertLinear, expertSum, groupByExpert, sparsemixer } from "./problems/experts.ts";
import { linear } from "./problems/linear.ts";
import { quantize, scan } from "./problems/loading.ts";
import { headNorm, layerNorm, rmsNorm } from "./problems/norm.ts";
import type { MakeProblem, Problem, ProblemSize } from "./problems/problem.ts";

const problems: Readonly<Record<string, MakeProblem>> = {
  argmax,
  attention,
  decodeAttention,
  embed,
  expertMatmul: expertLinear,
  expertMatvec: expertLinear,
  expertSum,
  groupByExpert,
  headNorm,
  lastRow,
  layerNorm,
  matmul: linear,
  matvec: linear,
  quantize,
  rmsNorm,
  ropeAppend,
  sample,
  scan,
  sparsemixer,
};

/** What a kernel is called, without its variant. */
const familyOf = ({ name }: Kernel): string => /^\w+/.exec(name)?.[0] ?? "";

/** Whether there is a reference for this kernel. */
export function hasProblem(kernel: Kernel): boolean {
  return familyOf(kernel) in problems;
}

/** A problem for a kernel; undefined where there is no reference. */
export function problemOf(kernel: Kernel, size: ProblemSize = {}): Problem | undefined {
  return problems[familyOf(kernel)]?.(kernel, size);
}

/** The size of a step of a plan, for a call of `seq` tokens after `past`. */
export function sizeOf(
  { kernel, bindings }: Step,
  { vocab }: Pick<Plan, "vocab">,
  {
    packing,
    maxBindingBytes,
    tileRows,
  }: Pick<PlanOptions, "packing" | "maxBindingBytes"> & Pick<ProblemSize, "tileRows">,
  { seq, past }: { readonly seq: number; readonly past: number },
): ProblemSize {
  const { weight, gain } = bindings;
  const experts = kernel.constants.EXPERT_ROWS;
  if (gain !== undefined && "vector" in gain) return { seq, cols: gain.vector.length };
  if (weight === undefined || !("matrix" in weight)) return { seq, past, vocab };
  const { matrix: ref, range } = weight;
  const of = packing(ref);
  return {
    seq,
    past,
    rows: rowRanges(ref, of, maxBindingBytes)[range]?.rows ?? 0,
    cols: ref.cols,
    ...(tileRows !== undefined && { tileRows }),
    ...("group" in of && { group: of.group }),
    ...(experts !== undefined && { experts: ref.rows / experts }),
  };
}
