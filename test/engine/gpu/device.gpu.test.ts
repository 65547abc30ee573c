import { setImmediate as turn } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { kernelSetup } from "../../kernels/harness.ts";

test("the event loop rests while a software adapter computes, and only then", async ({ skip }) => {
  const { device } = await kernelSetup();
  if (!device.isSoftware) skip("this adapter is no software");
  const rests = vi.spyOn(Atomics, "wait");
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  for (let n = 0; n < 20; n++) await device.workDone();
  clearInterval(timer);
  expect(rests.mock.calls.length).toBeGreaterThan(0);
  expect(turns).toBeGreaterThan(0); // timers and files have their turn all the same
  await turn();
  await turn();
  const after = rests.mock.calls.length;
  for (let n = 0; n < 5; n++) await turn();
  expect(rests.mock.calls.length).toBe(after);
  rests.mockRestore();
});
