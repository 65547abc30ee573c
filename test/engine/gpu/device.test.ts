/** The device wrapper, on Dawn's null backend: it does everything but the GPU's work. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { collectGarbage } from "../../../bench/memory.ts";
import { PhiError } from "../../../engine/errors.ts";
import { Device, type DeviceCall, type DeviceOptions } from "../../../engine/gpu/device.ts";
import { createPipelines } from "../../../engine/gpu/pipelines.ts";
import { lastRow } from "../../../kernels/embed/last_row.ts";
import { type OpenedAdapter, openAdapter } from "../../../library/adapter.ts";
import { failure } from "../../tempFolder.ts";

let opened: OpenedAdapter;
beforeAll(async () => {
  opened = await openAdapter({ adapter: "null" });
});
afterAll(() => opened.release());

/** A device that is disposed when `use` is over. */
async function withDevice<T>(use: (device: Device) => T | Promise<T>, options: DeviceOptions = {}): Promise<T> {
  const adapter = await opened.gpu.requestAdapter();
  if (adapter === null) throw new Error("no null adapter");
  const device = await Device.open(adapter, options);
  try {
    return await use(device);
  } finally {
    device.dispose();
  }
}

const storage = () => GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;

/** One of each call: a kernel's life from buffer to result. */
async function workThrough(device: Device): Promise<ArrayBuffer> {
  const x = device.createBuffer("x", 256, storage());
  const back = device.createBuffer("back", 256, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
  const { gpu, layouts } = await createPipelines(device).get(lastRow(64));
  const uniform = device.createBuffer("state", 16, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
  const y = device.createBuffer("y", 256, storage());
  device.writeBuffer(x, 0, new Float32Array(64));
  const [layout] = layouts;
  if (layout === undefined) throw new Error("no layout");
  const group = device.createBindGroup(
    "group",
    layout,
    [uniform, x, y].map((buffer, binding) => ({ binding, resource: { buffer: buffer.gpu } })),
  );
  const encoder = device.createCommandEncoder("run");
  const pass = encoder.beginComputePass();
  pass.setPipeline(gpu);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(y.gpu, 0, back.gpu, 0, 256);
  device.submit("run", [encoder.finish()]);
  await device.workDone();
  return device.readBack(back, 256);
}

test("nothing keeps a device that was disposed: its driver's threads and memory would stay", async () => {
  const refs: WeakRef<GPUDevice>[] = [];
  for (let n = 0; n < 4; n++) {
    await withDevice(async (device) => {
      await workThrough(device);
      refs.push(new WeakRef(device.gpu));
    });
  }
  const adapter = await opened.gpu.requestAdapter();
  if (adapter === null) throw new Error("no null adapter");
  const open = await Device.open(adapter);
  refs.push(new WeakRef(open.gpu));
  for (let n = 0; n < 10; n++) {
    await new Promise((resolve) => setTimeout(resolve, 5)); // a WeakRef keeps what it refers to until the turn ends
    collectGarbage();
  }
  expect(refs.map((ref) => ref.deref() !== undefined)).toEqual([false, false, false, false, true]);
  open.dispose();
});

describe("the ledger", () => {
  test("counts buffers and their bytes while they live", async () => {
    await withDevice((device) => {
      const a = device.createBuffer("a", 1000, storage()); // rounded up to 1008
      const b = device.createBuffer("b", 1, storage()); // 16 at least
      expect(device.ledger).toEqual({ buffers: 2, bytes: 1024, peakBytes: 1024 });
      a.dispose();
      a.dispose();
      expect(device.ledger).toEqual({ buffers: 1, bytes: 16, peakBytes: 1024 });
      device.createBuffer("c", 32, storage());
      b.dispose();
      expect(device.ledger).toEqual({ buffers: 1, bytes: 32, peakBytes: 1024 });
      device.dispose();
      expect(device.ledger).toEqual({ buffers: 0, bytes: 0, peakBytes: 1024 });
    });
  });
});

describe("fault injection", () => {
  test("every call can be made to fail, and its error is the one that comes out", async () => {
    const calls: DeviceCall[] = [];
    const bytes = await withDevice(workThrough, { intercept: (call) => calls.push(call) });
    expect(bytes.byteLength).toBe(256);
    const all: readonly DeviceCall[] = [
      ...(["createBuffer", "createShaderModule", "createComputePipeline", "createBindGroup"] as const),
      ...(["writeBuffer", "createCommandEncoder", "submit", "mapAsync", "workDone"] as const),
    ];
    expect([...new Set(calls)].toSorted()).toEqual([...all].toSorted());
    for (let k = 0; k < calls.length; k++) {
      let count = 0;
      const intercept = (call: DeviceCall, label: string) => {
        if (count++ === k) throw new PhiError("machine", `${call} "${label}" failed`);
      };
      const error = await failure(withDevice(workThrough, { intercept }), "machine");
      expect(error.message).toMatch(new RegExp(`^${calls[k]} ".+" failed$`));
      expect(count).toBe(k + 1); // nothing is called after the failure
    }
  });

  test("a device lost at any call ends the work with one error", async () => {
    let calls = 0;
    await withDevice(workThrough, { intercept: () => calls++ });
    for (let k = 0; k < calls; k++) {
      let count = 0;
      let lose = () => {};
      await withDevice(
        async (device) => {
          lose = () => device.gpu.destroy();
          const error = await failure(workThrough(device), "gpu");
          expect(error.message).toMatch(/^the GPU device was lost \(destroyed\)|^reading back: /);
          expect((await failure(() => device.check(), "gpu")).message).toMatch(/was lost/);
        },
        {
          intercept() {
            if (count++ === k) lose();
          },
        },
      ).catch((error: unknown) => {
        throw new Error(`at call ${k}`, { cause: error });
      });
    }
  });
});

describe("failures", () => {
  test("a refused call fails the device: the next wait throws", async () => {
    await withDevice(async (device) => {
      device.createBuffer("bad", 16, GPUBufferUsage.MAP_READ | GPUBufferUsage.STORAGE);
      const refused = { kind: "internal", message: expect.stringMatching(/^WebGPU refused a call: .*usage/) };
      const error = await device.workDone().catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(PhiError);
      expect(error).toMatchObject(refused);
      expect(() => device.check()).toThrow(expect.objectContaining(refused));
      expect(() => device.createBuffer("next", 16, storage())).toThrow(expect.objectContaining(refused));
    });
  });

  test("a kernel that does not compile is our own mistake, and is named", async () => {
    await withDevice(async (device) => {
      const module = device.createShaderModule("broken", "fn main( {");
      const descriptor = { label: "broken<f16>", layout: "auto" as const, compute: { module } };
      const error = await device.createComputePipeline(descriptor).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(PhiError);
      expect(error).toMatchObject({ kind: "internal", message: expect.stringContaining("broken") });
    });
  });

  test("memory that is mapped when its device is lost is not written, and the loss is what is told", async () => {
    await withDevice(async (device) => {
      const buffer = device.createBuffer("ahead", 256, GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC);
      await device.mapForWriting(buffer);
      device.gpu.destroy();
      const error = await failure(
        device.writeMapped(buffer, () => expect.unreachable()),
        "gpu",
      );
      expect(error.message).toMatch(/^the GPU device was lost \(destroyed\)/);
    });
  });

  test("a lost device is a failure of the GPU", async () => {
    await withDevice(async (device) => {
      device.gpu.destroy();
      await device.gpu.lost;
      expect((await failure(() => device.check(), "gpu")).message).toMatch(/^the GPU device was lost \(destroyed\): /);
      await failure(() => device.createBuffer("late", 16, storage()), "gpu");
    });
  });

  test("disposing twice is once; afterwards every call is refused, and it is no loss", async () => {
    await withDevice(async (device) => {
      device.createBuffer("a", 16, storage());
      device.dispose();
      device.dispose();
      await device.gpu.lost;
      const error = await failure(() => device.createBuffer("b", 16, storage()), "usage");
      expect(error.message).toBe("the model was disposed");
      await failure(device.workDone(), "usage");
    });
  });

  test("an adapter that gives no device is the machine's fault", async () => {
    const adapter = await opened.gpu.requestAdapter();
    if (adapter === null) throw new Error("no null adapter");
    (await adapter.requestDevice()).destroy();
    const error = await failure(Device.open(adapter), "machine"); // an adapter serves one device
    expect(error.message).toMatch(/^the adapter gives no device: /);
  });
});

test("an error that no one waits for is not printed on stdout", async () => {
  const dist = (path: string) => JSON.stringify(new URL(`../../../dist/${path}`, import.meta.url).href);
  const program = `
    import { openAdapter } from ${dist("library/adapter.js")};
    import { Device } from ${dist("engine/gpu/device.js")};
    const { adapter, release } = await openAdapter({ adapter: "null" });
    const device = await Device.open(adapter);
    device.createBuffer("bad", 16, GPUBufferUsage.MAP_READ | GPUBufferUsage.STORAGE);
    await new Promise((resolve) => setTimeout(resolve, 100));
    try {
      device.check();
    } catch (error) {
      console.error(error.kind, error.message);
    }
    device.dispose();
    release();
    process.exit(0);`;
  const cwd = fileURLToPath(new URL("../../..", import.meta.url));
  const args = ["--input-type=module", "-e", program];
  const { stdout, stderr } = await promisify(execFile)(process.execPath, args, { cwd });
  expect(stdout).toBe("");
  expect(stderr).toContain("internal WebGPU refused a call: ");
});
