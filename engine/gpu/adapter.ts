/** What an adapter says of itself, before a device is opened. */

import { PhiError } from "../errors.ts";

/** What an adapter calls itself. */
export function adapterName(info: GPUAdapterInfo): string {
  return [info.vendor, info.architecture, info.description || info.device].filter((s) => s !== "").join(" ");
}

/** Whether a CPU stands in for a GPU. */
export function isSoftwareAdapter(info: GPUAdapterInfo): boolean {
  return info.isFallbackAdapter || /llvmpipe|swiftshader|lavapipe|software/i.test(adapterName(info));
}

/** Threads of every subgroup of an adapter, or 1 where they are not all of one size. */
export function subgroupSize({ subgroupMinSize, subgroupMaxSize }: GPUAdapterInfo): number {
  return subgroupMinSize === subgroupMaxSize ? subgroupMinSize : 1;
}

/** Largest storage binding of a device or an adapter, in bytes, also bounded by its largest buffer. */
export function maxBindingBytes({ maxStorageBufferBindingSize, maxBufferSize }: GPUSupportedLimits): number {
  return Math.floor(Math.min(maxStorageBufferBindingSize, maxBufferSize) / 256) * 256;
}

/** Throws a PhiError "machine" where an adapter measures no time. */
export function checkProfiling(adapter: GPUAdapter): void {
  if (adapter.features.has("timestamp-query")) return;
  throw new PhiError("machine", "--profile: expected an adapter with timestamp queries, got one without", [
    "The feature is timestamp-query; phi devices lists what each adapter has.",
  ]);
}
