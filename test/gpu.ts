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

/** An adapter that says that it is a GPU: the engine treats it as one, in sizes, in how weights lie and in their scan. */
export async function gpuAdapter(): Promise<GPUAdapter> {
  const adapter = await testAdapter();
  const { features, limits } = adapter;
  const { subgroupMinSize, subgroupMaxSize } = adapter.info;
  const names = { vendor: "test", architecture: "gpu", device: "test-gpu", description: "Test GPU" };
  const info = { ...names, isFallbackAdapter: false, subgroupMinSize, subgroupMaxSize };
  const requestDevice = adapter.requestDevice.bind(adapter);
  return { features, limits, info, requestDevice } as unknown as GPUAdapter;
}
