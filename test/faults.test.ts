/**
 * A whole load and eight tokens, and a tuning, with a fault at the k-th WebGPU call (rows W5 to W7 of the fault catalogue),
 * on Dawn's null backend: one typed error, soon, and nothing left on the GPU. `PHI_TEST_FAULT_STRIDE=1` takes every k; a
 * short run takes few.
 */
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ErrorKind } from "../engine/errors.ts";
import { type LoadOptions, loadModel, openFolder, tuneModel } from "../engine/index.ts";
import { type OpenedAdapter, openAdapter } from "../library/adapter.ts";
import { failingFiles } from "./failingFiles.ts";
import { isShort } from "./short.ts";
import { failure } from "./tempFolder.ts";

const checkpoint = join(import.meta.dirname, "fixtures/models/phi-1");
const stride = Number(process.env.PHI_TEST_FAULT_STRIDE ?? (isShort ? 25 : 3));

let opened: OpenedAdapter;
beforeAll(async () => {
  opened = await openAdapter({ adapter: "null" });
});
afterAll(() => opened.release());

/** An adapter whose device is known here, with its live buffers counted by what Dawn itself is told. */
async function watchedAdapter() {
  const adapter = await opened.gpu.requestAdapter();
  if (adapter === null) throw new Error("no null adapter");
  const live = new Set<GPUBuffer>();
  const seen: { device?: GPUDevice } = {};
  const { features, limits, info } = adapter;
  const requestDevice = async (descriptor?: GPUDeviceDescriptor) => {
    const device = await adapter.requestDevice(descriptor);
    seen.device = device;
    const createBuffer = device.createBuffer.bind(device);
    device.createBuffer = (of) => {
      const buffer = createBuffer(of);
      const destroy = buffer.destroy.bind(buffer);
      live.add(buffer);
      buffer.destroy = () => {
        live.delete(buffer);
        return destroy();
      };
      return buffer;
    };
    return device;
  };
  return { adapter: { features, limits, info, requestDevice } as unknown as GPUAdapter, live, seen };
}

/** Loads, generates eight tokens and disposes. */
async function generate(options: LoadOptions): Promise<void> {
  const model = await loadModel(options);
  try {
    const ids: number[] = [];
    for await (const { id } of model.generate([1, 2, 3], { maxTokens: 8, ignoreEos: true })) ids.push(id);
    expect(ids).toHaveLength(8);
  } finally {
    model.dispose();
  }
}

/** Loads, measures the sizes of two linears and disposes. */
async function tune(options: LoadOptions): Promise<void> {
  const { kernels } = await tuneModel({ ...options, only: "bias_gelu" });
  expect(kernels.map(({ plan }) => plan).sort()).toEqual(["decode", "prefill"]);
}

type Work = (options: LoadOptions) => Promise<void>;

/** Does `work`; `fault` is called before the k-th WebGPU call. Returns the calls made. */
async function run(
  work: Work,
  k: number,
  fault: (device: GPUDevice) => void,
): Promise<{ calls: number; live: number }> {
  const { adapter, live, seen } = await watchedAdapter();
  let calls = 0;
  const intercept = () => {
    if (calls++ === k && seen.device !== undefined) fault(seen.device);
  };
  try {
    await work({ folder: await openFolder(checkpoint), adapter, context: 32, device: { intercept } });
  } catch (error) {
    expect(live.size, "buffers left after the failure").toBe(0);
    throw error;
  }
  return { calls, live: live.size };
}

describe("a file call that fails", () => {
  test.each(isShort ? ["EIO"] : ["EIO", "EMFILE", "EACCES", "short"])(
    "%s at the k-th of a load: one io error, nothing stays",
    async (code) => {
      let failures = 0;
      for (let k = 0; ; k += isShort ? 4 : 1) {
        const { files, state } = failingFiles(k, code);
        const { adapter, live } = await watchedAdapter();
        const load = async () => {
          const model = await loadModel({ folder: await openFolder(checkpoint, { files }), adapter, context: 32 });
          model.dispose();
        };
        const error = await load().then(
          () => undefined,
          (reason: unknown) => reason,
        );
        expect({ open: state.open, live: live.size }, `at call ${k}`).toEqual({ open: 0, live: 0 });
        if (error !== undefined) {
          failures++;
          const { message } = await failure(Promise.reject(error), "io");
          expect(message, `at call ${k}`).toMatch(
            code === "short" ? /expected bytes \d+ to \d+, got the end/ : /injected/,
          );
        }
        if (k >= state.calls) break;
      }
      expect(failures).toBeGreaterThan(10);
    },
  );
});

const raise = (device: GPUDevice, error: GPUError) =>
  void device.dispatchEvent(Object.assign(new Event("uncapturederror", { cancelable: true }), { error }));

const faults: readonly (readonly [
  name: string,
  kind: ErrorKind,
  message: RegExp,
  fault: (device: GPUDevice) => void,
])[] = [
  ["out of memory", "machine", /out of memory/, (device) => raise(device, new GPUOutOfMemoryError("no room"))],
  ["a call that WebGPU refuses", "internal", /refused a call: .*bad/, (d) => raise(d, new GPUValidationError("bad"))],
  ["a lost device", "gpu", /the GPU device was lost \(destroyed\)|^reading /, (device) => device.destroy()],
];

const works: readonly (readonly [name: string, work: Work])[] = [
  ["generating", generate],
  ["tuning", tune],
];

describe.each(faults)("%s at the k-th call", (_, kind, message, fault) => {
  test.each(works)("of %s is one error of the right kind within 2 s, and every buffer is released", async (_, work) => {
    const { calls, live } = await run(work, -1, fault);
    expect(calls).toBeGreaterThan(100);
    expect(live).toBe(0);
    // A tuning makes many calls that are alike, and each run of it takes a while.
    const isSampled = work === tune && process.env.PHI_TEST_FAULT_STRIDE === undefined;
    const step = isSampled ? Math.ceil(calls / (isShort ? 4 : 15)) : stride;
    for (let k = faults.findIndex(([, of]) => of === kind); k < calls; k += step) {
      let began = Number.NaN;
      const timed = (device: GPUDevice) => {
        began = performance.now();
        fault(device);
      };
      const error = await failure(run(work, k, timed), kind).catch((cause: unknown) => {
        if (Number.isNaN(began) && work === tune) return undefined; // by its times it made fewer calls
        throw new Error(`at call ${k} of ${calls}`, { cause });
      });
      if (error === undefined) break;
      expect(error.message).toMatch(message);
      expect(performance.now() - began, `at call ${k}`).toBeLessThan(2000);
    }
    // The process goes on: a new load works.
    await run(work, -1, fault);
  });
});
