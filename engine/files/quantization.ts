/**
 * How the tensors of a quantized checkpoint are to be read: `quantization_config` in config.json, or the file that the
 * quantizing tool wrote beside it.
 */

import { printable } from "../errors.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { ConfigReader } from "./config.ts";
import type { TensorInfo } from "./safetensors.ts";

/** What a checkpoint says of its quantized modules; which modules those are, their tensors tell. */
export interface Quantization {
  /** The file, and the field where it is one of config.json. */
  readonly source: ConfigReader;
  readonly method: "gptq" | "awq";
  readonly bits: 4 | 8;
  /** Columns that share a scale and a zero point; undefined: all of them (`group_size` -1). */
  readonly groupCols: number | undefined;
  /** GPTQ: whether columns were quantized in an order of their own, so that `g_idx` says which group each is of. */
  readonly descAct: boolean;
  /** Whether the zero point is the middle of the range in all groups. */
  readonly sym: boolean;
  /**
   * Whether a module stores each zero point less one, as GPTQ v1 does; v2 and AWQ store it as it is. By the module's own
   * zeros where they tell, else by those of the others, else as the file says.
   */
  zerosLessOne(module: string): boolean;
  /** Whether modules may have their own bits and groups (`dynamic` of GPTQModel), which their shapes tell. */
  readonly varies: boolean;
  readonly notes: readonly string[];
}

const advice = ["Load the original checkpoint with --quantize int4 instead."];

/** The fields in which two files may disagree. */
const compared = [
  "quant_method",
  "bits",
  "group_size",
  "desc_act",
  "sym",
  "checkpoint_format",
  "version",
  "zero_point",
];

/**
 * Reads how a checkpoint is quantized; undefined where it is not. config.json wins over quantize_config.json, as in
 * transformers and vLLM. Throws a PhiError "checkpoint" that names what is not supported.
 */
export async function openQuantization(
  checkpoint: Pick<Checkpoint, "config" | "quantizeConfig" | "tensors" | "read">,
): Promise<Quantization | undefined> {
  const { config, quantizeConfig: file, tensors } = checkpoint;
  const own = config.object("quantization_config");
  const source = own ?? file;
  if (source === undefined) {
    const name = [...tensors.keys()].find((key) => key.endsWith(".qweight"));
    if (name === undefined) return undefined;
    return config.fail("quantization_config", `an object, for there is a tensor "${printable(name)}"`, [
      "It may also stand in a file quantize_config.json, which a quantized checkpoint is published with.",
    ]);
  }
  const said = readMethod(source, own === undefined) === "gptq" ? readGptq(source) : readAwq(source);
  const notes: string[] = [];
  if (own !== undefined && file !== undefined) {
    const differing = compared.filter((key) => file.has(key) && own.has(key) && file.show(key) !== own.show(key));
    const fields = differing.map((key) => `"${key}" is ${own.show(key)}, not ${file.show(key)}`).join("; ");
    if (fields !== "") notes.push(`config.json is followed where ${file.file} says otherwise: ${fields}`);
  }
  const seen = await zerosSeen(said, checkpoint);
  const versions = new Set(seen.values());
  const others = versions.size === 1 ? seen.values().next().value : undefined;
  const differing = [...seen.values()].filter((lessOne) => lessOne !== said.isLessOne).length;
  if (differing > 0) {
    const version = said.isLessOne ? "v2" : "v1 (less one)";
    const of = differing === seen.size ? "its zero points" : `the zero points of ${differing} modules`;
    notes.push(`${source.file}: ${of} are those of GPTQ ${version}, whatever "checkpoint_format" says`);
  }
  const { isLessOne, ...rest } = said;
  return { ...rest, zerosLessOne: (module) => seen.get(module) ?? others ?? isLessOne, notes };
}

/** What a config says, before the zeros are looked at. */
type Said = Omit<Quantization, "notes" | "zerosLessOne"> & { readonly isLessOne: boolean };

/** Tensors of zeros that are read at the same time. */
const readAtOnce = 16;
/** Of each so much is looked at. */
const zerosBytes = 1 << 16;

/**
 * By module, whether its zeros are stored less one, where that can be seen: in symmetric quantization all are the middle
 * of the range. Some checkpoints of GPTQModel 5 say "gptq" and hold the zeros of v2 (vllm-project/vllm #38966). A rule of
 * `dynamic` may make single modules asymmetric: their zeros tell nothing.
 */
async function zerosSeen(
  { method, sym }: Said,
  { tensors, read }: Pick<Checkpoint, "tensors" | "read">,
): Promise<ReadonlyMap<string, boolean>> {
  const seen = new Map<string, boolean>();
  if (method !== "gptq" || !sym) return seen;
  const all = [...tensors.values()].filter(
    ({ name, dtype, sizeBytes }) => name.endsWith(".qzeros") && dtype === "I32" && sizeBytes > 0,
  );
  for (let first = 0; first < all.length; first += readAtOnce) {
    const batch = all.slice(first, first + readAtOnce);
    const start = (tensor: TensorInfo) => read(tensor, 0, Math.min(tensor.sizeBytes, zerosBytes));
    for (const [i, bytes] of (await Promise.all(batch.map(start))).entries()) {
      const module = (batch[i]?.name ?? "").replace(/\.qzeros$/, "");
      const only = bytes[0] ?? 0;
      if (!bytes.every((byte) => byte === only)) continue;
      // Of 8 bits, or twice of 4.
      if (only === 0x88 || only === 0x80) seen.set(module, false);
      if (only === 0x77 || only === 0x7f) seen.set(module, true);
    }
  }
  return seen;
}

function readMethod(source: ConfigReader, isOwnFile: boolean): "gptq" | "awq" {
  // The file's format is older than the field.
  const fallback = isOwnFile ? (source.has("w_bit") || source.has("zero_point") ? "awq" : "gptq") : undefined;
  if (!source.has("quant_method") && fallback !== undefined) return fallback;
  const method = source.has("quant_method") ? source.string("quant_method").toLowerCase() : undefined;
  if (method !== "gptq" && method !== "awq") return source.fail("quant_method", "gptq or awq", advice);
  return method;
}

function readGroup(source: ConfigReader, key: string): number | undefined {
  const group = source.integer(key, { min: -1, max: 2 ** 31 - 1, fallback: 128 });
  if (group !== -1 && (group <= 0 || group % 32 !== 0)) source.fail(key, "-1 or a multiple of 32", advice);
  return group === -1 ? undefined : group;
}

function readGptq(source: ConfigReader): Said {
  for (const key of ["zero_point", "version", "w_bit", "q_group_size"]) {
    if (source.has(key)) source.fail(key, "no such field beside GPTQ's: it is one of AWQ's");
  }
  const bits = source.integer("bits", { min: 1, max: 32 });
  if (bits !== 4 && bits !== 8) return source.fail("bits", "4 or 8", advice);
  const format = source.has("checkpoint_format") ? "checkpoint_format" : "format";
  const version = source.string(format, "gptq");
  if (version !== "gptq" && version !== "gptq_v2") source.fail(format, "gptq or gptq_v2", advice);
  if (source.boolean("is_marlin_format", false)) source.fail("is_marlin_format", "false", advice);
  if (source.string("pack_dtype", "int32") !== "int32") source.fail("pack_dtype", "int32", advice);
  return {
    source,
    method: "gptq",
    bits,
    groupCols: readGroup(source, "group_size"),
    descAct: source.boolean("desc_act", false),
    sym: source.boolean("sym", true),
    isLessOne: version === "gptq",
    varies: source.has("dynamic") && (source.object("dynamic")?.keys().length ?? 0) > 0,
  };
}

function readAwq(source: ConfigReader): Said {
  const bitsKey = source.has("w_bit") ? "w_bit" : "bits";
  const bits = source.integer(bitsKey, { min: 1, max: 32 });
  if (bits !== 4) return source.fail(bitsKey, "4", advice);
  for (const key of ["version", "checkpoint_format", "format"]) {
    if (source.string(key, "gemm").toLowerCase() !== "gemm") source.fail(key, "gemm", advice);
  }
  return {
    source,
    method: "awq",
    bits,
    groupCols: readGroup(source, source.has("q_group_size") ? "q_group_size" : "group_size"),
    descAct: false,
    sym: !source.boolean("zero_point", true),
    isLessOne: false,
    varies: source.has("dynamic") && (source.object("dynamic")?.keys().length ?? 0) > 0,
  };
}
