import { expect, test } from "vitest";
import { benchGeometry } from "../../bench/geometry.ts";
import { testAdapter } from "../gpu.ts";

// The smallest model, and few tokens in its vocabulary: npm run bench -- geometry runs all of them as they are.
// SwiftShader takes 15 times as long as lavapipe for it, and runs every kernel at small sizes elsewhere.
const isSlow = process.env.PHI_ADAPTER === "swiftshader";
test.skipIf(isSlow)("a layer of phi-1 at its real width runs a prompt and a token", async () => {
  const figures = await benchGeometry({
    preset: "phi-1",
    adapter: await testAdapter(),
    layers: 1,
    config: { vocab_size: 1000 },
    promptTokens: 2,
    signal: new AbortController().signal,
    onProgress() {},
  });
  const value = (name: string) => figures.find((figure) => figure.name === name)?.samples[0];
  // 12 hidden² + 11 hidden of the layer, norm, embedding and head with its bias, in float16.
  const parameters = 12 * 2048 ** 2 + 11 * 2048 + 2 * 2048 + 2 * 1000 * 2048 + 1000;
  expect(value("weights")).toBeCloseTo((2 * parameters) / 2 ** 20, 6);
  // Logits of random weights N(0, 0.02) after a norm: a sum of 2048 products has a deviation of 0.02 √2048.
  expect(value("standard deviation of the logits")).toBeGreaterThan(0.5);
  expect(value("standard deviation of the logits")).toBeLessThan(1.5);
});
