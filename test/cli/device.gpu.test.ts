import { expect, test } from "vitest";
import { openAdapter } from "../../cli/adapter.ts";

test("the adapter is the project's driver, and its device computes", async () => {
  const { adapter, name, release } = await openAdapter();
  const device = await adapter.requestDevice();
  expect(name.includes("swiftshader")).toBe(process.env.PHI_ADAPTER === "swiftshader");
  const data = device.createBuffer({ size: 16, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC });
  const back = device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const module = device.createShaderModule({
    code: "@group(0) @binding(0) var<storage, read_write> y: array<u32>; @compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3u) { y[id.x] = id.x * id.x + 1u; }",
  });
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module } });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(
    0,
    device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: data } }],
    }),
  );
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(data, 0, back, 0, 16);
  device.queue.submit([encoder.finish()]);
  await back.mapAsync(GPUMapMode.READ);
  expect([...new Uint32Array(back.getMappedRange())]).toEqual([1, 2, 5, 10]);
  back.destroy();
  data.destroy();
  device.destroy();
  release();
});
