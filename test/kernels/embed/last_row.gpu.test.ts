import { expect, test } from "vitest";
import { lastRow } from "../../../kernels/embed/last_row.ts";
import { randomValues } from "../../reference/compare.ts";
import { liveBuffers, runKernel } from "../harness.ts";

test.each([
  [1, 1],
  [65, 2],
  [65, 130],
  [2560, 3],
])("lastRow: %i columns, %i rows", async (cols, seq) => {
  const x = randomValues(cols + seq, seq * cols, "mixed");
  const { y } = await runKernel(lastRow(cols), { seq, past: 9 }, { x, y: { output: cols } });
  expect([...y]).toEqual([...x.subarray((seq - 1) * cols)]);
  expect(await liveBuffers()).toBe(0);
});
