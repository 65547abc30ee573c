/** The one WebGPU device of a test process; the driver is the vitest project's (see vitest.config.ts). */
import { type OpenedAdapter, openAdapter } from "../cli/adapter.ts";

export interface TestDevice extends OpenedAdapter {
  readonly device: GPUDevice;
}

const opened: { device?: Promise<TestDevice> } = {};

/**
 * The adapter of this project's driver and one device with all its limits and features, opened at the first call. An
 * error that no scope catches fails the run.
 */
export function testDevice(): Promise<TestDevice> {
  opened.device ??= openTestDevice();
  return opened.device;
}

async function openTestDevice(): Promise<TestDevice> {
  const found = await openAdapter();
  const { adapter } = found;
  const requiredLimits: Record<string, number> = {};
  for (const name in adapter.limits) {
    const limit = adapter.limits[name as keyof GPUSupportedLimits];
    if (typeof limit === "number") requiredLimits[name] = limit;
  }
  const device = await adapter.requestDevice({
    label: "test device",
    requiredFeatures: [...adapter.features] as GPUFeatureName[],
    requiredLimits,
  });
  device.addEventListener("uncapturederror", (event) => {
    event.preventDefault();
    // Thrown outside of any promise, vitest reports it and fails the run.
    queueMicrotask(() => {
      throw new Error(`uncaptured WebGPU error: ${event.error.message}`);
    });
  });
  return { ...found, device };
}
