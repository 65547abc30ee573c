/**
 * The safetensors format: 8 bytes with the length N of the header (little-endian), N bytes of JSON, then the data, which
 * the tensors must cover without hole or overlap. https://github.com/huggingface/safetensors#format
 */

import { PhiError, printable } from "../errors.ts";
import { describe, exactInteger, isList, isObject, type Json, readMembers } from "./json.ts";
import type { ByteSource } from "./source.ts";

/** Bits an element takes, for every dtype of the format. Which of them a model can use is for the model to say. */
const bitsOf = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

export type DType = keyof typeof bitsOf;

/** Where a tensor lies. Nothing of its data has been read. */
export interface TensorInfo {
  /** As in the file, unescaped: any string. Pass it through `printable` before showing it. */
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly file: string;
  /** From the start of the file. Need not be aligned to anything. */
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

export interface SafetensorsHeader {
  readonly tensors: Map<string, TensorInfo>;
  readonly metadata: Map<string, string>;
}

/** A tensor to be written. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** The limit of the reference implementation. */
const maxHeaderBytes = 100_000_000;

/** Bits that one element of `dtype` takes (F4 and F6 are packed without padding). */
export function bitsPerElement(dtype: DType): number {
  return bitsOf[dtype];
}

/**
 * Reads and checks the header of a file: framing, strict JSON, fields, sizes, and that the tensors cover the data
 * exactly. The data is not read, so that a file of any size takes the time of its header.
 * Throws a PhiError "checkpoint" that names the file and the tensor.
 */
export async function readSafetensorsHeader(source: ByteSource): Promise<SafetensorsHeader> {
  const file = printable(source.name);
  const headerBytes = await headerLength(source, file);
  const dataStart = 8 + headerBytes;
  const dataBytes = source.sizeBytes - dataStart;
  const metadata = new Map<string, string>();
  const tensors = new Map<string, TensorInfo>();
  let hasMetadata = false;
  readMembers(
    await source.read(8, headerBytes),
    { file: source.name, offsetBytes: 8 },
    {
      has: (name) => (name === "__metadata__" ? hasMetadata : tensors.has(name)),
      set: (name, value) => {
        if (name === "__metadata__") {
          hasMetadata = true;
          readMetadata(file, value, metadata);
        } else tensors.set(name, readTensor(file, source.name, name, value, dataStart));
      },
    },
  );
  checkCover(file, [...tensors.values()], dataStart, dataBytes);
  return { tensors, metadata };
}

async function headerLength(source: ByteSource, file: string): Promise<number> {
  const size = source.sizeBytes;
  const first = await source.read(0, Math.min(size, 512));
  function fail(expected: string, got: string, advice: readonly string[] = []): never {
    refuseForeign(file, first);
    throw new PhiError("checkpoint", `${file}: expected ${expected}, got ${got}`, advice);
  }
  if (size < 8) fail("at least 8 bytes with the length of the header", `a file of ${size} bytes`, [incomplete]);
  const length = new DataView(first.buffer, first.byteOffset).getBigUint64(0, true);
  const got = `a header length of ${length} in a file of ${size} bytes`;
  if (length > maxHeaderBytes) fail(`a header of at most ${maxHeaderBytes} bytes`, got);
  if (length === 0n) fail('a header that begins with "{"', got);
  if (length > size - 8) fail(`a header of at most ${size - 8} bytes`, got, [incomplete]);
  // Neither "{" nor a blank: the first bytes of another format may pass for a length.
  if (![0x7b, 0x20, 0x09, 0x0a, 0x0d].includes(first[8] ?? 0)) refuseForeign(file, first);
  return Number(length);
}

function refuseForeign(file: string, first: Uint8Array): void {
  const isJson = /^\s*\{\s*"/.test(latin1(first));
  const other = isJson ? { got: "JSON without its length in 8 bytes before it", advice: [] } : foreignFormat(first);
  if (other) throw new PhiError("checkpoint", `${file}: expected a safetensors file, got ${other.got}`, other.advice);
}

const incomplete = "The file is incomplete or not a safetensors file: download it again.";

/** What a file really is, judged by its first bytes, where it is something that people mistake for a checkpoint file. */
export function foreignFormat(first: Uint8Array): { got: string; advice: readonly string[] } | undefined {
  const text = latin1(first);
  const original = "Download the original checkpoint in safetensors format.";
  if (text.startsWith("version https://git-lfs")) {
    const size = /\nsize ([0-9]{1,18})\n/.exec(text)?.[1];
    const of = size === undefined ? "" : ` to a file of ${size} bytes`;
    return {
      got: `a Git LFS pointer${of}`,
      advice: ['Run "git lfs install" and "git lfs pull" in the folder to fetch the file itself.'],
    };
  }
  if (/^\s*<(?:!doctype|html|\?xml|head)/i.test(text)) {
    return { got: "an HTML or XML page", advice: ["A download saved the page in place of the file: fetch it again."] };
  }
  if (text.startsWith("GGUF")) return { got: "a GGUF file", advice: [`Only safetensors is read. ${original}`] };
  if (text.startsWith("PK\x03\x04")) {
    return { got: "a zip archive (a PyTorch file?)", advice: [`Only safetensors is read. ${original}`] };
  }
  return undefined;
}

function latin1(bytes: Uint8Array): string {
  return Array.from(bytes.subarray(0, 512), (byte) => String.fromCharCode(byte)).join("");
}

function readMetadata(file: string, value: Json, into: Map<string, string>): void {
  function fail(expected: string, got: string): never {
    throw new PhiError("checkpoint", `${file}: header field "__metadata__": expected ${expected}, got ${got}`);
  }
  if (!isObject(value)) fail("an object of strings", describe(value));
  for (const [key, text] of value) {
    if (typeof text !== "string") fail(`a string for "${printable(key)}"`, describe(text));
    into.set(key, text);
  }
}

function readTensor(file: string, source: string, name: string, value: Json, dataStart: number): TensorInfo {
  function fail(expected: string, got: string): never {
    throw new PhiError("checkpoint", `${file}: tensor "${printable(name)}": expected ${expected}, got ${got}`);
  }
  if (!isObject(value)) fail("an object with dtype, shape and data_offsets", describe(value));
  const dtype = value.get("dtype");
  if (typeof dtype !== "string" || !isDType(dtype)) fail("a dtype such as F32, F16 or BF16", describe(dtype));
  const shape = integers(value.get("shape"));
  if (!shape) fail("a shape of integers from 0 to 2^53 - 1", describe(value.get("shape")));
  const [begin, end, ...more] = integers(value.get("data_offsets")) ?? [];
  if (begin === undefined || end === undefined || more.length > 0) {
    fail("data_offsets of two integers from 0 to 2^53 - 1", describe(value.get("data_offsets")));
  }
  if (end < begin) fail("data_offsets in order", `[${begin}, ${end}]`);
  const sizeBytes = tensorBytes(dtype, shape);
  const text = `${dtype} ${shapeText(shape)}`;
  if (sizeBytes === undefined) fail("a size in whole bytes below 2^50", text);
  if (end - begin !== sizeBytes) {
    fail(`${sizeBytes} bytes for ${text}`, `${end - begin} bytes at data_offsets [${begin}, ${end}]`);
  }
  return { name, dtype, shape, file: source, offsetBytes: dataStart + begin, sizeBytes };
}

function isDType(name: string): name is DType {
  return Object.hasOwn(bitsOf, name);
}

function integers(value: Json | undefined): number[] | undefined {
  if (!isList(value)) return undefined;
  const result: number[] = [];
  for (const item of value) {
    const integer = exactInteger(item);
    if (integer === undefined || integer < 0) return undefined;
    result.push(integer);
  }
  return result;
}

/** A shape for a message; one of thousands of dimensions is cut. */
function shapeText(shape: readonly number[]): string {
  return shape.length > 16
    ? `[${shape.slice(0, 16).join(", ")}, … ${shape.length} dimensions]`
    : `[${shape.join(", ")}]`;
}

/** Bytes of a tensor, or undefined where they are not whole or the product leaves the exact integers of a double. */
function tensorBytes(dtype: DType, shape: readonly number[]): number | undefined {
  let bits: number = bitsOf[dtype];
  if (shape.includes(0)) return 0;
  for (const size of shape) {
    // Both factors are exact; a product that is not safe is seen before it can be rounded into something plausible.
    bits *= size;
    if (!Number.isSafeInteger(bits)) return undefined;
  }
  return bits % 8 === 0 ? bits / 8 : undefined;
}

function checkCover(file: string, tensors: TensorInfo[], dataStart: number, dataBytes: number): void {
  tensors.sort((a, b) => a.offsetBytes - b.offsetBytes || a.sizeBytes - b.sizeBytes);
  let covered = 0;
  let before: TensorInfo | undefined;
  for (const tensor of tensors) {
    const begin = tensor.offsetBytes - dataStart;
    if (begin !== covered) {
      const previous = before ? `the end of "${printable(before.name)}"` : "the start of the data";
      const fault = begin < covered ? "an overlap" : "a hole";
      throw new PhiError(
        "checkpoint",
        `${file}: tensor "${printable(tensor.name)}": expected to begin at byte ${covered}, ${previous}, got ${begin} (${fault})`,
      );
    }
    covered += tensor.sizeBytes;
    before = tensor;
  }
  if (covered === dataBytes) return;
  const last = before ? `tensor "${printable(before.name)}": ` : "";
  const got = `${dataBytes} bytes of data`;
  if (covered > dataBytes) {
    const missing = `the file is ${byteCount(covered - dataBytes)} short`;
    throw new PhiError("checkpoint", `${file}: ${last}expected data up to byte ${covered}, got ${got}: ${missing}`, [
      "The file was cut off, probably by an interrupted download: download it again.",
    ]);
  }
  const extra = `${byteCount(dataBytes - covered)} after it`;
  throw new PhiError("checkpoint", `${file}: ${last}expected the data to end at byte ${covered}, got ${got}: ${extra}`);
}

function byteCount(bytes: number): string {
  return bytes === 1 ? "1 byte" : `${bytes} bytes`;
}

/**
 * The length and header of a file with these tensors, whose data follows in the order of the list: for a file that is
 * written in pieces. The header is padded so that the data begins at a multiple of 8.
 */
export function safetensorsHeader(tensors: readonly TensorSpec[], metadata?: ReadonlyMap<string, string>): Uint8Array {
  const header = new Map<string, unknown>();
  if (metadata && metadata.size > 0) header.set("__metadata__", Object.fromEntries(metadata));
  let offset = 0;
  for (const { name, dtype, shape } of tensors) {
    const size = tensorBytes(dtype, shape);
    if (size === undefined)
      throw new PhiError("internal", `tensor "${printable(name)}": ${dtype} ${shape} has no size`);
    if (header.has(name) || name === "__metadata__" || /\p{Surrogate}/u.test(name)) {
      throw new PhiError("internal", `tensor "${printable(name)}": this name cannot be written`);
    }
    header.set(name, { dtype, shape, data_offsets: [offset, offset + size] });
    offset += size;
  }
  // Not an object: it would reorder names such as "0" and swallow "__proto__".
  const members = [...header].map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`);
  const text = new TextEncoder().encode(`{${members.join(",")}}`);
  const bytes = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(bytes.length - 8), true);
  bytes.set(text, 8);
  return bytes;
}

/**
 * A whole safetensors file. Each tensor's `data` holds its elements little-endian, row-major. Data is laid out widest
 * dtype first, so that every tensor is aligned to its elements.
 */
export function safetensorsBytes(
  tensors: readonly (TensorSpec & { readonly data: Uint8Array })[],
  metadata?: ReadonlyMap<string, string>,
): Uint8Array {
  const sorted = tensors.toSorted((a, b) => bitsOf[b.dtype] - bitsOf[a.dtype]);
  const header = safetensorsHeader(sorted, metadata);
  const result = new Uint8Array(sorted.reduce((sum, { data }) => sum + data.length, header.length));
  result.set(header);
  let offset = header.length;
  for (const { name, dtype, shape, data } of sorted) {
    if (data.length !== tensorBytes(dtype, shape)) {
      throw new PhiError("internal", `tensor "${printable(name)}": ${dtype} ${shape} in ${data.length} bytes`);
    }
    result.set(data, offset);
    offset += data.length;
  }
  return result;
}
