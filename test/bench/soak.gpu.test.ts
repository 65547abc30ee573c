import { join } from "node:path";
import { expect, test } from "vitest";
import { benchSoak } from "../../bench/soak.ts";
import { openFolder } from "../../engine/index.ts";
import { testAdapter } from "../gpu.ts";
import { isShort } from "../short.ts";

test.skipIf(isShort)(
  "generations one after the other and all at once give the same tokens, and nothing stays on the GPU",
  async () => {
    const folder = await openFolder(join(import.meta.dirname, "../../models/phi-tiny"));
    const counts = { generations: 8, loads: 2, concurrent: 8, repeats: 4, repeatedTokens: 16 };
    const figures = await benchSoak({ folder, nextAdapter: testAdapter, ...counts });
    expect(figures.every(({ samples }) => samples.every(Number.isFinite))).toBe(true);
  },
);
