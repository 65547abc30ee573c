/**
 * A plan: the flat list of dispatches that a graph becomes (build.ts), as plain data, printable and testable without a
 * GPU.
 */

import type { KvFormat } from "../../kernels/attention/kv/kv.ts";
import type { Kernel } from "../../kernels/kernel.ts";
import type { ActivationFormat } from "../../kernels/linear/linear.ts";
import type { Packing } from "../../kernels/weights/weights.ts";
import type { Graph } from "./graph.ts";
import type { Family, Tuning } from "./sizes.ts";
import type { MatrixRef, VectorRef } from "./weights.ts";

/** What a binding of a dispatch is bound to. */
export type Operand =
  | { readonly slot: number }
  | { readonly matrix: MatrixRef; readonly range: number }
  | { readonly shape: MatrixRef; readonly range: number }
  | { readonly scales: MatrixRef; readonly range: number }
  | { readonly perm: MatrixRef; readonly range: number }
  | { readonly vector: VectorRef }
  | { readonly cache: "keys" | "values"; readonly layer: number }
  | { readonly shared: "state" | "ids" | "rope" | "control" | "marks" };

/** One dispatch. */
export interface Step {
  /** e.g. `layer.12/self_attn.qkv_proj matvec<bf16,none>`. */
  readonly label: string;
  readonly kernel: Kernel;
  /** By the name of the variable in the WGSL file. */
  readonly bindings: Readonly<Record<string, Operand>>;
  /** Multiplications and additions for one token, attention's left out: what a step costs, roughly. */
  readonly flopsPerToken: number;
  /** Which size of the tuning it takes: the family's, or the one that was measured under this key. */
  readonly size?: { readonly family: Family; readonly key: string };
}

/** How the next token is chosen on the GPU: the one of the highest logit, or by the whole chain of the sampler. */
export type Chooser = "greedy" | "sample";

export interface Plan {
  readonly kind: Graph["kind"];
  /** Tokens that a call may have. */
  readonly maxSeq: number;
  /** Up to the logits. */
  readonly steps: readonly Step[];
  /** How many of them, from the first, make what the cache gets. */
  readonly cacheSteps: number;
  /** What makes the next token of them, a step a way of choosing; nothing in a plan that keeps all positions. */
  readonly choosers: Readonly<Partial<Record<Chooser, Step>>>;
  /** Bytes of each slot. */
  readonly slotBytes: readonly number[];
  /** The slot of the logits [rows, vocab]. */
  readonly logitsSlot: number;
  readonly vocab: number;
  /** Slots and columns of the graph's named values, where they were asked for. */
  readonly taps: ReadonlyMap<string, { readonly slot: number; readonly cols: number }>;
}

/** The steps of a plan, its choosers behind them. */
export function allSteps({ steps, choosers }: Plan): readonly Step[] {
  return [...steps, ...Object.values(choosers)];
}

export interface PlanOptions {
  readonly maxSeq: number;
  readonly packing: (ref: MatrixRef) => Packing;
  readonly kv: KvFormat;
  /** What linears on integer weights make of their input; default f32. */
  readonly activations?: ActivationFormat;
  readonly rotary: number;
  readonly maxBindingBytes: number;
  readonly tuning: Tuning;
  /** Keep the named values in slots of their own, to be read back. */
  readonly taps?: boolean;
}

/** A plan as text: a line per dispatch, with its slots, the one that chooses the likeliest token included. */
export function explain(plan: Plan): string {
  const steps = [...plan.steps, ...(plan.choosers.greedy === undefined ? [] : [plan.choosers.greedy])];
  const lines = steps.map((step) => {
    const operands = Object.entries(step.bindings).flatMap(([name, operand]) =>
      "slot" in operand ? [`${name}=#${operand.slot}`] : [],
    );
    return `  ${step.label}  ${operands.join(" ")}`;
  });
  const slots = plan.slotBytes.map((bytes, index) => `#${index} ${bytes}`).join(", ");
  const head = `${plan.kind}: ${steps.length} dispatches for up to ${plan.maxSeq} tokens; slots in bytes: ${slots}`;
  return [head, ...lines].join("\n");
}
