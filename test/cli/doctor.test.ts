/** `phi doctor`, what it remembers, and runs without optional features. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { checkedKernels } from "../../cli/remembered.ts";
import { usedFeatures } from "../../cli/run.ts";
import { failure, tempFolder } from "../tempFolder.ts";
import { phi, shaderCache } from "./process.ts";

test("every kernel of the bundled model is checked, remembered, and not checked again", async () => {
  const cache = tempFolder();
  const env = { ...shaderCache, XDG_CACHE_HOME: cache };
  const { code, stdout } = await phi(["doctor", "--json"], { env });
  expect(code).toBe(0);
  const report = JSON.parse(stdout);
  expect(report.versions).toMatch(/^phi \d/);
  expect(report.unchecked).toEqual([]);
  expect(report.checks.length).toBeGreaterThan(8);
  expect(report.checks.every(({ error }: { error: number }) => error <= 1)).toBe(true);
  const [file = ""] = readdirSync(join(cache, "phi-webgpu")).filter((name) => name.startsWith("checked-"));
  expect(JSON.parse(readFileSync(join(cache, "phi-webgpu", file), "utf8")).length).toBeGreaterThan(8);

  writeFileSync(join(cache, "phi-webgpu", file), "[1, {");
  const args = ["-n", "4", "--temperature", "0", "Once upon a time"];
  const plain = await phi(args, { env });
  const bare = await phi([...args, "--no-features"], { env });
  expect([plain.code, bare.code]).toEqual([0, 0]);
  expect(bare.stdout).toBe(plain.stdout);
});

test("int8 activations without the feature for it", async () => {
  const { code, stdout, stderr } = await phi(["--quantize", "int4", "--activations", "int8", "--no-features", "x"]);
  expect({ code, stdout }).toEqual({ code: 4, stdout: "" });
  expect(stderr).toMatch(
    /^error: --activations: expected f32, got int8: no WGSL feature packed_4x8_integer_dot_product/m,
  );
});

test("kernels are remembered by adapter; a file that makes no sense counts as empty", () => {
  const folder = tempFolder();
  const adapter = (device: string) =>
    ({ info: { vendor: "v", architecture: "a", device, description: "1.0" } }) as GPUAdapter;
  const first = checkedKernels(adapter("one"), folder);
  expect(first.has("k")).toBe(false);
  first.add(["k"]);
  expect(first.has("k")).toBe(true);
  expect(checkedKernels(adapter("one"), folder).has("k")).toBe(true);
  expect(checkedKernels(adapter("two"), folder).has("k")).toBe(false);
  for (const name of readdirSync(folder)) writeFileSync(join(folder, name), '{"k": true}');
  expect(checkedKernels(adapter("one"), folder).has("k")).toBe(false);
  // Where nothing can be written it is checked again next time.
  checkedKernels(adapter("one"), "/dev/null/x").add(["k"]);
});

test("PHI_FEATURES and --no-features", async () => {
  expect(usedFeatures({}, undefined)).toBe("all");
  expect(usedFeatures({}, "all")).toBe("all");
  expect(usedFeatures({}, "none")).toBe("none");
  expect(usedFeatures({ features: false }, undefined)).toBe("none");
  expect((await failure(() => usedFeatures({}, "some"), "usage")).message).toMatch(
    /^PHI_FEATURES: expected all or none/,
  );
});
