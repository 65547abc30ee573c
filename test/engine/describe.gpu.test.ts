/** What `describeCheckpoint` foretells against what a loaded model holds. */
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { describeCheckpoint, loadModel, openFolder } from "../../engine/index.ts";
import { testAdapter } from "../gpu.ts";

const root = join(import.meta.dirname, "../..");

test.each([
  ["models/phi-tiny", { kv: "f16" }],
  ["models/phi-tiny", { kv: "f32", context: 77 }],
  ["models/phi-tiny", { kv: "int8", context: 77 }],
  ["test/fixtures/models/phi-3-mini-4k", { kv: "f32" }],
  ["test/fixtures/models/phi-4-mini", { kv: "f16", context: 300 }],
  ["test/fixtures/models/phi-4-gptq-act-order-g32", { kv: "f32" }],
] as const)("%s %j: bytes on the GPU", async (path, options) => {
  const folder = await openFolder(join(root, path));
  const adapter = await testAdapter();
  const needs = (await describeCheckpoint(folder, options)).model?.needs(adapter);
  const model = await loadModel({ folder, adapter, ...options });
  onTestFinished(() => model.dispose());
  const { weightsBytes, kvBytes, arenaBytes } = model.memory();
  expect(needs?.kvBytes).toBe(kvBytes);
  expect(needs?.weightsBytes).toBe(weightsBytes);
  expect(needs?.activationBytes).toBe(arenaBytes);
});
