/**
 * The kernels of a model on this very device against float64 loops, on operands so small that all of them take less than
 * a second or two: drivers compile some kernels wrongly, and a model on top of that writes fluent nonsense. What is
 * checked are the pipelines that the model runs, constants and variants included.
 */

import type { Kernel } from "../../kernels/kernel.ts";
import type { Device } from "../gpu/device.ts";
import type { Pipelines } from "../gpu/pipelines.ts";
import { problemOf } from "./problems.ts";
import { createTrial } from "./trial.ts";

/** What came of a kernel's check. */
export interface KernelCheck {
  /** e.g. `matvec<q4,bias>` */
  readonly kernel: string;
  /** Largest difference from float64, in units of what is allowed: right up to 1. */
  readonly error: number;
  /** Compiling included, where this is the kernel's first run. */
  readonly ms: number;
}

/** The kernels that differ in name, text or constants. */
export function distinctKernels(kernels: readonly Kernel[]): readonly Kernel[] {
  const byKey = new Map(kernels.map((kernel) => [kernelKey(kernel), kernel]));
  return [...byKey.values()];
}

/** Identifies a kernel's specialisation. */
export function kernelKey({ name, files, constants, tile }: Kernel): string {
  return JSON.stringify([name, files.map(({ pathname }) => pathname.split("/").at(-1)), constants, tile]);
}

/** Runs a kernel on its small problem and compares. Throws a PhiError where the device fails, an Error for an unknown kernel. */
export async function checkKernel(device: Device, pipelines: Pipelines, kernel: Kernel): Promise<KernelCheck> {
  const began = performance.now();
  const problem = problemOf(kernel);
  if (problem === undefined) throw new Error(`${kernel.name}: no reference`);
  const trial = await createTrial(device, pipelines, kernel, problem);
  try {
    return { kernel: kernel.name, error: await trial.compare(), ms: performance.now() - began };
  } finally {
    trial.dispose();
  }
}
