/**
 * How the tensors of a quantized checkpoint are to be read: `quantization_config` in config.json, or the file that the
 * quantizing tool wrote beside it.
 */

import { printable } from "../errors.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { ConfigReader } from "./config.ts";

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
  /** GPTQ v1 stores each zero point less one; v2 and AWQ store it as it is. */
  readonly zerosLessOne: boolean;
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
  const zerosLessOne = (await zerosSeen(said, checkpoint)) ?? said.zerosLessOne;
  if (zerosLessOne !== said.zerosLessOne) {
    const version = zerosLessOne ? "v1 (less one)" : "v2";
    notes.push(`${source.file}: its zero points are those of GPTQ ${version}, whatever "checkpoint_format" says`);
  }
  return { ...said, zerosLessOne, notes };
}

/**
 * Whether zeros are stored less one, where that can be seen: in symmetric quantization all are the middle of the range.
 * Some checkpoints of GPTQModel 5 say "gptq" and hold the zeros of v2 (vllm-project/vllm #38966).
 */
async function zerosSeen(
  { method, sym, bits, varies }: Omit<Quantization, "notes">,
  { tensors, read }: Pick<Checkpoint, "tensors" | "read">,
): Promise<boolean | undefined> {
  const zeros = [...tensors.values()].find(({ name, dtype }) => name.endsWith(".qzeros") && dtype === "I32");
  if (zeros === undefined || zeros.sizeBytes === 0 || method !== "gptq" || !sym || varies) return undefined;
  const bytes = await read(zeros, 0, Math.min(zeros.sizeBytes, 1 << 16));
  const middle = bits === 4 ? 0x88 : 0x80; // as bytes, of one 8-bit zero or two of 4 bits
  const lessOne = bits === 4 ? 0x77 : 0x7f;
  return bytes.every((byte) => byte === middle) ? false : bytes.every((byte) => byte === lessOne) ? true : undefined;
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

function readGptq(source: ConfigReader): Omit<Quantization, "notes"> {
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
    zerosLessOne: version === "gptq",
    varies: source.has("dynamic") && (source.object("dynamic")?.keys().length ?? 0) > 0,
  };
}

function readAwq(source: ConfigReader): Omit<Quantization, "notes"> {
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
    zerosLessOne: false,
    varies: source.has("dynamic") && (source.object("dynamic")?.keys().length ?? 0) > 0,
  };
}
