// Writes test/fixtures/models: trimmed copies of reference cases, so that a clone without ../shared still proves every
// architecture. Weights and configs are copied as they are; of the references, prompts longer than 33 tokens keep their
// greedy ids and lose their logits. The cases themselves were made with Hugging Face transformers on random weights
// (see ../shared/reference/NOTES.md).
//
//   node scripts/make-fixtures.mjs [../shared/reference/models]
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const source = process.argv[2] ?? "../shared/reference/models";
const target = fileURLToPath(new URL("../test/fixtures/models", import.meta.url));
const longestWithLogits = 33;
const cases = [
  "phi-1",
  "phi-1_5",
  "phi-2",
  "phi-2-qk-layernorm",
  "phi-3-medium-4k",
  "phi-3-mini-128k",
  "phi-3-mini-4k",
  "phi-3-small-128k",
  "phi-3.5-moe-wide-jitter",
  "phi-4",
  "phi-4-awq-gemm-g32",
  "phi-4-gptq-act-order-g32",
  "phi-4-mini",
];
const keptFields = ["case", "computed_by", "weights_dtype", "weight_seed", "greedy_note", "hidden"];

for (const name of cases) {
  const from = join(source, name);
  const to = join(target, name);
  rmSync(to, { recursive: true, force: true });
  mkdirSync(to, { recursive: true });
  for (const file of readdirSync(from)) {
    if (!file.startsWith("reference.")) copyFileSync(join(from, file), join(to, file));
  }

  const reference = JSON.parse(readFileSync(join(from, "reference.json"), "utf8"));
  const prompts = reference.prompts.map(({ logits, ...rest }) =>
    rest.length > longestWithLogits ? rest : { ...rest, logits },
  );
  const kept = Object.fromEntries(keptFields.map((field) => [field, reference[field]]));
  const trimmed = { ...kept, logits_kept_up_to_length: longestWithLogits, prompts };
  writeFileSync(join(to, "reference.json"), `${JSON.stringify(trimmed)}\n`);

  const wanted = new Set([...reference.hidden.tensors, ...prompts.flatMap((prompt) => prompt.logits ?? [])]);
  writeFileSync(join(to, "reference.safetensors"), subset(readFileSync(join(from, "reference.safetensors")), wanted));
}

/** The safetensors file `bytes` with only the tensors named in `wanted`. */
function subset(bytes, wanted) {
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = {};
  const parts = [];
  let offset = 0;
  for (const [name, entry] of Object.entries(JSON.parse(bytes.toString("utf8", 8, start)))) {
    if (!wanted.has(name)) continue;
    const [begin, end] = entry.data_offsets;
    header[name] = { ...entry, data_offsets: [offset, offset + end - begin] };
    parts.push(bytes.subarray(start + begin, start + end));
    offset += end - begin;
  }
  const json = JSON.stringify(header);
  const text = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, ...parts]);
}
