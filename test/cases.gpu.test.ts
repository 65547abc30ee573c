/**
 * Checkpoints as users met them, with the logits that transformers 5.23 (or the dequantized weights in it) gives: `about`
 * in each names the report that it was rebuilt from.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { loadModel, openFolder } from "../engine/index.ts";
import { testAdapter } from "./gpu.ts";

const root = join(import.meta.dirname, "fixtures/cases");

interface Case {
  readonly about: string;
  readonly expect: { readonly logits?: readonly (readonly number[])[]; readonly tolerance: number };
}

/** What must be said of each. */
const notes: Readonly<Record<string, RegExp>> = {
  "gptq-gidx-all-zero": /^g_idx is all zeros beside several groups, .* in \d+ matrices/,
  "gptq-v2-zeros-sym": /its zero points are those of GPTQ v2/,
  "gptq-v2-zeros-sym-dynamic": /its zero points are those of GPTQ v2/,
  "index-names-tied-head": /^model\.safetensors\.index\.json names 1 tensors that no file holds: lm_head\.weight$/,
  "rope-both-keys": /"rope_parameters" is not followed: rope_scaling is/,
  "tied-lm-head-differs":
    /"tie_word_embeddings" is not followed: lm_head\.weight and model\.embed_tokens\.weight differ/,
};

const readCase = (name: string) => JSON.parse(readFileSync(join(root, name, "case.json"), "utf8")) as Case;

/** The others are run by the command line (test/cli/cases.test.ts). */
const names = readdirSync(root).filter((name) => readCase(name).expect.logits !== undefined);

test.each(names)("%s", async (name) => {
  const { about, expect: expected } = readCase(name);
  // A cache of float32, as `phi logits` has: the tolerance is for one.
  const folder = await openFolder(join(root, name));
  const model = await loadModel({ folder, adapter: await testAdapter(), kv: "f32" });
  try {
    expect(
      model.notes.some((note) => notes[name]?.test(note)),
      model.notes.join("\n"),
    ).toBe(true);
    const rows: number[] = [];
    for await (const { values } of model.logits([3, 17, 42, 5, 63, 7, 11])) rows.push(...values);
    const theirs = (expected.logits ?? []).flat();
    expect(rows).toHaveLength(theirs.length);
    const worst = rows.reduce((most, value, i) => Math.max(most, Math.abs(value - (theirs[i] ?? Number.NaN))), 0);
    expect(worst, about).toBeLessThanOrEqual(expected.tolerance);
  } finally {
    model.dispose();
  }
});
