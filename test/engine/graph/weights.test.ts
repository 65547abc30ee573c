/** Where the rows of a matrix are stored: row by row, range by range, against a plain list of all of them. */
import { describe, expect, test } from "vitest";
import { type MatrixRef, rowRanges, storedRow, storedRows, Weights } from "../../../engine/graph/weights.ts";

const w = new Weights();
const cols = 8;
const cases: readonly (readonly [name: string, ref: MatrixRef, stored: readonly string[]])[] = [
  ["as it is stored", w.matrix("a", 5, cols), ["a0", "a1", "a2", "a3", "a4"]],
  ["two parts, one after the other", w.matrix("b", 3, cols, { parts: 2 }), ["b0", "b1", "b2", "b3", "b4", "b5"]],
  [
    "two parts that alternate",
    w.matrix("c", 3, cols, { parts: 2, alternating: true }),
    ["c0", "c2", "c4", "c1", "c3", "c5"],
  ],
  [
    "runs of a tensor (q, q, k, v of two groups)",
    w.matrix("d", 8, cols, { runs: [[0, 2], [4, 2], [2, 1], [6, 1], [3, 1], [7, 1]] }), // biome-ignore format: a list
    ["d0", "d1", "d4", "d5", "d2", "d6", "d3", "d7"],
  ],
  [
    "two parts of several tensors each",
    w.stacked("e", [["w1", 2], ["x1", 2], ["w3", 2], ["x3", 2]], cols, { parts: 2 }), // biome-ignore format: a list
    ["w10", "w11", "x10", "x11", "w30", "w31", "x30", "x31"],
  ],
];

describe.each(cases)("%s", (_name, ref, stored) => {
  test("every row by itself", () => {
    const rows = stored.map((_, i) => storedRow(ref, Math.floor(i / ref.rows), i % ref.rows));
    expect(rows.map(({ need, row }) => need.name + row)).toEqual(stored);
  });

  test.each([1, 2, 3, 100])("in ranges of %i rows", (rows) => {
    const found: string[] = new Array(stored.length).fill("");
    for (const range of rowRanges(ref, { layout: "f32" }, rows * ref.parts * cols * 4)) {
      for (const run of storedRows(ref, range)) {
        for (let i = 0; i < run.rows; i++) {
          const [part, row] =
            run.part === "alternating" ? [i % 2, run.partRow + (i >> 1)] : [run.part, run.partRow + i];
          expect(row).toBeGreaterThanOrEqual(range.firstRow);
          expect(row).toBeLessThan(range.firstRow + range.rows);
          found[part * ref.rows + row] += run.need.name + (run.first + i);
        }
      }
    }
    expect(found).toEqual(stored);
  });
});
