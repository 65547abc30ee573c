/**
 * Synthetic checkpoints of real geometry with random weights: for memory and speed, where no real weights are at hand.
 * The files stream out of one random block, so that memory stays constant and the disk is the limit.
 *
 *   node dist/bench/synthetic.js phi-2 --out DIR [--layers N] [--seed N] [--dtype f16|bf16|f32] [--shard-bytes N]
 */

import { realpathSync } from "node:fs";
import { mkdir, open, readdir, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { writeAll } from "../cli/output.ts";
import { publishedModels } from "../cli/published.ts";
import { PhiError, printable } from "../engine/errors.ts";
import { safetensorsHeader } from "../engine/files/safetensors.ts";
import type { Folder } from "../engine/files/source.ts";
import { type Config, declaredFolder, declaredTensors } from "../engine/models/declared.ts";

/** What the weights are stored as. */
export type SyntheticDtype = "f16" | "bf16" | "f32";

/** bytes: of one element; torch: the name in config.json; stored: the name in a safetensors header. */
const dtypes = {
  f16: { bytes: 2, torch: "float16", stored: "F16" },
  bf16: { bytes: 2, torch: "bfloat16", stored: "BF16" },
  f32: { bytes: 4, torch: "float32", stored: "F32" },
} as const;

/** SmolLM2-135M in its Phi-3 form. */
const smollm2: Config = {
  architectures: ["Phi3ForCausalLM"],
  model_type: "phi3",
  hidden_act: "silu",
  rms_norm_eps: 1e-5,
  rope_scaling: null,
  attention_bias: false,
  vocab_size: 49152,
  hidden_size: 576,
  intermediate_size: 1536,
  num_hidden_layers: 30,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  max_position_embeddings: 8192,
  original_max_position_embeddings: 8192,
  rope_theta: 100000.0,
  sliding_window: null,
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: 2,
  torch_dtype: "float16",
};

/** The published models by their short names, and SmolLM2. */
export type SyntheticPreset = keyof typeof publishedModels | "smollm2";

/** Names of the presets. */
export const syntheticPresets = [...Object.keys(publishedModels), "smollm2"] as readonly SyntheticPreset[];

/** Where from and how a checkpoint is made. */
export interface SyntheticOptions {
  readonly preset: SyntheticPreset;
  /** Layers instead of the model's own number. */
  readonly layers?: number | undefined;
  /** Other values for keys of config.json, such as a smaller `vocab_size`. */
  readonly config?: Config | undefined;
  /** The published model's own where absent. */
  readonly dtype?: SyntheticDtype | undefined;
}

/** A tensor to come: weights and biases are N(0, 0.02), norm weights 1 + N(0, 0.02). */
export interface SyntheticTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly fill: "normal" | "norm";
}

/** The config.json and the tensors, in file order, of a synthetic checkpoint. */
export interface SyntheticPlan {
  readonly config: Config;
  readonly dtype: SyntheticDtype;
  readonly tensors: readonly SyntheticTensor[];
  /** Elements of all tensors together. */
  readonly parameters: number;
}

/** What would be written, from the geometry alone. */
export function planSynthetic(options: SyntheticOptions): SyntheticPlan {
  const preset: Config = options.preset === "smollm2" ? smollm2 : publishedModels[options.preset].config;
  const published = preset.torch_dtype === "float16" ? "f16" : "bf16";
  const dtype = options.dtype ?? published;
  const layers = options.layers === undefined ? {} : { num_hidden_layers: options.layers };
  const config = { ...preset, ...layers, ...options.config, torch_dtype: dtypes[dtype].torch };
  const tensors = declaredTensors(config).map(
    (tensor): SyntheticTensor => ({ ...tensor, fill: /norm\.weight$/.test(tensor.name) ? "norm" : "normal" }),
  );
  return { config, dtype, tensors, parameters: tensors.reduce((sum, { shape }) => sum + elements(shape), 0) };
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** What was written. */
export interface SyntheticResult {
  readonly folder: string;
  readonly parameters: number;
  /** Bytes of all tensors. */
  readonly tensorBytes: number;
  /** File names, in order. */
  readonly files: readonly string[];
}

/**
 * Writes config.json, generation_config.json and the weights of a synthetic checkpoint to `out`, a new or empty folder:
 * model.safetensors, or shards of at most `shardBytes` of tensors (4 GiB where absent; a larger tensor has a shard of
 * its own) with an index. The same options and seed give the same bytes. Throws PhiError for a folder in use (usage)
 * and a full disk (io).
 */
export async function writeSynthetic(
  options: SyntheticOptions & {
    readonly out: string;
    readonly seed?: number | undefined;
    readonly shardBytes?: number | undefined;
    readonly onFile?: ((file: string, bytes: number) => void) | undefined;
  },
): Promise<SyntheticResult> {
  const { out, seed = 1, shardBytes = 2 ** 32, onFile } = options;
  const plan = planSynthetic(options);
  const { bytes: elementBytes } = dtypes[plan.dtype];
  const tensorBytes = plan.parameters * elementBytes;
  await checkFolder(out, tensorBytes);

  await writeFile(join(out, "config.json"), jsonText(plan.config));
  await writeFile(join(out, "generation_config.json"), jsonText(generationConfig(plan.config)));

  const shards = splitShards(plan.tensors, shardBytes / elementBytes);
  const number = (n: number): string => String(n).padStart(5, "0");
  const files = shards.map((_, i) =>
    shards.length === 1 ? "model.safetensors" : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`,
  );
  const stream = randomStream(seed, plan.dtype);
  for (const [i, tensors] of shards.entries()) {
    const file = files[i] ?? "";
    const bytes = await writeShard(join(out, file), tensors, plan.dtype, stream);
    onFile?.(file, bytes);
  }
  if (shards.length > 1) {
    const weight_map = Object.fromEntries(shards.flatMap((tensors, i) => tensors.map(({ name }) => [name, files[i]])));
    const index = { metadata: { total_size: tensorBytes }, weight_map };
    await writeFile(join(out, "model.safetensors.index.json"), jsonText(index));
  }
  return { folder: out, parameters: plan.parameters, tensorBytes, files };
}

async function checkFolder(out: string, neededBytes: number): Promise<void> {
  await mkdir(out, { recursive: true });
  if ((await readdir(out)).length > 0) {
    throw new PhiError("usage", `--out ${printable(out)}: expected a new or empty folder, got one with files in it`);
  }
  const { bavail, bsize } = await statfs(out);
  if (bavail * bsize < neededBytes) {
    throw new PhiError("io", `${printable(out)}: expected ${neededBytes} free bytes, got ${bavail * bsize}`, [
      "Choose another disk, or fewer layers with --layers.",
    ]);
  }
}

function jsonText(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}

function generationConfig({ model_type, bos_token_id, eos_token_id, pad_token_id = eos_token_id }: Config): Config {
  return model_type === "phi" ? { bos_token_id, eos_token_id } : { bos_token_id, eos_token_id, pad_token_id };
}

/** The header of a safetensors file of these tensors, and how many bytes of data follow it. */
function headerOf(tensors: readonly SyntheticTensor[], dtype: SyntheticDtype) {
  const { bytes, stored } = dtypes[dtype];
  const specs = tensors.map(({ name, shape }) => ({ name, dtype: stored, shape }));
  return {
    bytes: safetensorsHeader(specs, new Map([["format", "pt"]])),
    dataBytes: tensors.reduce((sum, { shape }) => sum + elements(shape), 0) * bytes,
  };
}

/** The checkpoint in memory: real config and header, and zeros for all the weights, made as they are read. */
export function syntheticFolder(options: SyntheticOptions): Folder {
  const { config, dtype } = planSynthetic(options);
  const files = { config, generationConfig: generationConfig(config) };
  return declaredFolder(`synthetic ${options.preset}`, files, dtypes[dtype].stored);
}

/** Tensors in order, cut into shards of at most `limit` elements. */
function splitShards(tensors: readonly SyntheticTensor[], limit: number): SyntheticTensor[][] {
  const shards: SyntheticTensor[][] = [];
  let room = 0;
  for (const tensor of tensors) {
    const size = elements(tensor.shape);
    const last = shards.at(-1);
    if (last && size <= room) {
      last.push(tensor);
      room -= size;
    } else {
      shards.push([tensor]);
      room = limit - size;
    }
  }
  return shards;
}

/** Yields pieces of random bytes, `count` elements in all, from where the stream stands. */
type RandomStream = (fill: SyntheticTensor["fill"], count: number) => Iterable<Uint8Array>;

/** Writes one safetensors file and returns its size in bytes. */
async function writeShard(
  path: string,
  tensors: readonly SyntheticTensor[],
  dtype: SyntheticDtype,
  stream: RandomStream,
): Promise<number> {
  const header = headerOf(tensors, dtype);
  const file = await open(path, "wx");
  try {
    await writeAll(file, header.bytes);
    for (const { fill, shape } of tensors) {
      for (const piece of stream(fill, elements(shape))) await writeAll(file, piece);
    }
  } finally {
    await file.close();
  }
  return header.bytes.length + header.dataBytes;
}

/**
 * An endless stream out of one block. Its length is prime, so the rows of a matrix start at different places in it,
 * and every tensor jumps to a place of its own.
 */
function randomStream(seed: number, dtype: SyntheticDtype): RandomStream {
  const blockElements = 1048573; // the largest prime below 2^20
  const { bytes } = dtypes[dtype];
  const random = seededRandom(seed);
  const deviations = Float32Array.from({ length: blockElements }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    return 0.02 * radius * Math.cos(2 * Math.PI * random());
  });
  const blocks = {
    normal: encode(deviations, dtype),
    norm: encode(
      deviations.map((d) => 1 + d),
      dtype,
    ),
  };
  return function* (fill, count) {
    let position = Math.floor(random() * blockElements);
    for (let left = count; left > 0; ) {
      const piece = Math.min(left, blockElements - position);
      yield blocks[fill].subarray(position * bytes, (position + piece) * bytes);
      left -= piece;
      position = 0;
    }
  };
}

/** Uniform numbers in [0, 1): mulberry32, Tommy Ettinger's public-domain generator. */
function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The stored bytes of moderate numbers, rounded to nearest even; what is below the smallest f16 normal becomes zero. */
function encode(values: Float32Array<ArrayBuffer>, dtype: SyntheticDtype): Uint8Array {
  if (dtype === "f32") return new Uint8Array(values.buffer);
  const words = new Uint32Array(values.buffer);
  const halves = Uint16Array.from(words, (word) => {
    if (dtype === "bf16") return (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
    const size = word & 0x7fffffff;
    const sign = (word >>> 16) & 0x8000;
    // Exponents are biased by 127 and 15; 0x38800000 is 2^-14.
    return size < 0x38800000 ? sign : sign | ((size - 0x38000000 + 0xfff + ((size >>> 13) & 1)) >>> 13);
  });
  return new Uint8Array(halves.buffer);
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      out: { type: "string" },
      layers: { type: "string" },
      seed: { type: "string" },
      dtype: { type: "string" },
      "shard-bytes": { type: "string" },
    },
  });
  const preset = syntheticPresets.find((name) => name === positionals[0]);
  if (!preset || positionals.length > 1) {
    const names = syntheticPresets.join(", ");
    throw new PhiError("usage", `expected one of ${names}; got ${printable(positionals.join(" ")) || "nothing"}`);
  }
  if (!values.out) throw new PhiError("usage", "--out: expected a folder, got nothing");
  const dtype = (["f16", "bf16", "f32"] as const).find((name) => name === values.dtype);
  if (values.dtype !== undefined && !dtype) {
    throw new PhiError("usage", `--dtype: expected f16, bf16 or f32, got ${printable(values.dtype)}`);
  }
  const whole = (option: "layers" | "seed" | "shard-bytes", least: number): number | undefined => {
    const text = values[option];
    if (text === undefined) return undefined;
    if (!/^\d{1,15}$/.test(text) || Number(text) < least) {
      throw new PhiError("usage", `--${option}: expected a whole number from ${least} on, got ${printable(text)}`);
    }
    return Number(text);
  };

  const started = performance.now();
  const { folder, parameters, tensorBytes } = await writeSynthetic({
    preset,
    out: values.out,
    dtype,
    layers: whole("layers", 1),
    seed: whole("seed", 0),
    shardBytes: whole("shard-bytes", 1),
    onFile: (file, bytes) => console.error(`${file}: ${bytes} bytes`),
  });
  const seconds = (performance.now() - started) / 1000;
  const rate = (tensorBytes / 1e6 / seconds).toFixed(0);
  console.error(`${preset}: ${parameters} parameters, ${tensorBytes} bytes in ${seconds.toFixed(1)} s, ${rate} MB/s`);
  console.log(folder);
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main().catch((error: unknown) => {
    const badOption = error instanceof TypeError && String(Reflect.get(error, "code")).startsWith("ERR_PARSE_ARGS");
    if (!(error instanceof PhiError) && !badOption) throw error;
    console.error(`error: ${badOption ? error.message.split(". ")[0] : error.message}`);
    if (error instanceof PhiError) for (const line of error.advice) console.error(line);
    process.exitCode = error instanceof PhiError ? error.exitCode : 2;
  });
}
