/** What an instance of a kernel's work is, and what the makers of all of them use. */

import type { Kernel } from "../../../kernels/kernel.ts";
import type { GroupSize } from "../../../kernels/weights/weights.ts";
import { at } from "../formulas.ts";

/** What is bound. */
export type Data = Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** Sizes that the kernel does not fix; what is absent is small. */
export interface ProblemSize {
  /** Tokens of the call, where the kernel takes several. */
  readonly seq?: number;
  /** Tokens in the cache before them. */
  readonly past?: number;
  /** Rows of a weight, in each of its parts; of experts, those of the first ones. */
  readonly rows?: number;
  readonly cols?: number;
  /** Rows of a weight that lie block by block. */
  readonly tileRows?: number;
  /** Weights that share a scale. */
  readonly group?: GroupSize;
  /** Experts that the tokens are routed to in turn. */
  readonly experts?: number;
  readonly vocab?: number;
}

/** An instance of a kernel's work. */
export interface Problem {
  readonly seq: number;
  readonly past: number;
  readonly kvRows: number;
  /** By the name of the variable in the WGSL file; outputs hold what a kernel that writes nothing leaves. */
  readonly inputs: Readonly<Record<string, Data>>;
  readonly outputs: Readonly<Record<string, Output>>;
  /** Workgroups in x at least: a kernel's own grid may be for fewer rows than the problem has. */
  readonly leastWorkgroups?: number;
  /** Inputs that are bound at their exact length, from which a kernel takes the number of columns. */
  readonly vectors?: readonly string[];
}

export interface Output {
  readonly words: number;
  /** Numbers that are compared. */
  readonly count: number;
  /** What each should be; neighbours are computed together. */
  readonly expected: (index: number) => number;
  /** Finds the numbers in the words, where they are not float32 as they lie. */
  readonly read?: (words: Uint32Array<ArrayBuffer>) => (index: number) => number;
  /** Absolute difference allowed where the largest number is 1. */
  readonly tolerance: number;
}

/** Makes a kernel's problem of a size. */
export type MakeProblem = (kernel: Kernel, size: ProblemSize) => Problem;

/** Drivers' exp, tanh and division are within 1e-5; sums of some hundred products in any order are, too. */
export const tolerance = 1e-4;

/** Elements of rows [width], each computed when an element of it is asked for; the last one is kept. */
export function byRow(width: number, compute: (row: number) => ArrayLike<number>): (index: number) => number {
  let kept = -1;
  let values: ArrayLike<number> = [];
  return (index) => {
    const row = Math.floor(index / width);
    if (row !== kept) values = compute(row);
    kept = row;
    return at(values, index % width);
  };
}

/** An output that is known as a whole. */
export function whole(expected: ArrayLike<number>): Pick<Output, "words" | "count" | "expected"> {
  return { words: expected.length, count: expected.length, expected: (index) => at(expected, index) };
}

/** How words that are integers as they lie are read and compared. */
export const integers = { read: (words: Uint32Array) => (index: number) => at(words, index), tolerance: 0 };

/** A constant that the kernel fixes. Throws an Error where it does not. */
export function constant(kernel: Kernel, name: string): number {
  const value = kernel.constants[name];
  if (value === undefined) throw new Error(`${kernel.name}: no constant ${name}`);
  return value;
}

/** Whether one of the kernel's snippets has this name. */
export const has = (kernel: Kernel, snippet: string) => kernel.files.some((url) => url.pathname.endsWith(snippet));

/** The words between the angle brackets of a kernel's name. */
export const variant = (kernel: Kernel) => (/<(.*)>/.exec(kernel.name)?.[1] ?? "").split(",");
