/** WebGPU adapters for tests; the driver is the vitest project's (see vitest.config.ts). */
import { openAdapter } from "../cli/adapter.ts";
import type { OpenedAdapter } from "../library/adapter.ts";

const opened: { first?: Promise<OpenedAdapter> } = {};

/**
 * A new adapter of the driver's GPU: each serves one device. The GPU is held as long as the process lives. With
 * `PHI_FEATURES=none` it has no optional feature, of WGSL neither, so that every suite runs without.
 */
export async function testAdapter(): Promise<GPUAdapter> {
  opened.first ??= openAdapter();
  const { gpu } = await opened.first;
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null) throw new Error("the GPU gives no second adapter");
  if (process.env.PHI_FEATURES !== "none") return adapter;
  const { limits, info } = adapter;
  const requestDevice = async (descriptor?: GPUDeviceDescriptor) => {
    const device = await adapter.requestDevice(descriptor);
    const createShaderModule = device.createShaderModule.bind(device);
    device.createShaderModule = ({ code, ...rest }) =>
      createShaderModule({ ...rest, code: code.replace(/^requires /, "requires masked_") });
    return device;
  };
  return { features: new Set<string>(), limits, info, requestDevice } as unknown as GPUAdapter;
}
