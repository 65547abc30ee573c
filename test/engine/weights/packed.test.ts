/** The packed layouts q4 and q8 on the host. */
import { describe, expect, test } from "vitest";
import { kernelGroup, packQuantized } from "../../../engine/weights/packed.ts";
import { fromHalf, toHalf } from "../../../engine/weights/plain.ts";
import { dequantize } from "../../reference/ops.ts";
import { randomQuantized, unpackQuantized } from "../../reference/quantized.ts";

describe.each(["q4", "q8"] as const)("%s", (layout) => {
  test.each([
    [3, 256, 128],
    [2, 96, 64],
    [5, 33, 32],
    [1, 1, 128],
  ] as const)("[%i, %i] in groups of %i: unpacking gives back what was packed", (rows, cols, group) => {
    const matrix = randomQuantized(cols, layout, { rows, cols, group });
    const packed = packQuantized(layout, matrix);
    expect(unpackQuantized(layout, packed, matrix)).toEqual(dequantize(matrix));
  });
});

test("the order of nibbles and bytes, by hand", () => {
  const cols = 32;
  const q = Uint8Array.from({ length: cols }, (_, c) => c % 16);
  const matrix = { rows: 1, cols, group: 32, q, scale: Uint16Array.of(0x3c00), zero: Float32Array.of(16) } as const;
  const q4 = packQuantized("q4", matrix);
  expect([...new Uint32Array(q4.weight.buffer)]).toEqual([0xc840c840, 0xd951d951, 0xea62ea62, 0xfb73fb73]);
  expect([...new Uint32Array(q4.scales.buffer)]).toEqual([0x4c003c00]);
  const q8 = packQuantized("q8", { ...matrix, q: q.map((_, c) => c) });
  const words = [0x0c080400, 0x0d090501, 0x0e0a0602, 0x0f0b0703].flatMap((word) => [word, word + 0x10101010]);
  expect([...new Uint32Array(q8.weight.buffer)].sort()).toEqual(words.sort());
  expect(new Uint32Array(q8.weight.buffer)[5]).toBe(0x1d191511); // columns 17, 21, 25, 29
});

test("float16 and back: every finite number, and halves between two", () => {
  for (let bits = 0; bits < 0x7c00; bits++) {
    expect(toHalf(fromHalf(bits))).toBe(bits);
    expect(toHalf(-fromHalf(bits))).toBe(bits | 0x8000);
    const half = (fromHalf(bits) + (bits === 0x7bff ? 65536 : fromHalf(bits + 1))) / 2;
    expect(toHalf(half)).toBe(bits % 2 === 0 ? bits : bits + 1);
  }
  expect([Number.POSITIVE_INFINITY, -1e9, Number.NaN, 2 ** -26].map(toHalf)).toEqual([0x7c00, 0xfc00, 0x7e00, 0]);
});

test("groups of a format that the kernels have not, in smaller ones", () => {
  expect([32, 64, 96, 128, 256, 5120, 16, 100].map(kernelGroup)).toEqual([
    32,
    64,
    32,
    128,
    128,
    128,
    undefined,
    undefined,
  ]);
});
