/** quantization on phi-tiny: rows that were measured, each against the base's own logits. */
import { expect, test } from "vitest";
import { benchQuantization, quantizationFigures, quantizationTable } from "../../bench/quantization.ts";
import { refuseImpossible } from "../../bench/report.ts";
import { loadModel, openFolder } from "../../engine/index.ts";
import { testAdapter } from "../gpu.ts";

test("the base is run once, and its record stands for it", async () => {
  const folder = await openFolder("models/phi-tiny");
  const opened: unknown[] = [];
  const rows = await benchQuantization({
    names: ["stored", "kv-int8"],
    async open(configuration) {
      opened.push(configuration.kv);
      return loadModel({ folder, adapter: await testAdapter(), context: 64, ...configuration });
    },
    ids: Array.from({ length: 25 }, (_, i) => 260 + i),
    window: 8,
  });
  expect(opened).toEqual(["f32", "f16", "int8"]);
  const [base, stored, int8] = rows.map(({ evaluation }) => evaluation);
  expect(base).toMatchObject({ tokens: 24, windows: 3, against: undefined });
  for (const row of [stored, int8]) {
    expect(row?.against).toMatchObject({ meanNll: base?.meanNll, perplexity: base?.perplexity });
  }
  expect(stored?.against?.meanKl).toBeLessThan(int8?.against?.meanKl ?? 0);
  for (const row of rows) refuseImpossible(quantizationFigures(row));
  expect(quantizationTable(rows).split("\n")).toEqual([
    expect.stringMatching(/^\| {2}\| weights, MiB \|/),
    expect.stringMatching(/^\| --- \|( ---: \|){6}$/),
    expect.stringMatching(/^\| base \| 2\.8 \| [\d.]+ \|( – \|){4}$/),
    expect.stringMatching(/^\| stored \| 2\.8 \| [\d.]+ \| [+−][\d.]+ % \| [\d.]+e-\d+ \| [\d.]+e-\d+ \| [\d.]+ % \|$/),
    expect.stringMatching(/^\| kv-int8 \| /),
    "",
  ]);
});
