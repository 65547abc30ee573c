/** GPTQ and AWQ: what is stored → packed rows on the host, against float64 loops; and what is refused. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { describeCheckpoint } from "../../../engine/describe.ts";
import { readConfig } from "../../../engine/files/config.ts";
import { openFolder } from "../../../engine/files/disk.ts";
import { openQuantization, type Quantization } from "../../../engine/files/quantization.ts";
import { readSafetensorsHeader, safetensorsBytes, type TensorInfo } from "../../../engine/files/safetensors.ts";
import { Weights } from "../../../engine/graph/weights.ts";
import { awq } from "../../../engine/weights/awq.ts";
import { checkWeights } from "../../../engine/weights/check.ts";
import type { MatrixSource, ReadTensor } from "../../../engine/weights/format.ts";
import { gptq } from "../../../engine/weights/gptq.ts";
import { gptqGroupIndex, gptqGroups, gptqTensors, gptqWords } from "../../../engine/weights/gptq_write.ts";
import { groupColumns } from "../../../engine/weights/grouped.ts";
import {
  evenGroups,
  type ModuleShape,
  randomModule,
  type StoredTensor,
  shuffledGroups,
} from "../../reference/grouped.ts";
import { unpackQuantized } from "../../reference/quantized.ts";
import { failure, tempFolder } from "../../tempFolder.ts";

const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
const configOf = (value: object) => readConfig("config.json", json(value));

/** Tensors in memory as a checkpoint hands them out. */
function stored(tensors: readonly StoredTensor[]) {
  const data = new Map(tensors.map((tensor) => [tensor.name, tensor.data]));
  const infos = new Map<string, TensorInfo>(
    tensors.map(({ name, dtype, shape, data: bytes }) => [
      name,
      { name, dtype, shape, file: "model.safetensors", offsetBytes: 0, sizeBytes: bytes.length },
    ]),
  );
  const read: ReadTensor = async (tensor, offset, length, into = new Uint8Array(length)) => {
    const from = data.get(tensor.name)?.subarray(offset, offset + length);
    if (from?.length !== length) throw new Error(`${tensor.name}: no bytes ${offset} to ${offset + length}`);
    into.set(from);
    return into.subarray(0, length);
  };
  return { infos, read };
}

function quantizationOf(shape: ModuleShape, more: object = {}): Promise<Quantization> {
  const common = { bits: shape.bits, group_size: 32, ...more };
  const quantization_config =
    shape.method === "awq"
      ? { quant_method: "awq", version: "gemm", zero_point: true, ...common }
      : { quant_method: "gptq", checkpoint_format: shape.zerosLessOne ? "gptq" : "gptq_v2", sym: false, ...common };
  const { infos, read } = stored([]);
  const checkpoint = { config: configOf({ quantization_config }), quantizeConfig: undefined, tensors: infos, read };
  return openQuantization(checkpoint).then((found) => {
    if (found === undefined) throw new Error("not quantized");
    return found;
  });
}

async function openModule(shape: ModuleShape, tensors: readonly StoredTensor[], more: object = {}, extraRows = false) {
  const { infos, read } = stored(tensors);
  const quantization = await quantizationOf(shape, more);
  const format = quantization.method === "awq" ? awq(quantization) : gptq(quantization);
  const need = { name: "m.weight", shape: [shape.rows, shape.cols], mayHaveMoreRows: extraRows };
  expect(format.stores(infos, need)).toBe(true);
  return { opened: await format.open(infos, need, read), read };
}

/** The values [rows, cols] of some rows of a source, in the columns' own order. */
async function valuesOf(
  source: MatrixSource,
  read: ReadTensor,
  cols: number,
  first: number,
  rows: number,
  as = source.packing,
) {
  const values = new Float64Array(rows * cols);
  const order = "group" in as && as.permuted ? source.permutation?.() : undefined;
  let row = 0;
  for await (const piece of source.rows(read, first, rows, as)) {
    const { weight, scales = new Uint8Array() } = piece;
    if ("group" in as) {
      const unpacked = unpackQuantized(
        as.layout as "q4" | "q8",
        { weight, scales },
        { rows: piece.rows, cols, group: as.group },
      );
      for (let i = 0; i < unpacked.length; i++) {
        const k = i % cols;
        values[row * cols + i - k + (order?.[k] ?? k)] = unpacked[i] ?? 0;
      }
    } else {
      const stride = weight.length / 4 / piece.rows;
      const floats = new Float32Array(weight.buffer, weight.byteOffset, weight.length / 4);
      for (let i = 0; i < piece.rows * cols; i++)
        values[row * cols + i] = floats[Math.floor(i / cols) * stride + (i % cols)] ?? 0;
    }
    row += piece.rows;
  }
  expect(row).toBe(rows);
  return values;
}

const gptq4 = { method: "gptq", bits: 4, rows: 24, cols: 128 } as const;
const modules: readonly (readonly [name: string, shape: ModuleShape, packing: string, config?: object])[] = [
  ["v1", { ...gptq4, groupOf: evenGroups(128, 32), zerosLessOne: true }, "q4 32"],
  ["v2", { ...gptq4, groupOf: evenGroups(128, 32) }, "q4 32"],
  ["v2 without g_idx", { ...gptq4, groupOf: evenGroups(128, 64), noGroupIndex: true }, "q4 64", { group_size: 64 }],
  ["groups of 128", { ...gptq4, cols: 384, groupOf: evenGroups(384, 128) }, "q4 128", { group_size: 128 }],
  ["groups of 96", { ...gptq4, cols: 192, groupOf: evenGroups(192, 96) }, "q4 32", { group_size: 96 }],
  ["group -1", { ...gptq4, cols: 96, groupOf: evenGroups(96, 96) }, "q4 128", { group_size: -1 }],
  ["columns in no whole block", { ...gptq4, cols: 40, groupOf: evenGroups(40, 40) }, "q4 128", { group_size: -1 }],
  [
    "act-order",
    { ...gptq4, groupOf: shuffledGroups(1, 128, 32), zerosLessOne: true },
    "q4 32 permuted",
    { desc_act: true },
  ],
  [
    "act-order, asymmetric v2, 64",
    { ...gptq4, groupOf: shuffledGroups(2, 128, 64) },
    "q4 64 permuted",
    { desc_act: true, group_size: 64 },
  ],
  ["g_idx that desc_act denies", { ...gptq4, groupOf: shuffledGroups(3, 128, 32) }, "q4 32 permuted"],
  [
    "unequal groups",
    { ...gptq4, groupOf: Array.from({ length: 128 }, (_, k) => Math.min(3, Math.floor(k / 20))) },
    "f32",
  ],
  ["8 bits, v1", { ...gptq4, bits: 8, groupOf: evenGroups(128, 32), zerosLessOne: true }, "q8 32"],
  [
    "8 bits, act-order",
    { ...gptq4, bits: 8, groupOf: shuffledGroups(4, 128, 32) },
    "q8 32 permuted",
    { desc_act: true },
  ],
  [
    "dynamic: 8 bits of 64 among 4 of 32",
    { ...gptq4, bits: 8, groupOf: evenGroups(128, 64) },
    "q8 64",
    { bits: 4, dynamic: { "+:m": { bits: 8 } } },
  ],
  ["scales in bfloat16", { ...gptq4, groupOf: evenGroups(128, 32), scaleDtype: "BF16" }, "q4 32"],
  ["scales in float32", { ...gptq4, groupOf: evenGroups(128, 32), scaleDtype: "F32" }, "q4 32"],
  ["AWQ", { method: "awq", bits: 4, rows: 40, cols: 96, groupOf: evenGroups(96, 32) }, "q4 32"],
  [
    "AWQ, group -1, columns in no whole block",
    { method: "awq", bits: 4, rows: 16, cols: 44, groupOf: evenGroups(44, 44) },
    "q4 128",
    { group_size: -1 },
  ],
];

describe.each(modules.map(([name, ...rest]) => [name, rest] as const))("%s", (_name, [shape, packing, config = {}]) => {
  const { tensors, values } = randomModule("m", 7, shape);
  const { rows, cols } = shape;

  test("every row, and rows from the middle of a word on", async () => {
    const { opened, read } = await openModule(shape, tensors, config);
    if ("problem" in opened) throw new Error(opened.problem);
    const found = opened.packing;
    expect("group" in found ? `${found.layout} ${found.group}${found.permuted ? " permuted" : ""}` : found.layout).toBe(
      packing,
    );
    expect(await valuesOf(opened, read, cols, 0, rows)).toEqual(values);
    const some = await valuesOf(opened, read, cols, 3, 10);
    expect(some).toEqual(values.subarray(3 * cols, 13 * cols));
    // As float32, for a stack with other packings.
    expect(await valuesOf(opened, read, cols, 5, 4, { layout: "f32" })).toEqual(values.subarray(5 * cols, 9 * cols));
  });
});

test.each([4, 8] as const)("what is written of %i bits is what was read", async (bits) => {
  const shape = { ...gptq4, bits, cols: 192, groupOf: evenGroups(192, 64) };
  const { tensors } = randomModule("m", 11, shape);
  const { opened, read } = await openModule(shape, tensors, { group_size: 64 });
  if ("problem" in opened || !("group" in opened.packing)) throw new Error("not quantized");
  const { rows, cols } = shape;
  const layout = bits === 4 ? "q4" : "q8";
  const module = { rows, cols, bits, group: 64 };
  const data = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  for await (const { weight, scales = new Uint8Array() } of opened.rows(read, 0, rows, opened.packing)) {
    const groups = gptqGroups(new Uint32Array(scales.buffer), bits, 3);
    const written = [gptqWords(new Uint32Array(weight.buffer), layout, cols), groups.qzeros, gptqGroupIndex(module)];
    for (const [i, spec] of gptqTensors("m", module).entries()) {
      const found = [...written, groups.scales][i];
      expect(spec).toEqual({ name: spec.name, dtype: data.get(spec.name)?.dtype, shape: data.get(spec.name)?.shape });
      expect(new Uint8Array(found?.buffer ?? new ArrayBuffer())).toEqual(data.get(spec.name)?.data);
    }
  }
  expect.assertions(9);
});

describe("what quantization_config says", () => {
  const base = { quant_method: "gptq", bits: 4, group_size: 32, sym: false };
  const opening = async (quantization_config: unknown, file?: object, tensors: readonly StoredTensor[] = []) => {
    const { infos, read } = stored(tensors);
    const quantizeConfig = file && readConfig("quantize_config.json", json(file));
    const config = configOf(quantization_config === undefined ? {} : { quantization_config });
    return openQuantization({ config, quantizeConfig, tensors: infos, read });
  };

  test.each([
    [{ ...base, quant_method: "bitsandbytes" }, /quant_method": expected gptq or awq, got "bitsandbytes"/],
    [{ ...base, quant_method: "compressed-tensors" }, /quant_method": expected gptq or awq, got "compressed-tensors"/],
    [{ ...base, quant_method: null }, /quant_method": expected gptq or awq, got null/],
    [{ load_in_4bit: true }, /quant_method": expected gptq or awq, got no such field/],
    [{ ...base, bits: 3 }, /"bits": expected 4 or 8, got 3/],
    [{ ...base, bits: 2 }, /"bits": expected 4 or 8, got 2/],
    [{ ...base, bits: "4" }, /"bits": expected .*, got "4"/],
    [{ quant_method: "gptq" }, /"bits": expected .*, got no such field/],
    [{ ...base, group_size: 0 }, /"group_size": expected -1 or a multiple of 32, got 0/],
    [{ ...base, group_size: 7 }, /"group_size": expected -1 or a multiple of 32, got 7/],
    [{ ...base, group_size: -2 }, /"group_size": expected .*, got -2/],
    [{ ...base, checkpoint_format: "marlin" }, /"checkpoint_format": expected gptq or gptq_v2, got "marlin"/],
    [{ ...base, is_marlin_format: true }, /"is_marlin_format": expected false, got true/],
    [{ ...base, pack_dtype: "int64" }, /"pack_dtype": expected int32, got "int64"/],
    [{ ...base, version: "gemm", zero_point: true }, /"zero_point": expected no such field/],
    [{ ...base, quant_method: "awq", checkpoint_format: "gptq" }, /"checkpoint_format": expected gemm, got "gptq"/],
    [{ ...base, quant_method: "awq", version: "gemv" }, /"version": expected gemm, got "gemv"/],
    [{ ...base, quant_method: "awq", bits: 8 }, /"bits": expected 4, got 8/],
    ["gptq", /"quantization_config": expected an object, got "gptq"/],
  ])("%j is refused", async (config, message) => {
    const error = await failure(opening(config));
    expect(error.message).toMatch(message);
    expect(error.message).toMatch(/^config\.json: /);
  });

  test("advice where the method is not supported", async () => {
    const error = await failure(opening({ quant_method: "fp8" }));
    expect(error.advice).toEqual(["Load the original checkpoint with --quantize int4 instead."]);
  });

  test("tools' own files, and which of two is followed", async () => {
    const file = { bits: 8, group_size: 128, desc_act: true, sym: false };
    expect(await opening(undefined, file)).toMatchObject({ method: "gptq", bits: 8, groupCols: 128, descAct: true });
    const awqFile = { w_bit: 4, q_group_size: 64, zero_point: true, version: "GEMM" };
    expect(await opening(undefined, awqFile)).toMatchObject({ method: "awq", bits: 4, groupCols: 64 });
    const both = await opening(base, { ...base, group_size: 128, desc_act: true });
    expect(both).toMatchObject({ groupCols: 32, descAct: false });
    const note = 'config.json is followed where quantize_config.json says otherwise: "group_size" is 32, not 128';
    expect(both?.notes).toEqual([note]);
  });

  test("quantized tensors without a word of how", async () => {
    const { tensors } = randomModule("m", 1, { ...gptq4, groupOf: evenGroups(128, 32) });
    const error = await failure(opening(undefined, undefined, tensors));
    expect(error.message).toMatch(/"quantization_config": expected an object, for there is a tensor "m.qweight"/);
  });

  test.each([
    ["gptq", true, true],
    ["gptq", false, false],
    ["gptq_v2", true, true],
    ["gptq_v2", false, false],
    [undefined, true, true],
  ] as const)("symmetric, checkpoint_format %s, stored less one %s", async (format, zerosLessOne, expected) => {
    for (const bits of [4, 8] as const) {
      const shape = { ...gptq4, bits, groupOf: evenGroups(128, 32), sym: true, zerosLessOne };
      const { tensors } = randomModule("m", 1, shape);
      const config = { ...base, bits, sym: true, ...(format && { checkpoint_format: format }) };
      const found = await opening(config, undefined, tensors);
      expect(found?.zerosLessOne("m")).toBe(expected);
      expect(found?.notes.length).toBe((format !== "gptq_v2") === zerosLessOne ? 0 : 1);
    }
  });
});

describe("what GPTQ's files say wrongly", () => {
  const shape = { ...gptq4, groupOf: evenGroups(128, 32), sym: true };
  const module = (name: string, lessOne: boolean) => randomModule(name, 1, { ...shape, zerosLessOne: lessOne }).tensors;
  const open = (tensors: readonly StoredTensor[], more: object = {}) => {
    const { infos, read } = stored(tensors);
    const quantization_config = { quant_method: "gptq", bits: 4, group_size: 32, sym: true, ...more };
    const config = configOf({ quantization_config });
    return openQuantization({ config, quantizeConfig: undefined, tensors: infos, read });
  };
  const dynamic = { "-:nothing": {} };

  test.each([{}, { dynamic }])("each module's zeros say which version they are, with %j", async (more) => {
    const found = await open([...module("a", true), ...module("b", false)], more);
    expect(["a", "b"].map((name) => found?.zerosLessOne(name))).toEqual([true, false]);
    expect(found?.notes).toEqual([
      'config.json: quantization_config: the zero points of 1 modules are those of GPTQ v2, whatever "checkpoint_format" says',
    ]);
  });

  test("a module whose zeros tell nothing has those of the others", async () => {
    const other = randomModule("c", 2, { ...shape, sym: false }).tensors;
    expect((await open([...module("a", false), ...other]))?.zerosLessOne("c")).toBe(false);
    expect((await open(other))?.zerosLessOne("c")).toBe(true);
  });

  test.each([false, true])("g_idx of zeros beside several groups is none, desc_act %s", async (desc_act) => {
    const { tensors, values } = randomModule("m", 7, { ...shape, sym: false });
    const zeros = tensors.map((tensor) =>
      tensor.name.endsWith("g_idx") ? { ...tensor, data: new Uint8Array(tensor.data.length) } : tensor,
    );
    const { opened, read } = await openModule(shape, zeros, { desc_act });
    if ("problem" in opened) throw new Error(opened.problem);
    expect(opened.ignoresGroupIndex).toBe(true);
    expect(await valuesOf(opened, read, 128, 0, 24)).toEqual(values);
  });

  test("g_idx of zeros beside one group is right", async () => {
    const one = { ...gptq4, groupOf: evenGroups(128, 128) };
    const { opened } = await openModule(one, randomModule("m", 7, one).tensors, { group_size: -1 });
    expect(opened).not.toHaveProperty("ignoresGroupIndex");
  });
});

describe("modules that are refused", () => {
  const shape = { ...gptq4, groupOf: evenGroups(128, 32) };
  const { tensors } = randomModule("m", 5, shape);
  const changed = (name: string, change: Partial<StoredTensor>) =>
    tensors.map((tensor) => (tensor.name === `m.${name}` ? { ...tensor, ...change } : tensor));
  const without = (name: string) => tensors.filter((tensor) => tensor.name !== `m.${name}`);
  const gIdx = (values: readonly number[]) =>
    changed("g_idx", { data: new Uint8Array(Int32Array.from({ length: 128 }, (_, k) => values[k] ?? 0).buffer) });
  const problem = async (list: readonly StoredTensor[], config: object = {}, of: ModuleShape = shape) => {
    const { opened } = await openModule(of, list, config);
    return "problem" in opened ? opened.problem : "";
  };

  test.each<[string, readonly StoredTensor[], RegExp, object?]>([
    ["too few words", changed("qweight", { shape: [15, 24] }), /"m.qweight": expected \[16, 24\], got \[15, 24\]/],
    ["words of 8 bits", changed("qweight", { shape: [32, 24] }), /"m.qweight": expected \[16, 24\], got \[32, 24\]/],
    ["scales of other groups", changed("scales", { shape: [2, 24] }), /"m.scales": expected \[4, 24\], got \[2, 24\]/],
    ["zeros of other rows", changed("qzeros", { shape: [4, 2] }), /"m.qzeros": expected \[4, 3\], got \[4, 2\]/],
    ["a short g_idx", changed("g_idx", { shape: [127] }), /"m.g_idx": expected \[128\], got \[127\]/],
    ["float words", changed("qweight", { dtype: "F32" }), /"m.qweight": expected I32, got F32/],
    ["integer scales", changed("scales", { dtype: "I16" }), /"m.scales": expected F16 or BF16 or F32, got I16/],
    ["no zeros", without("qzeros"), /"m.qweight": expected a tensor "m.qzeros" beside it, got none/],
    ["no scales", without("scales"), /expected a tensor "m.scales" beside it, got none/],
    ["act-order without g_idx", without("g_idx"), /expected a tensor "m.g_idx" beside it/, { desc_act: true }],
    ["a group past the last", gIdx([0, 1, 4]), /"m.g_idx": expected a group from 0 to 3, got 4 at \[2\]/],
    ["a negative group", gIdx([0, -1]), /"m.g_idx": expected a group from 0 to 3, got -1 at \[1\]/],
    [
      "groups that do not divide",
      tensors,
      /"group_size": expected -1 or a divisor of 128, .*got 96/,
      { group_size: 96 },
    ],
    [
      "groups larger than a row",
      tensors,
      /"group_size": expected -1 or a divisor of 128, .*got 256/,
      { group_size: 256 },
    ],
    [
      "words of 3 bits",
      changed("qweight", { shape: [12, 24] }),
      /expected 16 or 32 rows .4 or 8 bits., got \[12, 24\]/,
      { dynamic: { "+:m": { bits: 3 } } },
    ],
    [
      "a plain tensor beside it",
      [...tensors, { name: "m.weight", dtype: "F16", shape: [24, 128], data: new Uint8Array(6144) }],
      /"m.weight": expected no such tensor beside "m.qweight"/,
    ],
  ])("%s", async (_name, list, message, config) => {
    expect(await problem(list, config)).toMatch(message);
  });

  test("rows that fill no whole word", async () => {
    const odd = { ...shape, rows: 20 };
    const expected = /"m.qzeros": expected a multiple of 8 rows of "m.weight" \[20, 128\], got 20/;
    expect(await problem(tensors, {}, odd)).toMatch(expected);
  });

  test("AWQ with a g_idx", async () => {
    const awqShape = { ...shape, method: "awq" } as const;
    const list = [...randomModule("m", 5, awqShape).tensors, ...tensors.filter(({ name }) => name === "m.g_idx")];
    expect(await problem(list, {}, awqShape)).toMatch(/"m.g_idx": expected no such tensor in AWQ/);
  });

  test.each([
    ["F16", [0x7e00], "NaN"],
    ["F16", [0xfc00], "-Infinity"],
    ["BF16", [0x7f80], "Infinity"],
  ] as const)("a %s scale %j", async (dtype, bits, shown) => {
    const data = randomModule("m", 5, { ...shape, scaleDtype: dtype }).tensors[2]?.data.slice() ?? new Uint8Array();
    new Uint16Array(data.buffer).set(bits, 2 * 24 + 13);
    const { opened, read } = await openModule(shape, changed("scales", { data, dtype }));
    if ("problem" in opened) throw new Error(opened.problem);
    await valuesOf(opened, read, 128, 0, 8); // another strip
    const error = await failure(valuesOf(opened, read, 128, 8, 16));
    expect(error.message).toMatch(`tensor "m.scales": expected finite numbers, got ${shown} at [2, 13]`);
  });

  test("a float32 scale that no float16 holds", async () => {
    const data = new Uint8Array(Float32Array.from({ length: 96 }, (_, i) => (i === 30 ? 70000 : 0.01)).buffer);
    const { opened, read } = await openModule(shape, changed("scales", { data, dtype: "F32" }));
    if ("problem" in opened) throw new Error(opened.problem);
    const error = await failure(valuesOf(opened, read, 128, 0, 24));
    expect(error.message).toMatch(/"m.scales": expected numbers that a float16 holds, got 70000 at \[1, 6\]/);
  });
});

describe("whole checkpoints", () => {
  const fixture = (name: string) => join(import.meta.dirname, "../../fixtures/models", name);
  const read = (name: string, file: string) => new Uint8Array(readFileSync(join(fixture(name), file)));

  /** The act-order fixture with its config and some tensors changed. */
  async function describeChanged(config: object, change: (tensors: StoredTensor[]) => readonly StoredTensor[]) {
    const name = "phi-4-gptq-act-order-g32";
    const path = fixture(name);
    const source = await (await openFolder(path)).open("model.safetensors");
    if (source === undefined) throw new Error("no fixture");
    const { tensors } = await readSafetensorsHeader(source);
    const all: StoredTensor[] = [];
    for (const { name, dtype, shape, offsetBytes, sizeBytes } of tensors.values()) {
      all.push({ name, dtype, shape, data: new Uint8Array(await source.read(offsetBytes, sizeBytes)) });
    }
    await source.close();
    const old = JSON.parse(new TextDecoder().decode(read(name, "config.json")));
    return describeCheckpoint(
      await openFolder(
        tempFolder({ "config.json": { ...old, ...config }, "model.safetensors": safetensorsBytes(change(all)) }),
      ),
    );
  }

  test("what is said of them", async () => {
    const gptqModel = (await describeCheckpoint(await openFolder(fixture("phi-4-gptq-act-order-g32")))).model;
    const common = { bits: 4, groupSize: 32, symmetric: false, modules: 8 };
    expect(gptqModel?.quantization).toEqual({ method: "gptq", ...common, actOrder: true });
    const awqModel = (await describeCheckpoint(await openFolder(fixture("phi-4-awq-gemm-g32")))).model;
    expect(awqModel?.quantization).toEqual({ method: "awq", ...common, actOrder: false });
    // 4 bits, and a word for each group of 32; halves for embedding and head; float32 for norms.
    const { attention = 0, mlp = 0, embedding = 0, head = 0, norms = 0 } = awqModel?.parametersByPart ?? {};
    expect(attention * mlp * embedding * head * norms).toBeGreaterThan(0);
    const bytes = (attention + mlp) * (5 / 8) + (embedding + head) * 2 + norms * 4;
    expect(awqModel?.needs().weightsBytes).toBe(bytes);
  });

  test("a bias that the model does not have: zeros are ignored, others refused", async () => {
    const bias = (value: number): StoredTensor => {
      const data = new Uint8Array(Uint16Array.from({ length: 128 }, (_, i) => (i === 77 ? value : 0x8000)).buffer);
      return { name: "model.layers.0.self_attn.o_proj.bias", dtype: "F16", shape: [128], data };
    };
    const zeros = await describeChanged({}, (tensors) => [...tensors, bias(0)]);
    expect(zeros.problem).toBeUndefined();
    const others = await describeChanged({}, (tensors) => [...tensors, bias(0x3c00)]);
    expect(others.problem?.message).toMatch(/o_proj.bias": expected zeros, for Phi3ForCausalLM has no such bias/);
  });

  test("faults of several modules, in one error before anything is loaded", async () => {
    const { problem } = await describeChanged({}, (tensors) =>
      tensors.map((tensor) => {
        if (!/layers.0.mlp.*g_idx/.test(tensor.name)) return tensor;
        return { ...tensor, data: tensor.data.slice().fill(0xff, 0, 4) };
      }),
    );
    expect(problem?.message).toMatch(
      /gate_up_proj.g_idx": expected a group from 0 to 3, got -1 at \[0\]; .*down_proj.g_idx": expected a group/,
    );
    expect(problem?.exitCode).toBe(3);
  });

  test("another method's name", async () => {
    const quantization_config = { quant_method: "bitsandbytes", load_in_4bit: true };
    const { problem } = await describeChanged({ quantization_config }, (tensors) => tensors);
    expect(problem?.message).toBe(
      'config.json: quantization_config: "quant_method": expected gptq or awq, got "bitsandbytes"',
    );
  });
});

describe("modules that are stacked", () => {
  const of = (groupOf: readonly number[], bits: 4 | 8 = 4): ModuleShape => ({ ...gptq4, bits, rows: 16, groupOf });
  const natural = of(evenGroups(128, 32));
  const wide = of(evenGroups(128, 64));
  const shuffled = (seed: number) => of(shuffledGroups(seed, 128, 32));
  const permuted = { layout: "q4", group: 32, permuted: true };
  const float = { layout: "f32" };

  test.each<[string, readonly ModuleShape[], object, { parts?: 1 | 2; activeShare?: number }?]>([
    ["groups of one size", [natural, natural], { layout: "q4", group: 32 }],
    ["groups of two sizes", [wide, natural], { layout: "q4", group: 32 }],
    ["two orders of columns", [shuffled(1), shuffled(2)], permuted],
    ["an order of columns and none", [natural, shuffled(2)], permuted],
    ["4 and 8 bits", [natural, of(evenGroups(128, 32), 8)], float],
    [
      "8 bits, groups of two sizes",
      [of(evenGroups(128, 128), 8), of(evenGroups(128, 64), 8)],
      { layout: "q8", group: 64 },
    ],
    ["two orders, for two parts of one dispatch", [shuffled(1), shuffled(2)], float, { parts: 2 }],
    ["two orders, for experts", [shuffled(1), shuffled(2)], float, { activeShare: 0.5 }],
    [
      "no order, for two parts of experts",
      [natural, natural],
      { layout: "q4", group: 32 },
      { parts: 2, activeShare: 0.5 },
    ],
  ])("%s", async (_name, shapes, packing, options = {}) => {
    const { infos, read } = stored(shapes.flatMap((shape, i) => randomModule(`m${i}`, i, shape).tensors));
    const declarations = new Weights();
    const ref = declarations.stacked(
      "m",
      [
        ["m0.weight", 16],
        ["m1.weight", 16],
      ],
      128,
      options,
    );
    const quantization_config = { quant_method: "gptq", bits: 4, group_size: 32, sym: false, dynamic: { "+:m": {} } };
    const checkpoint = {
      name: "m",
      config: configOf({ quantization_config }),
      quantizeConfig: undefined,
      tensors: infos,
      read,
    };
    const architecture = { name: "Test", layers: 1, layerPattern: /^layer\.(\d+)\./ };
    const weights = await checkWeights(checkpoint, architecture, declarations.declared);
    expect(weights.packing(ref)).toEqual(packing);
    expect(weights.notes.length).toBe(packing === float ? 1 : 0);
  });
});

test("a head with more rows than the vocabulary", async () => {
  const shape = { ...gptq4, groupOf: evenGroups(128, 32) };
  const { tensors, values } = randomModule("m", 3, shape);
  const { opened, read } = await openModule({ ...shape, rows: 19 }, tensors, {}, true);
  if ("problem" in opened) throw new Error(opened.problem);
  expect(await valuesOf(opened, read, 128, 0, 19)).toEqual(values.subarray(0, 19 * 128));
});

test("columns sorted by group keep their order within it", () => {
  const groupOf = Uint32Array.from({ length: 64 }, (_, k) => 1 - (k % 2));
  const { columns, group } = groupColumns(groupOf) ?? {};
  expect(group).toBe(32);
  expect([...(columns ?? [])]).toEqual(
    [...Array(32).keys()].map((k) => 2 * k + 1).concat([...Array(32).keys()].map((k) => 2 * k)),
  );
});
