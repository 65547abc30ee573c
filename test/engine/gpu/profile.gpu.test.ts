/** Every dispatch of a profiled run is timed; where the adapter measures no time, that is said. */
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { loadModel, openFolder } from "../../../engine/index.ts";
import { testAdapter } from "../../gpu.ts";
import { failure } from "../../tempFolder.ts";

const path = fileURLToPath(new URL("../../fixtures/models/phi-2", import.meta.url));

test("dispatches of a prompt and of two steps, in order, with the output of a plain run", async () => {
  const [folder, adapter] = [await openFolder(path), await testAdapter()];
  const options = { folder, context: 64, device: { profile: true } };
  if (!adapter.features.has("timestamp-query")) {
    const error = await failure(loadModel({ ...options, adapter }), "machine");
    expect(error.message).toBe("--profile: expected an adapter with timestamp queries, got one without");
    return;
  }
  const generated = async (device: { readonly profile?: boolean }) => {
    const model = await loadModel({ ...options, adapter: await testAdapter(), device });
    const ids: number[] = [];
    for await (const { id } of model.generate([1, 2, 3], { maxTokens: 3, ignoreEos: true, stepsPerSubmit: 2 }))
      ids.push(id);
    const labels = model
      .explain()
      .split("\n\n")
      .map((plan) =>
        plan
          .split("\n")
          .slice(1)
          .map((line) => line.trim().split("  ", 1)[0]),
      );
    const dispatches = model.profile();
    model.dispose();
    return { ids, labels, dispatches };
  };
  const plain = await generated({});
  const { ids, labels, dispatches } = await generated(options.device);
  expect(plain.dispatches).toEqual([]);
  expect(ids).toEqual(plain.ids);
  const [prefill = [], decode = []] = labels;
  expect(dispatches.map(({ label }) => label)).toEqual([...prefill, ...decode, ...decode]);
  expect(dispatches.map(({ submit }) => submit)).toEqual([
    ...prefill.map(() => 0),
    ...decode.map(() => 1),
    ...decode.map(() => 1),
  ]);
  let before = 0;
  for (const { label, startNs, endNs, readBytes, flops } of dispatches) {
    expect(startNs, label).toBeGreaterThanOrEqual(before);
    expect(endNs, label).toBeGreaterThanOrEqual(startNs);
    before = endNs;
    expect(flops > 0, label).toBe(/ mat(mul|vec)</.test(label));
    expect(readBytes > 0, label).toBe(/ (mat(mul|vec)|attention|decodeAttention)</.test(label));
  }
  expect(before).toBeGreaterThan(0);
});
