/**
 * Every pipeline, binding and dispatch of every published geometry, one layer deep, validated by Dawn's null backend: at
 * WebGPU's default limits, which every adapter has, and at those of a large GPU (row W3 of the fault catalogue).
 */
import { describe, expect, test } from "vitest";
import { withSmallBuffers } from "../bench/host.ts";
import { planSynthetic, syntheticFolder, syntheticPresets } from "../bench/synthetic.ts";
import { loadModel } from "../engine/index.ts";
import { openAdapter } from "../library/adapter.ts";

const limits = {
  default: { maxBufferSize: 2 ** 28, maxStorageBufferBindingSize: 2 ** 27 },
  "large GPU": { maxBufferSize: 2 ** 32, maxStorageBufferBindingSize: 2 ** 31 - 4 },
};

/** The null adapter with these limits; what is asked of its device is compared with them, since buffers are made small. */
async function limitedAdapter(name: keyof typeof limits) {
  const opened = await openAdapter({ adapter: "null" });
  const { features, info } = opened.adapter;
  const { maxBufferSize, maxStorageBufferBindingSize } = limits[name];
  const largest = { buffer: 0, binding: 0 };
  // Dawn holds the device to the defaults of all other limits: it is asked for nothing above them.
  const small = { requestDevice: () => opened.adapter.requestDevice() } as GPUAdapter;
  withSmallBuffers(small);
  const requestDevice = async () => {
    const device = await small.requestDevice();
    const sizes = new WeakMap<GPUBuffer, number>();
    const createBuffer = device.createBuffer.bind(device);
    device.createBuffer = (asked) => {
      const buffer = createBuffer(asked);
      largest.buffer = Math.max(largest.buffer, asked.size);
      sizes.set(buffer, asked.size);
      return buffer;
    };
    const createBindGroup = device.createBindGroup.bind(device);
    device.createBindGroup = (of) => {
      for (const { resource } of of.entries) {
        if ("buffer" in resource) {
          largest.binding = Math.max(largest.binding, resource.size ?? sizes.get(resource.buffer) ?? 0);
        }
      }
      return createBindGroup(of);
    };
    Object.defineProperty(device, "limits", {
      value: { maxBufferSize, maxStorageBufferBindingSize, maxComputeWorkgroupsPerDimension: 65535 },
    });
    return device;
  };
  const adapter = { features, info, limits: { maxBufferSize, maxStorageBufferBindingSize }, requestDevice };
  return { adapter: adapter as unknown as GPUAdapter, largest, release: opened.release };
}

/** The first preset of each geometry: some models differ in their weights alone, or in how many positions they have. */
const geometries = new Map(
  syntheticPresets.toReversed().map((preset) => {
    const { config, tensors } = planSynthetic({ preset, layers: 1 });
    return [JSON.stringify([tensors, config.sliding_window]), preset];
  }),
);

describe.each(Object.keys(limits) as (keyof typeof limits)[])("%s limits", (name) => {
  test.each([...geometries.values()])("%s", async (preset) => {
    const { adapter, largest, release } = await limitedAdapter(name);
    try {
      const model = await loadModel({ folder: syntheticFolder({ preset, layers: 1 }), adapter, context: 2048 });
      try {
        const prompt = Array.from({ length: 70 }, (_, i) => i);
        for await (const _ of model.generate(prompt, { maxTokens: 3, ignoreEos: true })) {
          // Only the run counts: this backend computes nothing.
        }
      } finally {
        model.dispose();
      }
    } finally {
      release();
    }
    expect(largest.buffer).toBeGreaterThan(2 ** 20);
    expect(largest.buffer).toBeLessThanOrEqual(limits[name].maxBufferSize);
    expect(largest.binding).toBeLessThanOrEqual(limits[name].maxStorageBufferBindingSize);
  });
});
