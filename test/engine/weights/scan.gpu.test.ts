import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { type MatrixRef, rowRanges, Weights } from "../../../engine/graph/weights.ts";
import { loadModel, openFolder } from "../../../engine/index.ts";
import { createScan } from "../../../engine/weights/scan.ts";
import { type PlainLayout, rowBytes } from "../../../kernels/weights/weights.ts";
import { gpuAdapter, testAdapter } from "../../gpu.ts";
import { kernelSetup, liveBuffers, packedWeight } from "../../kernels/harness.ts";
import { failure, tempFolder } from "../../tempFolder.ts";

/** Bits of the largest finite numbers and the smallest ones, and of NaNs and infinities. */
const finite = { f32: [0x80000000, 1, 0x7f7fffff, 0xff7fffff], f16: [0x7bff, 0xfbff, 1], bf16: [0x7f7f, 0xff7f, 1] };
const bad = {
  f32: [0x7f800000, 0xff800000, 0x7fc00000, 0xffc00001, 0x7f800001],
  f16: [0x7c00, 0xfc00, 0x7e00, 0x7c01, 0xffff],
  bf16: [0x7f80, 0xff80, 0x7fc0, 0x7f81, 0xffff],
};

/** Two tensors [3, cols] and [rest, cols], one below the other, in `parts` parts. */
function matrix(rows: number, cols: number, parts: 1 | 2): MatrixRef {
  const tensors = [3, rows * parts - 3].map((n, k) => [`t${k}`, n] as const);
  return new Weights().stacked("m", tensors, cols, { parts });
}

/** Scans a random matrix with these bits put at [row, col], in row ranges of at most `rangeBytes`. */
async function find(
  layout: PlainLayout,
  ref: MatrixRef,
  put: readonly (readonly [row: number, col: number, bits: number])[],
  rangeBytes: number,
  where: "GPU" | "host",
) {
  const { device } = await kernelSetup();
  const packed = packedWeight(7, { layout }, ref.rows * ref.parts, ref.cols, "mixed");
  const elementBytes = layout === "f32" ? 4 : 2;
  const ranges = rowRanges(ref, { layout }, rangeBytes);
  const scan = createScan(device, ranges.length);
  const buffers = [];
  for (const range of ranges) {
    const partBytes = range.rows * rowBytes(layout, ref.cols);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
    const buffer = device.createBuffer("m", partBytes * ref.parts, usage);
    buffers.push(buffer);
    const all = new Uint8Array(partBytes * ref.parts);
    for (let part = 0; part < ref.parts; part++) {
      const first = part * ref.rows + range.firstRow;
      const words = packed.words(first, range.rows);
      const elements = layout === "f32" ? words : new Uint16Array(words.buffer);
      for (const [row, col, bits] of put) {
        if (row >= first && row < first + range.rows) {
          elements[((row - first) * rowBytes(layout, ref.cols)) / elementBytes + col] = bits;
        }
      }
      all.set(new Uint8Array(words.buffer), part * partBytes);
    }
    const slot = scan.slot(ref, range, layout);
    if (where === "GPU") {
      device.writeBuffer(buffer, 0, all);
      await slot.scan(buffer);
    } else {
      const half = Math.ceil((range.rows * ref.parts) / 2); // the second piece first
      slot.look(all.subarray(half * rowBytes(layout, ref.cols)), half);
      slot.look(all.subarray(0, half * rowBytes(layout, ref.cols)), 0);
    }
  }
  const { nonFinite: found } = await scan.finds();
  scan.dispose();
  for (const buffer of buffers) buffer.dispose();
  expect(await liveBuffers()).toBe(0);
  return found;
}

const layouts = ["f32", "f16", "bf16"] as const;

describe.each(layouts.flatMap((layout) => [[layout, "GPU"] as const, [layout, "host"] as const]))(
  "%s on the %s",
  (layout, where) => {
    const ref = matrix(21, 13, 2);
    const oneRange = 1 << 20;

    test("numbers at the edge of the range are finite", async () => {
      const put = finite[layout].map((bits, k) => [2 * k, k, bits] as const);
      expect(await find(layout, ref, put, oneRange, where)).toBeUndefined();
    });

    test.each(bad[layout].map((bits, k) => [bits.toString(16), bits, k] as const))(
      "0x%s is found",
      async (_, bits, k) => {
        const [row, col] =
          [
            [0, 0],
            [2, 12],
            [3, 1],
            [20, 7],
            [41, 12],
          ][k] ?? [];
        if (row === undefined || col === undefined) throw new Error("no place");
        const found = await find(layout, ref, [[row, col, bits]], oneRange, where);
        expect(found).toMatchObject({
          row: row < 3 ? row : row - 3,
          col,
          count: 1,
          need: { name: row < 3 ? "t0" : "t1" },
        });
      },
    );

    test("the first of several, in ranges of a few rows", async () => {
      const [nan = 0] = bad[layout];
      const put = [
        [40, 0, nan],
        [9, 5, nan],
        [9, 6, nan],
        [30, 0, nan],
      ] as const;
      const found = await find(layout, ref, put, rowBytes(layout, 13) * 2 * 4, where);
      // Row 30 is row 9 of the second part, in the same range as row 9 of the first.
      expect(found).toMatchObject({ need: { name: "t1" }, row: 6, col: 5, count: 4 });
    });

    test("more words than threads", async () => {
      const large = matrix(4000, 300, 1);
      const [, infinity = 0] = bad[layout];
      expect(await find(layout, large, [[3999, 299, infinity]], 1 << 26, where)).toMatchObject({
        row: 3996,
        col: 299,
        count: 1,
      });
    });
  },
);

describe("a checkpoint", () => {
  const phiTiny = join(import.meta.dirname, "../../../models/phi-tiny");

  /** phi-tiny, or another model, with 16 bits at an element of a tensor. */
  function changed(tensor: string, index: number, bits: number, from = phiTiny): string {
    const folder = tempFolder();
    cpSync(join(from, "config.json"), join(folder, "config.json"));
    const bytes = readFileSync(join(from, "model.safetensors"));
    const start = 8 + Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString("utf8", 8, start));
    bytes.writeUInt16LE(bits, start + header[tensor].data_offsets[0] + 2 * index);
    writeFileSync(join(folder, "model.safetensors"), bytes);
    return folder;
  }

  test.each([
    ["model.layers.2.self_attn.k_proj.weight", 128 * 5 + 9, 0x7e00, "NaN at [5, 9]"],
    ["lm_head.weight", 128 * 1024 - 1, 0xfc00, "-Infinity at [1023, 127]"],
    ["model.layers.5.mlp.fc1.bias", 17, 0x7c00, "Infinity at [17]"],
  ])("%s", async (tensor, index, bits, got) => {
    const folder = await openFolder(changed(tensor, index, bits));
    const error = await failure(loadModel({ folder, adapter: await testAdapter() }));
    expect((await failure(loadModel({ folder, adapter: await gpuAdapter() }))).message).toBe(error.message);
    expect(error.message).toBe(`model.safetensors: tensor "${tensor}": expected finite numbers, got ${got}`);
    expect(error.advice.join()).toContain("--allow-nan-weights");
  });

  test.each([
    ["model.layers.2.self_attn.k_proj.weight", 128 * 5 + 9, 0x7e00, "NaN at [5, 9]"],
    ["lm_head.weight", 128 * 1024 - 1, 0xfc00, "-Infinity at [1023, 127]"],
  ])("%s, quantized", async (tensor, index, bits, got) => {
    const folder = await openFolder(changed(tensor, index, bits));
    const quantize = { weights: "int4", groupSize: 64 } as const;
    const error = await failure(loadModel({ folder, adapter: await testAdapter(), quantize }));
    expect(error.message).toBe(`model.safetensors: tensor "${tensor}": expected finite numbers, got ${got}`);
  });

  test("of several, the first in the order of the model is named, whichever is read first", async () => {
    const norm = (leaf: string) => `model.layers.3.input_layernorm.${leaf}`;
    const [first, second] = [norm("weight"), norm("bias")].map((tensor) => changed(tensor, 3, 0x7e00));
    if (first === undefined || second === undefined) throw new Error("no folder");
    const both = changed(norm("weight"), 3, 0x7e00, second);
    const named = async (path: string) =>
      (await failure(loadModel({ folder: await openFolder(path), adapter: await testAdapter() }))).message;
    expect(await named(second)).not.toBe(await named(first));
    for (let n = 0; n < 5; n++) expect(await named(both)).toBe(await named(first));
  });

  test("a number that is too large for int4", async () => {
    const tensor = "model.layers.1.mlp.down_proj.weight";
    const model = join(import.meta.dirname, "../../fixtures/models/phi-4-mini");
    const folder = await openFolder(changed(tensor, 3 * 288 + 7, 0xff7f, model)); // the largest bfloat16
    const quantize = { weights: "int4" } as const;
    const error = await failure(loadModel({ folder, adapter: await testAdapter(), quantize }));
    expect(error).toMatchObject({ kind: "checkpoint" });
    expect(error.message).toBe(
      `model.safetensors: tensor "${tensor}": expected numbers that have a float16 scale, got ${-(2 ** 128 - 2 ** 120)} at [3, 7]`,
    );
    expect(error.advice.join()).toContain("--quantize none");
  });

  test("is loaded where it is asked for", async () => {
    const folder = await openFolder(changed("lm_head.weight", 0, 0x7e00));
    const model = await loadModel({ folder, adapter: await testAdapter(), allowNonFinite: true });
    onTestFinished(() => model.dispose());
    expect(model.vocabularySize).toBe(1024);
  });
});
