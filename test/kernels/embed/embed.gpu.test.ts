import { describe, expect, test } from "vitest";
import { embed } from "../../../kernels/embed/embed.ts";
import type { Kernel } from "../../../kernels/kernel.ts";
import type { Packing } from "../../../kernels/weights/weights.ts";
import { seededRandom } from "../../reference/compare.ts";
import * as reference from "../../reference/ops.ts";
import { broken, expectWithin, liveBuffers, packedWeight, runKernel, smallest, u, weightOperands } from "../harness.ts";

const vocab = 67;
/** The second range starts where no block of anything does. */
const ranges = [
  [0, 67],
  [0, 33],
  [33, 34],
] as const;
const seqs = [1, 3, 64, 65];

const cases: readonly { readonly packing: Packing; readonly cols: number }[] = [
  { packing: { layout: "f32" }, cols: 8 },
  { packing: { layout: "f32" }, cols: 65 },
  { packing: { layout: "f16" }, cols: 96 },
  { packing: { layout: "bf16" }, cols: 63 },
  { packing: { layout: "q4", group: 64 }, cols: 100 },
  { packing: { layout: "q8", group: 32 }, cols: 96 },
];

/** Ids that hold the first and the last of each range, and repeat. */
function someIds(seq: number): number[] {
  const random = seededRandom(seq);
  const edges = [66, 0, 32, 33, 66];
  return Array.from({ length: seq }, (_, i) => edges[i] ?? Math.floor(random() * vocab));
}

async function check(kernel: Kernel, packing: Packing, cols: number, weightMode: "mixed" | "denormals", scale = 1) {
  const weight = packedWeight(cols, packing, vocab, cols, weightMode);
  for (const seq of seqs) {
    const ids = someIds(seq);
    const rows = reference.embed(weight.values, ids, { hidden: cols }).map((value) => Math.fround(scale * value));
    for (const [first, count] of ranges) {
      const { x } = await runKernel(
        kernel,
        { seq },
        {
          ids: Uint32Array.from(ids),
          ...weightOperands({ weight, packing, cols }, { first, rows: count, rowsTotal: vocab }),
          x: { output: seq * cols },
        },
      );
      // Ids outside the range are another dispatch's.
      const isHere = ids.map((id) => id >= first && id < first + count);
      const expected = rows.map((value, i) => (isHere[Math.floor(i / cols)] ? value : Number.NaN));
      // Plain weights are not rounded, so all bits must come through; subnormal ones may be flushed. A quantized one is
      // rounded at the difference and the scale, and in our own values.
      const rounding = "group" in packing ? 3 * u : 0;
      const bound = (i: number) => (Math.abs(rows[i] ?? 0) < smallest ? smallest : rounding * Math.abs(rows[i] ?? 0));
      expectWithin(x, expected, bound, { shape: [seq, cols], what: `${kernel.name} rows ${first}+${count}` });
    }
  }
}

describe("embed", () => {
  test.each(cases)("$packing.layout, $cols columns", async ({ packing, cols }) => {
    await check(embed(packing.layout, cols, 1), packing, cols, "mixed");
    await check(embed(packing.layout, cols, 1), packing, cols, "denormals");
  });

  test("times a scale, rounded once", async () => {
    await check(embed("bf16", 63, 0.3), { layout: "bf16" }, 63, "mixed", Math.fround(0.3));
  });

  test("mistakes are found: the start of the range, the last column", async () => {
    const offset = await broken(embed("f32", 8, 1), "ids[token] - matrix.first", "ids[token]");
    await expect(check(offset, { layout: "f32" }, 8, "mixed")).rejects.toThrow(/elements differ/);
    const short = await broken(embed("f32", 8, 1), "column < matrix.cols", "column < matrix.cols - 1u");
    await expect(check(short, { layout: "f32" }, 8, "mixed")).rejects.toThrow(/elements differ/);
  });

  test("no buffer is left", async () => expect(await liveBuffers()).toBe(0));
});
