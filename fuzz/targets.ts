/**
 * What is fuzzed: each target makes an input from a seed and gives it to the code that reads such files. An input may be
 * refused by a typed error of the right form and kind; anything else that is thrown, and a result that contradicts its
 * input, is a finding.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describeCheckpoint } from "../engine/describe.ts";
import { PhiError } from "../engine/errors.ts";
import { openCheckpoint } from "../engine/files/checkpoint.ts";
import { parseJson } from "../engine/files/json.ts";
import { bitsPerElement, readSafetensorsHeader, safetensorsBytes } from "../engine/files/safetensors.ts";
import type { ByteSource, Folder } from "../engine/files/source.ts";
import { declareWeights } from "../engine/models/architecture.ts";
import { readArchitecture } from "../engine/models/table.ts";
import { checkWeights } from "../engine/weights/check.ts";
import { quantizeTargets } from "../engine/weights/quantize.ts";
import { loadTokenizer, type Tokenizer, TokenizerError } from "../tokenizer/index.ts";
import { mutateBytes, mutateJson, mutateText, mutateValue, type Random } from "./mutate.ts";

/** An input in the form that is kept for a finding: file names and their contents. */
export type FuzzInput = Readonly<Record<string, Uint8Array>>;

export interface FuzzTarget {
  readonly name: string;
  /** The input of a case. */
  input(random: Random): FuzzInput;
  /** Reads the input. Resolves to whether it was accepted; throws what was thrown, or what is wrong with the result. */
  run(input: FuzzInput): Promise<boolean>;
}

const root = join(import.meta.dirname, import.meta.dirname.includes("dist") ? "../.." : "..");
const fixtures = join(root, "test/fixtures");
const text = (bytes: Uint8Array | undefined) => new TextDecoder().decode(bytes);
const bytesOf = (value: string) => new TextEncoder().encode(value);

/** Folders below test/fixtures/`kind` that have the first of these files, each with them as they are. */
function seedsOf(kind: "models" | "tokenizers", files: readonly string[]): readonly FuzzInput[] {
  return readdirSync(join(fixtures, kind), { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && existsSync(join(fixtures, kind, entry.name, files[0] ?? "")))
    .map(({ name }) => {
      const folder = join(fixtures, kind, name);
      const present = readdirSync(folder).filter((file) => files.some((wanted) => file.endsWith(wanted)));
      return Object.fromEntries(present.map((file) => [file, new Uint8Array(readFileSync(join(folder, file)))]));
    });
}

function memorySource(name: string, bytes: Uint8Array): ByteSource {
  return {
    name,
    sizeBytes: bytes.length,
    version: "0",
    async read(offsetBytes, lengthBytes, into = new Uint8Array(lengthBytes)) {
      const end = offsetBytes + lengthBytes;
      if (end > bytes.length) throw new PhiError("io", `${name}: expected bytes up to ${end}, got ${bytes.length}`);
      into.set(bytes.subarray(offsetBytes, end));
      return into.subarray(0, lengthBytes);
    },
    assertUnchanged: async () => {},
    close: async () => {},
  };
}

function memoryFolder(input: FuzzInput): Folder {
  const files = new Map(Object.entries(input));
  return {
    name: "fuzz",
    list: async () => [...files.keys()].sort(),
    async open(file) {
      const bytes = files.get(file);
      return bytes && memorySource(file, bytes);
    },
  };
}

/** Throws unless the error is one that a user may see: typed, of one line, with at most two lines of advice. */
export function assertTyped(error: unknown): void {
  if (!(error instanceof PhiError) && !(error instanceof TokenizerError)) throw error;
  const lines = [error.message, ...error.advice];
  const isClean = lines.every((line) => !/[\p{Cc}\u202a-\u202e]/u.test(line) && line.length < 10_000);
  if (error.advice.length > 2 || !isClean) throw new Error(`an error of the wrong form: ${JSON.stringify(lines)}`);
  if (error instanceof PhiError && !["checkpoint", "usage", "io", "machine"].includes(error.kind)) throw error;
}

async function accepts(work: () => unknown): Promise<boolean> {
  try {
    await work();
    return true;
  } catch (error) {
    assertTyped(error);
    return false;
  }
}

function claim(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

const jsonSeeds = ['{"a":[1,2.5,-3e7,null,true,"x\\n\\u00e9"],"b":{"c":{}}}', '[[],{},"",0]', '"text"', "-12.5e-3"];

/** Whatever the strict parser accepts, `JSON.parse` must read too. */
const json: FuzzTarget = {
  name: "json",
  input(random) {
    const seed = random.pick(jsonSeeds);
    return { "x.json": random.chance(0.5) ? mutateBytes(bytesOf(seed), random) : bytesOf(mutateJson(seed, random)) };
  },
  run: async (input) => {
    const bytes = input["x.json"] ?? new Uint8Array();
    const accepted = await accepts(() => parseJson(bytes, { file: "x.json" }));
    if (accepted) JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
    return accepted;
  },
};

const smallTensors = safetensorsBytes(
  ["F32", "F16", "BF16", "U8", "I64"].map((dtype, i) => {
    const spec = { name: `model.layers.${i}.weight`, dtype: dtype as "F32", shape: [2, i + 1] };
    const length = (2 * (i + 1) * bitsPerElement(spec.dtype)) / 8;
    return { ...spec, data: Uint8Array.from({ length }, (_, k) => k) };
  }),
);

/** A header with its length before it, around the data of another file. */
function withHeader(file: Uint8Array, header: Uint8Array): Uint8Array {
  const old = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const data = file.subarray(8 + old);
  const out = new Uint8Array(8 + header.length + data.length);
  new DataView(out.buffer).setBigUint64(0, BigInt(header.length), true);
  out.set(header, 8);
  out.set(data, 8 + header.length);
  return out;
}

function headerText(file: Uint8Array): string {
  return text(file.subarray(8, 8 + Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true))));
}

/** Accepted tensors must cover the data exactly, each with the bytes of its shape. */
const safetensors: FuzzTarget = {
  name: "safetensors",
  input(random) {
    const header = headerText(smallTensors);
    const kind = random.below(4);
    if (kind === 0) return { "m.safetensors": mutateBytes(smallTensors, random) };
    const mutated =
      kind === 1
        ? mutateBytes(bytesOf(header), random)
        : bytesOf(kind === 2 ? mutateJson(header, random) : JSON.stringify(mutateValue(JSON.parse(header), random)));
    return { "m.safetensors": withHeader(smallTensors, mutated) };
  },
  run: (input) =>
    accepts(async () => {
      const source = memorySource("m.safetensors", input["m.safetensors"] ?? new Uint8Array());
      const { tensors } = await readSafetensorsHeader(source);
      const sorted = [...tensors.values()].sort((a, b) => a.offsetBytes - b.offsetBytes || a.sizeBytes - b.sizeBytes);
      let end = sorted[0]?.offsetBytes ?? source.sizeBytes;
      for (const { name, dtype, shape, offsetBytes, sizeBytes } of sorted) {
        const bits = shape.reduce((product, n) => product * BigInt(n), BigInt(bitsPerElement(dtype)));
        claim(bits === BigInt(sizeBytes) * 8n, `"${name}" has ${sizeBytes} bytes, its shape takes ${bits} bits`);
        claim(offsetBytes === end, `"${name}" begins at ${offsetBytes}, not at ${end}`);
        end = offsetBytes + sizeBytes;
      }
      claim(end === source.sizeBytes, `the tensors end at ${end} of ${source.sizeBytes}`);
    }),
};

const checkpoints = seedsOf("models", ["config.json", ".safetensors", ".safetensors.index.json"]).map((files) =>
  Object.fromEntries(Object.entries(files).filter(([name]) => !name.startsWith("reference"))),
);

/** One file of a small checkpoint is changed; whatever is accepted must be described without contradiction. */
function checkpointTarget(name: string, changes: (file: string) => boolean): FuzzTarget {
  const seeds = checkpoints.filter((files) => Object.keys(files).some(changes));
  return {
    name,
    input(random) {
      const files = { ...random.pick(seeds) };
      const file = random.pick(Object.keys(files).filter(changes));
      const seed = text(files[file]);
      const mutated = random.chance(0.4)
        ? mutateJson(seed, random)
        : JSON.stringify(mutateValue(JSON.parse(seed), random));
      return { ...files, [file]: random.chance(0.1) ? mutateBytes(bytesOf(seed), random) : bytesOf(mutated) };
    },
    run: (input) =>
      accepts(async () => {
        const { model, problem } = await describeCheckpoint(memoryFolder(input));
        if (model === undefined) throw problem ?? new Error("neither a model nor a problem");
        const needs = model.needs();
        const parts = Object.values(model.parametersByPart).reduce((sum, n) => sum + n, 0);
        claim(parts === model.parameters, `${parts} parameters in parts, ${model.parameters} in all`);
        claim(Number.isSafeInteger(needs.totalBytes) && needs.totalBytes > 0, `${needs.totalBytes} bytes on the GPU`);
      }),
  };
}

const quantized = checkpoints.filter((files) => text(files["config.json"]).includes('"quantization_config"'));

/** A quantized checkpoint with another quantization_config, or with other bytes; every row of what is accepted is read. */
const quantization: FuzzTarget = {
  name: "quantization",
  input(random) {
    const files = random.pick(quantized);
    const config = JSON.parse(text(files["config.json"]));
    const kind = random.below(3);
    if (kind === 0) {
      const weights = (files["model.safetensors"] ?? new Uint8Array()).slice();
      const start = 8 + bytesOf(headerText(weights)).length;
      for (let changes = random.below(4); changes >= 0; changes--) {
        weights[start + random.below(weights.length - start)] = random.below(256);
      }
      return { ...files, "model.safetensors": weights };
    }
    const mutated = mutateValue(config.quantization_config, random);
    if (kind === 1)
      return { ...files, "config.json": bytesOf(JSON.stringify({ ...config, quantization_config: mutated })) };
    const own = random.chance(0.5) ? config.quantization_config : null;
    const both = { "config.json": bytesOf(JSON.stringify({ ...config, quantization_config: own })) };
    return { ...files, ...both, "quantize_config.json": bytesOf(JSON.stringify(mutated)) };
  },
  run: (input) =>
    accepts(async () => {
      const checkpoint = await openCheckpoint(memoryFolder(input));
      const architecture = readArchitecture(checkpoint.config);
      const declared = declareWeights(architecture);
      const weights = await checkWeights(checkpoint, architecture, declared, quantizeTargets(architecture));
      for (const ref of declared.values()) {
        if (ref.kind !== "matrix") continue;
        for (const need of ref.tensors) {
          const rows = need.shape[0] ?? 0;
          let read = 0;
          for await (const piece of weights.source(need).rows(checkpoint.read, 0, rows, weights.delivered(ref))) {
            read += piece.rows;
          }
          claim(read === rows, `${need.name}: ${read} of ${rows} rows`);
        }
      }
    }),
};

/** The tokenizers of the fixtures with few tokens, so that a case takes milliseconds. */
const tokenizers = seedsOf("tokenizers", ["tokenizer.json", "tokenizer_config.json"]).map((files) => {
  const definition = JSON.parse(text(files["tokenizer.json"]));
  const { vocab, merges } = definition.model;
  const kept = merges
    .slice(0, 40)
    .map((merge: string | string[]) => (typeof merge === "string" ? merge.split(" ") : merge));
  const pieces = new Set(kept.flatMap(([left, right]: string[]) => [left, right, `${left}${right}`]));
  const added = new Set(definition.added_tokens.map((token: { content: string }) => token.content));
  definition.model.vocab = Object.fromEntries(
    Object.entries(vocab).filter(
      ([piece]) => [...piece].length === 1 || pieces.has(piece) || added.has(piece) || /^<0x..>$/.test(piece),
    ),
  );
  definition.model.merges = merges
    .slice(0, 40)
    .filter((_: unknown, i: number) => kept[i].every((p: string) => pieces.has(p)));
  return { files, definition };
});

const sample = "Hello  world,\n\tit's 1234 <|user|>x</s> é 日本 👩‍👩‍👧 \ud83d";

/** Text goes through the tokenizer: the stream and the whole must agree, and nothing but typed errors come. */
function useTokenizer(tokenizer: Tokenizer, prompt: string): void {
  const ids = tokenizer.encode(prompt);
  claim(
    ids.every((id) => Number.isInteger(id) && id >= 0 && id < tokenizer.vocabularySize),
    `an id outside of the vocabulary: ${ids}`,
  );
  const stream = tokenizer.stream();
  const streamed = ids.map((id) => stream.push(id)).join("") + stream.flush();
  claim(streamed === tokenizer.decode(ids), "the streamed text is not the decoded text");
}

const tokenizerJson: FuzzTarget = {
  name: "tokenizer",
  input(random) {
    const { definition } = random.pick(tokenizers);
    const mutated = random.chance(0.3)
      ? mutateJson(JSON.stringify(definition), random)
      : JSON.stringify(mutateValue(definition, random));
    return { "tokenizer.json": bytesOf(mutated) };
  },
  run: (input) =>
    accepts(() => {
      const bytes = input["tokenizer.json"] ?? new Uint8Array();
      useTokenizer(loadTokenizer({ folderName: "fuzz", tokenizerJson: bytes }), sample);
    }),
};

const templates: readonly string[] = [
  "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
  "{%- if messages[0].role == 'system' -%}{% set sys = messages[0].content | trim %}{% set messages = messages[1:] %}{%- endif -%}{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role | upper }}] {{ m.content }}{{ eos_token }}{% endfor %}",
  "{% macro show(m, n=2) %}{{ m.content * n }}{{ m | tojson }}{% endmacro %}{% set ns = namespace(i=0) %}{% for m in messages %}{% set ns.i = ns.i + 1 %}{{ show(m) }}{{ ns.i }}{% for k, v in m.items() %}{{ k ~ '=' ~ v }}{% endfor %}{% endfor %}{{ range(10) | join(',') }}{{ messages | length }}{{ 'x'.split(',') }}",
];
const snippets: readonly string[] = [
  ...["range(10**9)", "messages.constructor", "x.__proto__", "loop.index", "namespace(a=1)", "[1,2][5]", "{}['a']"],
  ...[
    "{% for i in range(99999) %}",
    "{% endfor %}",
    "{% if true %}",
    "{% endif %}",
    "{{ 'x' * 1000000 }}",
    "| join('y')",
  ],
  ...[
    "{% set x = x + x %}",
    "{% macro f() %}{{ f() }}{% endmacro %}",
    "{{ f() }}",
    "| map(attribute='role')",
    "| indent(9)",
  ],
  ...[
    "{#",
    "#}",
    "{%-",
    "-%}",
    "(((((",
    ")))))",
    "not not",
    "is defined",
    "~",
    "//",
    "**",
    "in messages",
    ":",
    "[::-1]",
  ],
];

const chatTemplate: FuzzTarget = {
  name: "template",
  input(random) {
    let template = random.pick(templates);
    for (let edits = 1 + random.below(3); edits > 0; edits--) {
      const at = random.below(template.length + 1);
      template = random.chance(0.6)
        ? template.slice(0, at) +
          random.pick(snippets) +
          template.slice(random.chance(0.5) ? at : at + random.below(20))
        : mutateText(template, random);
    }
    const content = mutateText("Hi <|end|> {{ 1 }}", random);
    const config = { bos_token: "<s>", eos_token: "</s>", chat_template: template };
    return { "tokenizer_config.json": bytesOf(JSON.stringify(config)), "message.txt": bytesOf(content) };
  },
  run: (input) =>
    accepts(() => {
      const seed = tokenizers.find(({ files }) => files["tokenizer_config.json"] !== undefined) ?? tokenizers[0];
      const tokenizer = loadTokenizer({
        folderName: "fuzz",
        tokenizerJson: bytesOf(JSON.stringify(seed?.definition)),
        tokenizerConfigJson: input["tokenizer_config.json"] ?? new Uint8Array(),
      });
      const content = text(input["message.txt"]);
      tokenizer.encodeChat([
        { role: "system", content: "Be brief." },
        { role: "user", content },
      ]);
    }),
};

const loaded = seedsOf("tokenizers", ["tokenizer.json"]).map((files) =>
  loadTokenizer({ folderName: "fuzz", tokenizerJson: files["tokenizer.json"] ?? new Uint8Array() }),
);

/** Any text must be encoded by every tokenizer, and any ids decoded. */
const prompt: FuzzTarget = {
  name: "prompt",
  input: (random) => ({ "prompt.txt": bytesOf(mutateText(mutateText(sample, random), random)) }),
  run: (input) =>
    accepts(() => {
      const content = text(input["prompt.txt"]);
      for (const tokenizer of loaded) {
        useTokenizer(tokenizer, content);
        tokenizer.decode([...content].map((c) => (c.codePointAt(0) ?? 0) * 7));
      }
    }),
};

export const targets: readonly FuzzTarget[] = [
  json,
  safetensors,
  checkpointTarget("config", (file) => file === "config.json"),
  checkpointTarget("index", (file) => file.endsWith(".index.json")),
  quantization,
  tokenizerJson,
  chatTemplate,
  prompt,
];
