import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { tempFolder } from "../tempFolder.ts";
import { phi } from "./process.ts";

const phiTiny = join(import.meta.dirname, "../../models/phi-tiny");

/** phi-tiny with its reference, one weight of which was changed: the last of a tensor, so that only its layer is wrong. */
function changed(tensor: string): string {
  const copy = tempFolder();
  for (const name of ["config.json", "reference.json", "reference.safetensors"])
    cpSync(join(phiTiny, name), join(copy, name));
  const bytes = readFileSync(join(phiTiny, "model.safetensors"));
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, start));
  bytes.writeUInt16LE(0x5000, start + header[tensor].data_offsets[1] - 2); // 32 as float16
  writeFileSync(join(copy, "model.safetensors"), bytes);
  return copy;
}

test("without arguments: the bundled model on this machine", async () => {
  const { code, stdout } = await phi(["verify"]);
  expect(code).toBe(0);
  const [head, ...rows] = stdout.trimEnd().split("\n");
  expect(head).toMatch(/^tensor +difference +tolerance +ok$/);
  expect(rows.map((row) => row.split(/ +/)[0])).toEqual([
    "hidden.embed",
    ...[0, 1, 2, 3, 4, 5].map((layer) => `hidden.layer.${layer}`),
    "hidden.final_norm",
    "logits.0",
    "logits.1",
    "logits.2",
  ]);
  for (const row of rows) expect(row).toMatch(/ +\d\.\d\de[+-]\d+ +5\.00e-4 +yes$/);
});

test("names the first layer that differs, and exits 1", async () => {
  const { code, stdout, stderr } = await phi(["verify", "-m", changed("model.layers.3.mlp.fc2.bias")]);
  expect(code).toBe(1);
  expect(stdout).toMatch(/^hidden\.layer\.2 .* yes$/m);
  expect(stdout).toMatch(/^hidden\.layer\.3 .* no$/m);
  expect(stderr).toContain("The first that differs: hidden.layer.3 by");
});

test("a GPU that computes nothing is found out", async () => {
  const { code, stderr } = await phi(["verify", "--adapter", "null"]);
  expect(code).toBe(1);
  expect(stderr).toContain("The first that differs: hidden.embed");
});

test("a model without a reference", async () => {
  const folder = tempFolder();
  for (const name of ["config.json", "model.safetensors"]) cpSync(join(phiTiny, name), join(folder, name));
  const { code, stdout, stderr } = await phi(["verify", "-m", folder]);
  expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  expect(stderr).toMatch(/^error: --reference: expected reference\.json in /);
});

test.each([
  ["[]", '"prompts": expected a list'],
  ['{"prompts":[{"ids":[]}]}', '"prompts"[0].ids: expected a list of token ids'],
  ['{"prompts":[{"ids":[1],"logits":"logits.9"}]}', 'tensor "logits.9": expected F32 [1, columns], got no such tensor'],
  ['{"prompts":[{"ids":[1,2],"logits":"logits.0"}]}', "expected F32 [2, columns], got F32 [1, 1024]"],
])("a bad reference.json: %s", async (text, message) => {
  const folder = tempFolder({ "reference.json": text });
  cpSync(join(phiTiny, "reference.safetensors"), join(folder, "reference.safetensors"));
  const path = join(folder, "reference.safetensors");
  const { code, stderr } = await phi(["verify", "--reference", path, "--adapter", "null"]);
  expect(code).toBe(3);
  expect(stderr).toContain(message);
});
