/** load at real size: one layer of phi-2 as it is published, of random weights, quantized while it loads. */
import { join } from "node:path";
import { expect, test } from "vitest";
import { benchLoad } from "../../bench/load.ts";
import { writeSynthetic } from "../../bench/synthetic.ts";
import { openFolder } from "../../engine/index.ts";
import { testAdapter } from "../gpu.ts";
import { tempFolder } from "../tempFolder.ts";

/** SwiftShader takes half a minute for what takes others seconds; there the kernels have their own tests. */
const isSlow = process.env.PHI_ADAPTER === "swiftshader";

test.skipIf(isSlow)("a layer of phi-2 becomes int4 with little more GPU memory than it ends with", async () => {
  const out = join(tempFolder(), "phi-2");
  const config = { vocab_size: 1024, bos_token_id: 0, eos_token_id: 0 };
  await writeSynthetic({ preset: "phi-2", layers: 1, config, out });
  const figures = await benchLoad({
    folder: await openFolder(out),
    nextAdapter: testAdapter,
    software: true,
    kv: "f16",
    context: 16,
    quantize: { weights: "int4" },
    repetitions: 1,
    newTokens: 3,
    startBytes: 0,
  });
  const sample = (name: string) => figures.find((figure) => figure.name === name)?.samples[0] ?? Number.NaN;
  // 5 bits of 16 a weight, scales and zeros included; 9 in head and embedding.
  expect(sample("weights on the GPU") / sample("weights in the files")).toBeLessThan(0.35);
  // Staging of eight pieces, one for each of two lanes that is quantized, the cache of 16 positions, activations of as
  // many tokens; the layer's weights take 150 as they are stored.
  expect(sample("GPU buffers at most") - sample("weights on the GPU")).toBeLessThan(96);
  expect(sample("3 tokens after the load")).toBeGreaterThan(0); // their logits differ, or benchLoad throws
});
