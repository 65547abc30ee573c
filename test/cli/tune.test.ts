/** `phi tune`: what it keeps, who uses it, and that nothing in its file can do harm. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { forgetTuned, tunedStore } from "../../cli/remembered.ts";
import { tuneText } from "../../cli/tune.ts";
import { tempFolder } from "../tempFolder.ts";
import { phi, shaderCache } from "./process.ts";

const adapter = (device: string) =>
  ({ info: { vendor: "v", architecture: "a", device, description: "1.0" } }) as GPUAdapter;
const size = { lanes: 1, groups: 16, subgroup: 8 };
const tunedFiles = (folder: string) => readdirSync(folder).filter((name) => name.startsWith("tuned-"));

test("a whole call says whether it takes less or more", () => {
  const call = { tokens: 1, defaultMs: 20 };
  const text = tuneText({
    ...{ adapterName: "an adapter", notes: [], kernels: [], sizes: {}, keys: [], seconds: 1 },
    whole: [
      { ...call, plan: "prefill", chosenMs: 15 },
      { ...call, plan: "decode", chosenMs: 21 },
    ],
  });
  expect(text).toMatch(/prefill of 1 tokens: 20\.0 ms, then 15\.0 ms, 25 % less/);
  expect(text).toMatch(/decode of 1 tokens: 20\.0 ms, then 21\.0 ms, 5 % more/);
});

describe("the store", () => {
  test("keeps sizes by adapter and features, and forgets them", () => {
    const folder = join(tempFolder(), "cache");
    const one = tunedStore(adapter("one"), "all", folder);
    expect(one.read()).toBeUndefined();
    one.write({ matvec: { "m 1x1": size } }, ["m 1x1"]);
    expect(tunedStore(adapter("one"), "all", folder).read()).toEqual({ matvec: { "m 1x1": size } });
    expect(tunedStore(adapter("one"), "none", folder).read()).toBeUndefined();
    expect(tunedStore(adapter("two"), "all", folder).read()).toBeUndefined();
    expect(forgetTuned(folder)).toBe(1);
    expect(one.read()).toBeUndefined();
    expect(forgetTuned(join(folder, "absent"))).toBe(0);
  });

  test("a later tuning replaces its own keys, the defaults among them, and no others", () => {
    const store = tunedStore(adapter("one"), "all", tempFolder());
    store.write({ matvec: { a: size, b: size }, normLanes: { n: 16 } }, ["a", "b", "n"]);
    store.write({ matvec: { c: size }, argmaxLanes: { x: 64 } }, ["a", "c", "n", "x"]);
    expect(store.read()).toEqual({ matvec: { b: size, c: size }, normLanes: {}, argmaxLanes: { x: 64 } });
  });

  test.each(["", "[1, {", "null", "[[1]]", '{"matvec": [1, 2]}', '"text"', '{"matvec": null}'])(
    "what is there and makes no sense (%j) is written over",
    (text) => {
      const store = tunedStore(adapter("one"), "all", tempFolder());
      writeFileSync(store.file, text);
      expect(() => store.read()).not.toThrow();
      store.write({ normLanes: { n: 16 } }, ["n"]);
      expect(store.read()).toMatchObject({ normLanes: { n: 16 } });
    },
  );

  test("what cannot be written throws and leaves nothing beside it", () => {
    const folder = tempFolder();
    const store = tunedStore(adapter("one"), "all", folder);
    mkdirSync(store.file); // a folder in its place cannot be renamed over
    expect(() => store.write({ normLanes: { n: 16 } }, ["n"])).toThrow();
    expect(readdirSync(folder)).toHaveLength(1);
  });
});

describe("the command", () => {
  test.each([
    [["--seconds", "0"], "--seconds: expected a whole number from 1 to 86400"],
    [["--seconds", "many"], "--seconds: expected a whole number"],
    [["--kv", "f8"], "--kv: expected f16 or f32 or int8"],
    [["--adapter", "null"], "--adapter: expected one that computes, got null"],
    [["--context", "0"], "--context: expected a whole number"],
    [["surplus"], "too many arguments"],
  ])("%j is refused", async (args, message) => {
    const { code, stdout, stderr } = await phi(["tune", ...args]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(message);
  });

  const prompt = ["-n", "4", "--temperature", "0", "--stats", "Once upon a time"];

  test("measures, keeps, and is used until it is cleared; a file that makes no sense serves the defaults", async () => {
    const cache = tempFolder();
    const env = { ...shaderCache, XDG_CACHE_HOME: cache };
    const folder = join(cache, "phi-webgpu");
    const { code, stdout, stderr } = await phi(["tune", "--only", "argmax", "--json"], { env });
    expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringContaining("is used from now on") });
    const { kernels, file, sizes } = JSON.parse(stdout);
    expect(kernels.map(({ kernel }: { kernel: string }) => kernel)).toEqual(["argmax"]);
    expect(JSON.parse(readFileSync(file, "utf8"))).toEqual(sizes);
    expect(tunedFiles(folder)).toHaveLength(1);

    writeFileSync(file, JSON.stringify({ argmaxLanes: { "argmax 1024": 64 } }));
    const tuned = await phi(prompt, { env });
    expect(tuned.stderr).toContain("sizes of phi tune for argmax");
    const doctor = await phi(["doctor", "--json"], { env });
    expect(JSON.parse(doctor.stdout)).toMatchObject({ tuned: ["argmax"], tuning: "sizes of phi tune for argmax" });

    writeFileSync(file, '{"argmaxLanes": {"argmax 1024": 6');
    const spoilt = await phi(prompt, { env });
    expect([tuned.code, spoilt.code, spoilt.stdout]).toEqual([0, 0, tuned.stdout]);
    expect(spoilt.stderr).toContain("default sizes");
    expect((await phi(["tune", "--clear"], { env })).code).toBe(0);
    expect(tunedFiles(folder)).toEqual([]);
  }, 600_000); // many processes

  test("Ctrl-C while it measures: exit code 130, and nothing is written", async () => {
    const cache = tempFolder();
    const { code, stdout, stderr } = await phi(["tune", "--only", "mat"], {
      env: { ...shaderCache, XDG_CACHE_HOME: cache },
      started: (child) => {
        let seen = "";
        child.stderr?.on("data", (text: string) => {
          seen += text;
          if (seen.includes("s left")) child.kill("SIGINT");
        });
      },
    });
    expect({ code, stdout }).toEqual({ code: 130, stdout: "" });
    expect(stderr).not.toContain("error");
    const folder = join(cache, "phi-webgpu");
    expect(existsSync(folder) ? tunedFiles(folder) : []).toEqual([]);
  }, 600_000);
});
