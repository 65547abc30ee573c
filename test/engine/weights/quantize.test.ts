/** Which matrices of a model are quantized, and as what. */
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { readConfig } from "../../../engine/files/config.ts";
import { declareWeights } from "../../../engine/models/architecture.ts";
import { readArchitecture } from "../../../engine/models/table.ts";
import { type QuantizeOptions, quantizeTargets } from "../../../engine/weights/quantize.ts";

const root = new URL("../../fixtures/models/", import.meta.url);

describe.each(readdirSync(root))("%s", (name) => {
  const architecture = readArchitecture(readConfig("config.json", readFileSync(new URL(`${name}/config.json`, root))));
  const matrices = [...declareWeights(architecture).values()].flatMap((ref) => (ref.kind === "matrix" ? ref : []));
  /** Matrices and what they become. */
  const packed = (options: QuantizeOptions) =>
    matrices.map((ref) => [ref.key, quantizeTargets(architecture, options).packing(ref)?.layout] as const);

  test("head and embedding apart from the linear layers; a router stays as it is", () => {
    const isVocabulary = /embed_tokens|lm_head/;
    const isRouter = /block_sparse_moe\.gate/;
    const linears = matrices.filter(({ key }) => !isVocabulary.test(key) && !isRouter.test(key));
    expect(linears.length).toBeGreaterThanOrEqual(4 * architecture.layers);
    expect(matrices.some(({ key }) => isVocabulary.test(key))).toBe(true);
    for (const [options, vocabulary, linear] of [
      [{ weights: "int4" }, "q8", "q4"],
      [{ weights: "int8", head: "none" }, undefined, "q8"],
      [{ weights: "none", head: "int4" }, "q4", undefined],
      [{ weights: "none" }, undefined, undefined],
    ] as const) {
      for (const [key, layout] of packed(options)) {
        expect(layout, key).toBe(isRouter.test(key) ? undefined : isVocabulary.test(key) ? vocabulary : linear);
      }
    }
  });
});

test("options that do not exist are refused by name", () => {
  const config = readConfig("config.json", readFileSync(new URL("phi-4/config.json", root)));
  const refusal = (options: object) => () => quantizeTargets(readArchitecture(config), { weights: "int4", ...options });
  expect(refusal({ weights: "int2" })).toThrow('--quantize: expected one of int4, int8, none, got "int2"');
  expect(refusal({ head: "f16" })).toThrow('--quantize-head: expected one of int4, int8, none, got "f16"');
  expect(refusal({ groupSize: 48 })).toThrow("--group-size: expected one of 32, 64, 128, got 48");
  expect(refusal({ scheme: "affine" })).toThrow(/^--quantize-scheme: expected one of asymmetric, symmetric, /);
});
