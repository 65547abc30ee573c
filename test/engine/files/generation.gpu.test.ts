/** Greedy texts of models/phi-tiny under generation_config.json, as transformers 5.23 writes them (transformers_variants.py). */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { readConfig } from "../../../engine/files/config.ts";
import { readGenerationDefaults } from "../../../engine/files/generation.ts";
import { loadModel, openFolder } from "../../../engine/index.ts";
import { samplingUnder } from "../../../library/text.ts";
import { testAdapter } from "../../gpu.ts";

interface Texts {
  readonly textPrompt: readonly number[];
  readonly texts: readonly (readonly [changes: Readonly<Record<string, unknown>>, ids: readonly number[]])[];
}

const file = new URL("../../fixtures/transformers_variants.json", import.meta.url);
const { textPrompt, texts } = JSON.parse(readFileSync(file, "utf8")) as Texts;
const reader = (fields: object) =>
  readConfig("generation_config.json", new TextEncoder().encode(JSON.stringify(fields)));

test(`${texts.length} texts`, { timeout: 240_000 }, async () => {
  const folder = await openFolder(join(import.meta.dirname, "../../../models/phi-tiny"));
  const model = await loadModel({ folder, adapter: await testAdapter(), kv: "f32", context: 64 });
  try {
    for (const [changes, expected] of texts) {
      const defaults = readGenerationDefaults(reader({}), reader(changes), model.vocabularySize);
      const ids: number[] = [];
      const options = { maxTokens: 16, sampling: samplingUnder(defaults, {}), stopIds: defaults.eosIds };
      for await (const { id } of model.generate(textPrompt, options)) ids.push(id);
      expect(ids, JSON.stringify(changes)).toEqual(expected);
    }
  } finally {
    model.dispose();
  }
});
