import { expect, test } from "vitest";
import { Device, type DeviceCall } from "../../../engine/gpu/device.ts";
import { createStaging, stagingParts } from "../../../engine/gpu/staging.ts";
import { testAdapter } from "../../gpu.ts";
import { kernelSetup, liveBuffers } from "../../kernels/harness.ts";
import { seededRandom } from "../../reference/compare.ts";

test("writes of any size arrive where they belong, the later over the earlier", async () => {
  const { device } = await kernelSetup();
  const random = seededRandom(1);
  const sizeBytes = 4 << 16;
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
  const buffers = [0, 1, 2].map((n) => device.createBuffer(`target ${n}`, sizeBytes, usage));
  const expected = buffers.map(() => new Uint32Array(sizeBytes / 4));
  const staging = createStaging(device);
  for (let n = 1; n <= 10 * stagingParts; n++) {
    const which = n % buffers.length;
    const first = Math.floor(random() * (sizeBytes / 4));
    const words = Math.floor(random() * Math.min(n * 200, sizeBytes / 4 - first));
    const target = buffers[which];
    if (target === undefined) throw new Error("no buffer");
    await staging.write(target, 4 * first, 4 * words, (bytes) => {
      expect(bytes.byteLength).toBe(4 * words);
      new Uint32Array(bytes.buffer, bytes.byteOffset, words).fill(n);
    });
    expected[which]?.fill(n, first, first + words);
  }
  for (const [n, buffer] of buffers.entries()) {
    const copy = device.createBuffer("copy", sizeBytes, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
    const encoder = device.createCommandEncoder("copy");
    encoder.copyBufferToBuffer(buffer.gpu, 0, copy.gpu, 0, sizeBytes);
    device.submit("copy", [encoder.finish()]);
    expect(new Uint32Array(await device.readBack(copy, sizeBytes))).toEqual(expected[n]);
    for (const one of [buffer, copy]) one.dispose();
  }
  staging.dispose();
  expect(await liveBuffers()).toBe(0);
});

test("a device that fails while memory is on its way ends the next wait for it, and nothing else", async () => {
  let lose = false;
  const intercept = (call: DeviceCall) => {
    if (lose && call === "mapAsync") device.gpu.destroy();
  };
  const device = await Device.open(await testAdapter(), { intercept });
  try {
    const target = device.createBuffer("target", 1024, GPUBufferUsage.COPY_DST);
    const staging = createStaging(device);
    const write = () => staging.write(target, 0, 1024, (bytes) => bytes.fill(1));
    await write();
    lose = true;
    const writes = async () => {
      for (let n = 0; n < 2 * stagingParts; n++) await write();
    };
    await expect(writes()).rejects.toMatchObject({ kind: "gpu" });
  } finally {
    device.dispose();
  }
});
