/** WebGPU adapters for tests; the driver is the vitest project's (see vitest.config.ts). */
import { openAdapter } from "../cli/adapter.ts";
import type { OpenedAdapter } from "../library/adapter.ts";

const opened: { first?: Promise<OpenedAdapter> } = {};

/** A new adapter of the driver's GPU: each serves one device. The GPU is held as long as the process lives. */
export async function testAdapter(): Promise<GPUAdapter> {
  opened.first ??= openAdapter();
  const { gpu } = await opened.first;
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null) throw new Error("the GPU gives no second adapter");
  return adapter;
}

/** `PHI_FEATURES=none`: the suites run without optional features of WebGPU. */
export const testFeatures = process.env.PHI_FEATURES === "none" ? "none" : "all";
