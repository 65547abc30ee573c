import { cpSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { tempFolder } from "../tempFolder.ts";
import { phi } from "./process.ts";

const root = join(import.meta.dirname, "../..");
const phiTiny = join(root, "models/phi-tiny");
const badFiles = join(root, "test/fixtures/badfiles/files");
const onNull = ["--adapter", "null"];

describe("phi info", () => {
  test("on the bundled model, as text and as JSON", async () => {
    const { code, stdout, stderr } = await phi(["info", ...onNull]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    for (const line of [
      /^ {2}parameters +1,451,520: embedding 131,072, attention /m,
      /^ {2}stored +2\.8 MiB: F16/m,
      /^ {2}tokenizer +1,024 tokens$/m,
    ]) {
      expect(stdout).toMatch(line);
    }
    const json = await phi(["info", "--json", "--context", "100", ...onNull]);
    expect(JSON.parse(json.stdout)).toMatchObject({
      model: { parameters: 1451520, context: 100, kv_bytes_per_1000_tokens: 3072000 },
      gpu: { kv_bytes: 307200, fits: null },
      chat_template: true,
      problem: null,
    });
  });

  test("what it takes when it is quantized while it loads", async () => {
    const { stdout } = await phi([
      "info",
      "--quantize",
      "int4",
      "--group-size",
      "64",
      "--activations",
      "int8",
      ...onNull,
    ]);
    expect(stdout).toMatch(/^ {2}activations +int8, as the input of linears on integer weights$/m);
    expect(stdout).toMatch(/^ {2}quantize +while it loads: linear layers int4, head and embedding int8; groups of 64, asymmetric$/m); // biome-ignore format: one line
    const options = ["--quantize-head", "int8", "--quantize-scheme", "symmetric", "--json", ...onNull];
    const { model, gpu } = JSON.parse((await phi(["info", ...options])).stdout);
    expect(model.quantize).toEqual({ weights: "none", head: "int8", group_size: 32, scheme: "symmetric" });
    expect(model.activations).toBe("f32");
    // Of head and embedding [1024, 128] a byte each and a word for 32, of the others two bytes, of vectors four.
    const [linear, vectors] = [6 * (4 * 128 * 128 + 2 * 128 * 512), 6 * (4 * 128 + 512 + 128) + 7 * 2 * 128 + 1024];
    expect(gpu.weights_bytes).toBe(2 * 1024 * (128 + (4 * 128) / 32) + 2 * linear + 4 * vectors);
  });

  test("on a quantized checkpoint", async () => {
    const model = join(root, "test/fixtures/models/phi-4-gptq-act-order-g32");
    const { code, stdout } = await phi(["info", "-m", model, ...onNull]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^ {2}quantized +GPTQ, 4 bits, groups of 32, asymmetric, act-order: 8 modules$/m);
  });

  test.each(["frame_empty", "other_git_lfs_pointer", "offs_truncated_1", "dup_name_escaped", "shape_bool"])(
    "exits 3 on %s and prints nothing",
    async (name) => {
      const folder = tempFolder({ "config.json": readFileSync(join(phiTiny, "config.json")) });
      cpSync(join(badFiles, `${name}.safetensors`), join(folder, "model.safetensors"));
      const { code, stdout, stderr } = await phi(["info", "-m", folder]);
      expect({ code, stdout }).toEqual({ code: 3, stdout: "" });
      expect(stderr).toMatch(/^error: model\.safetensors: /);
    },
  );

  test("readable headers that are no model: the facts, and why not", async () => {
    const folder = tempFolder({ "config.json": readFileSync(join(phiTiny, "config.json")) });
    cpSync(join(badFiles, "ok_every_dtype.safetensors"), join(folder, "model.safetensors"));
    const { code, stdout, stderr } = await phi(["info", "-m", folder, ...onNull]);
    expect(code).toBe(3);
    expect(stdout).toMatch(/^ {2}tensors +22 in model\.safetensors$/m);
    expect(stderr).toMatch(/^error: .*expected 89 tensors, got 0; missing: /);
  });

  test("a tokenizer that cannot be used is said, and is an error", async () => {
    const folder = tempFolder({ "tokenizer.json": '{"model":{"type":"Unigram"}}' });
    for (const name of ["config.json", "model.safetensors"]) cpSync(join(phiTiny, name), join(folder, name));
    const { code, stdout, stderr } = await phi(["info", "-m", folder, ...onNull]);
    expect(code).toBe(3);
    expect(stdout).toMatch(/^ {2}tokenizer +not usable: tokenizer\.json/m);
    expect(stderr).toMatch(/^error: tokenizer\.json/);
  });

  test("an adapter that is not there is only an error where it was named", async () => {
    const { code, stderr } = await phi(["info", "--adapter", "no such"]);
    expect(code).toBe(4);
    expect(stderr).toContain('adapter: expected one of this machine\'s, got "no such"');
  });
});

test("--allow-symlinks follows links out of the folder", async () => {
  const folder = tempFolder();
  const elsewhere = tempFolder();
  for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
    writeFileSync(join(elsewhere, name), readFileSync(join(phiTiny, name)));
    symlinkSync(join(elsewhere, name), join(folder, name));
  }
  const refused = await phi(["info", "-m", folder, ...onNull]);
  expect(refused.code).toBe(3);
  expect(refused.stderr).toContain("--allow-symlinks");
  const { code, stdout } = await phi(["info", "-m", folder, "--allow-symlinks", ...onNull]);
  expect(code).toBe(0);
  expect(stdout).toContain("PhiForCausalLM");
  const tokenized = await phi(["tokenize", "-m", folder, "--allow-symlinks"], { stdin: "Once" });
  expect(tokenized.code).toBe(0);
});
