/**
 * The kernels of a model on this very device against float64 loops, on operands so small that all of them take less than
 * a second or two: drivers compile some kernels wrongly, and a model on top of that writes fluent nonsense. What is
 * checked are the pipelines that the model runs, constants and variants included.
 */

import type { Kernel } from "../../kernels/kernel.ts";
import { PhiError } from "../errors.ts";
import type { Device } from "../gpu/device.ts";
import type { Pipelines } from "../gpu/pipelines.ts";
import type { Tuning } from "../graph/sizes.ts";
import { safeTuning, tuningFor } from "../graph/sizes.ts";
import type { Runtime } from "../run/runtime.ts";
import { hasProblem, problemOf } from "./problems.ts";
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

/** The kernels (`kernelKey`) that passed their check before, on one adapter, driver and version of the engine. */
export interface CheckedKernels {
  has(key: string): boolean;
  add(keys: readonly string[]): void;
}

/** Runs the kernels of a model's generation that are `wanted` on small problems. Throws a PhiError where the device fails. */
export async function checkGeneration(
  runtime: Runtime,
  wanted: (kernel: Kernel) => boolean,
): Promise<{
  readonly checks: readonly KernelCheck[];
  /** Keys of those that are right. */
  readonly right: readonly string[];
  /** Names of those without a reference. */
  readonly unchecked: readonly string[];
}> {
  const kernels = distinctKernels(runtime.kernels).filter(wanted);
  const checks: KernelCheck[] = [];
  const right: string[] = [];
  for (const kernel of kernels.filter(hasProblem)) {
    const check = await checkKernel(runtime.device, runtime.pipelines, kernel);
    checks.push(check);
    if (check.error <= 1) right.push(kernelKey(kernel));
  }
  return { checks, right, unchecked: kernels.filter((kernel) => !hasProblem(kernel)).map(({ name }) => name) };
}

/** Checks the kernels that are not known to be right, remembers those that are, and returns the others. */
async function wrongKernels(runtime: Runtime, checked: CheckedKernels): Promise<readonly KernelCheck[]> {
  const { checks, right } = await checkGeneration(runtime, (kernel) => !checked.has(kernelKey(kernel)));
  checked.add(right);
  return checks.filter(({ error }) => !(error <= 1));
}

/**
 * Compiles the pipelines of generation. With `checked`, those kernels that are not known to be right are checked, and
 * if one is not, the plainest ones take the place of all; returns what is to be said of that. Throws a PhiError "gpu"
 * where these are wrong too.
 */
export async function prepareKernels(
  runtime: Runtime,
  checked: CheckedKernels | undefined,
): Promise<readonly string[]> {
  const { device } = runtime;
  const compile = () => Promise.all(distinctKernels(runtime.kernels).map((kernel) => runtime.pipelines.get(kernel)));
  const retune = (tuning: Tuning) => {
    runtime.retune(tuning);
    return compile();
  };
  try {
    await compile();
  } catch (error) {
    // A size from a file may be more than this model's kernels have room for.
    device.check();
    if (runtime.tuning.tuned === undefined || !(error instanceof PhiError && error.kind === "internal")) throw error;
    await retune(tuningFor(device));
  }
  if (checked === undefined || device.isNull) return [];
  const wrong = await wrongKernels(runtime, checked);
  if (wrong.length === 0) return [];
  await retune(safeTuning);
  const [still] = await wrongKernels(runtime, checked);
  if (still !== undefined) {
    const off = `${still.error.toPrecision(2)} times what is allowed`;
    throw new PhiError("gpu", `${still.kernel} computes wrong numbers on ${device.adapterName}: off by ${off}`, [
      "The driver compiles this kernel wrongly: update it, or choose another adapter (phi devices).",
      "phi doctor prints what a report of this needs.",
    ]);
  }
  const names = [...new Set(wrong.map(({ kernel }) => kernel))].join(", ");
  return [`${names}: wrong numbers on ${device.adapterName}; plainer kernels are used, phi doctor says more`];
}
