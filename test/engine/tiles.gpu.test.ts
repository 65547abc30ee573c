import { describe, expect, test } from "vitest";
import { createTiler, tiled } from "../../engine/tiles.ts";
import { kernelSetup, liveBuffers } from "../kernels/harness.ts";

/** Words whose values are their own places: row, item and word of it. */
const placed = (rows: number, items: number, itemWords: number) =>
  Uint32Array.from({ length: rows * items * itemWords }, (_, i) => i);

/** Where word k of an item lies, by the definition: tiles one after the other, in each the first items of all rows first. */
function placeOf(row: number, item: number, k: number, size: Size): number {
  const { rows, items, itemWords, tileRows } = size;
  const tile = Math.floor(row / tileRows);
  const height = Math.min(tileRows, rows - tile * tileRows);
  return (tile * tileRows * items + item * height + (row % tileRows)) * itemWords + k;
}

interface Size {
  readonly rows: number;
  readonly items: number;
  readonly itemWords: number;
  readonly tileRows: number;
}

function expectTiles(found: Uint32Array, size: Size): void {
  const { rows, items, itemWords } = size;
  const wrong = [];
  for (let row = 0; row < rows; row++) {
    for (let item = 0; item < items; item++) {
      for (let k = 0; k < itemWords; k++) {
        const word = found[placeOf(row, item, k, size)];
        if (word !== (row * items + item) * itemWords + k) wrong.push({ row, item, k, word });
      }
    }
  }
  expect(wrong.slice(0, 3)).toEqual([]);
}

const sizes: readonly Size[] = [
  { rows: 32, items: 3, itemWords: 4, tileRows: 32 },
  { rows: 101, items: 18, itemWords: 4, tileRows: 32 },
  { rows: 5, items: 7, itemWords: 8, tileRows: 32 },
  { rows: 333, items: 5, itemWords: 1, tileRows: 8 },
  { rows: 1, items: 9, itemWords: 4, tileRows: 32 },
  { rows: 40, items: 1, itemWords: 4, tileRows: 32 },
  { rows: 40, items: 6, itemWords: 4, tileRows: 1 },
  { rows: 70_003, items: 10, itemWords: 4, tileRows: 32 }, // pieces
];

describe("rows become tiles", () => {
  test.each(sizes)("on the host: %o", (size) => {
    expectTiles(tiled(placed(size.rows, size.items, size.itemWords), size), size);
  });

  test.each(sizes)("on the GPU: %o", async (size) => {
    const { device } = await kernelSetup();
    const { rows, items, itemWords, tileRows } = size;
    const words = placed(rows, items, itemWords);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
    const buffer = device.createBuffer("rows", words.byteLength, usage);
    device.writeBuffer(buffer, 0, words);
    const tiler = createTiler(device, tileRows);
    await tiler.add({ buffer, rows, rowBytes: 4 * items * itemWords, itemBytes: 4 * itemWords });
    const copy = device.createBuffer("copy", words.byteLength, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
    const encoder = device.createCommandEncoder("copy");
    encoder.copyBufferToBuffer(buffer.gpu, 0, copy.gpu, 0, words.byteLength);
    device.submit("copy", [encoder.finish()]);
    expectTiles(new Uint32Array(await device.readBack(copy, words.byteLength)), size);
    tiler.dispose();
    for (const one of [buffer, copy]) one.dispose();
    expect(await liveBuffers()).toBe(0);
  });
});
