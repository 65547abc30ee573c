/** The harness notices what it is there to notice; and what the drivers do that the tolerances must allow. */
import { describe, expect, test } from "vitest";
import { lastRow } from "../../kernels/embed/last_row.ts";
import { randomValues } from "../reference/compare.ts";
import { broken, expectWithin, kernelSetup, liveBuffers, runKernel, smallest } from "./harness.ts";

describe("runKernel", () => {
  const x = randomValues(1, 3 * 65);

  test("gives the outputs and leaves no buffer behind", async () => {
    const { y } = await runKernel(lastRow(65), { seq: 3 }, { x, y: { output: 65 } });
    expect([...y]).toEqual([...x.subarray(130)]);
    expect(await liveBuffers()).toBe(0);
  });

  test("an element that is not written is NaN", async () => {
    const kernel = await broken(lastRow(65), "id.x < COLS", "id.x < COLS - 1u");
    const { y } = await runKernel(kernel, { seq: 3 }, { x, y: { output: 65 } });
    expect([...y.subarray(0, 64)]).toEqual([...x.subarray(130, 194)]);
    expect(y[64]).toBeNaN();
  });

  test("a write past the end is an error", async () => {
    const kernel = await broken(lastRow(65), "id.x < COLS", "id.x < COLS + 3u");
    const run = runKernel(kernel, { seq: 1 }, { x, y: { output: 65 } });
    await expect(run).rejects.toThrow('element 65 of "y" [65] was written');
    expect(await liveBuffers()).toBe(0);
  });

  test("a read past the end is NaN", async () => {
    const { y } = await runKernel(lastRow(65), { seq: 4 }, { x, y: { output: 65 } });
    expect([...y.subarray(0, 16)]).toEqual(Array.from({ length: 16 }, () => Number.NaN));
  });

  test("a call that WebGPU refuses is an error, and the device goes on", async () => {
    const huge = { ...lastRow(65), grid: () => [70000, 1, 1] as const };
    await expect(runKernel(huge, { seq: 3 }, { x, y: { output: 65 } })).rejects.toThrow(/70000/);
    const unbound = runKernel(lastRow(65), { seq: 3 }, { x });
    await expect(unbound).rejects.toThrow('nothing is bound to "y"');
    const { y } = await runKernel(lastRow(65), { seq: 1 }, { x, y: { output: 65 } });
    expect(y[0]).toBe(x[0]);
    expect(await liveBuffers()).toBe(0);
  });
});

describe("expectWithin", () => {
  const shape = [2, 2];
  const compare = (actual: number[], expected: number[], bound: number) => () =>
    expectWithin(Float32Array.from(actual), Float64Array.from(expected), () => bound, { shape, what: "y" });

  test("accepts what is within, equal infinities and pairs of NaN", () => {
    const special = [1, Number.NaN, Number.POSITIVE_INFINITY, 0];
    compare(special, special, 0)();
    compare([1.5, 0, -0, 2], [1, 0, 0, 2], 0.5)();
  });

  test("refuses the rest, with the worst element's place", () => {
    expect(compare([1, 2, 3, 4], [1, 2, 3.5, 5], 0.25)).toThrow("2 of 4 elements");
    expect(compare([1, 2, 3, 4], [1, 2, 3.5, 5], 0.25)).toThrow("at [1, 1]: expected 5 ± 0.25, got 4");
    expect(compare([1, 2, 3, Number.NaN], [1, 2, 3, 4], 1e9)).toThrow("at [1, 1]");
    expect(compare([1, 2, 3, 4], [1, 2, 3, Number.NaN], 1e9)).toThrow("1 of 4 elements");
    expect(compare([1, 2, 3, Number.POSITIVE_INFINITY], [1, 2, 3, 4], 1e9)).toThrow("1 of 4 elements");
  });
});

test("a copied subnormal number is kept, or flushed to zero", async () => {
  const x = randomValues(2, 65, "denormals");
  const { y } = await runKernel(lastRow(65), { seq: 1 }, { x, y: { output: 65 } });
  expectWithin(y, x, () => smallest, { shape: [65], what: "y" });
  const kept = y.filter((value) => value !== 0).length;
  const { device } = await kernelSetup();
  console.info(`${device.adapterName}: ${kept} of ${x.filter((value) => value !== 0).length} subnormals kept`);
});
