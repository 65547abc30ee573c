import { describe, expect, test } from "vitest";
import { tiled, tileWriter } from "../../../engine/weights/tiles.ts";
import { seededRandom } from "../../reference/compare.ts";

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
  { rows: 2003, items: 10, itemWords: 4, tileRows: 32 },
];

/** Rows 0 … of `rows` in pieces of at most `most` rows, in random order. */
function shuffledPieces(rows: number, most: number): readonly (readonly [first: number, end: number])[] {
  const random = seededRandom(rows + most);
  const pieces = [];
  for (let first = 0; first < rows; ) {
    const end = Math.min(rows, first + 1 + Math.floor(random() * most));
    pieces.push([first, end] as const);
    first = end;
  }
  return pieces
    .map((piece) => ({ piece, order: random() }))
    .sort((a, b) => a.order - b.order)
    .map(({ piece }) => piece);
}

describe("rows become tiles", () => {
  test.each(sizes)("all at once: %o", (size) => {
    const words = placed(size.rows, size.items, size.itemWords);
    expectTiles(tiled(words, { ...size, itemBytes: 4 * size.itemWords }), size);
    expect(words[1]).toBe(1); // what was given stays
  });

  test.each(sizes.flatMap((size) => [1, 7, 40, 1000].map((most) => [most, size] as const)))(
    "in pieces of up to %i rows: %o",
    async (most, size) => {
      const { rows, items, itemWords, tileRows } = size;
      const words = placed(rows, items, itemWords);
      const rowBytes = 4 * items * itemWords;
      const found = new Uint32Array(words.length).fill(0xffffffff);
      let writtenBytes = 0;
      const take = tileWriter(
        { rows, rowBytes, itemBytes: 4 * itemWords, tileRows },
        async (offset, sizeBytes, fill) => {
          fill(new Uint8Array(found.buffer, offset, sizeBytes));
          writtenBytes += sizeBytes;
        },
      );
      for (const [first, end] of shuffledPieces(rows, most)) {
        // A piece that begins at any byte, as it may lie in a file.
        const piece = new Uint8Array((end - first) * rowBytes + 3).subarray(3);
        piece.set(new Uint8Array(words.buffer, first * rowBytes, (end - first) * rowBytes));
        await take(first, piece);
      }
      expectTiles(found, size);
      expect(writtenBytes).toBe(words.byteLength);
    },
  );

  test.each([0x7ff00001, 0x7f800001])("a NaN keeps its bits: %i …", (first) => {
    const bits = Uint32Array.from({ length: 2 * 8 * 4 }, (_, i) => first + i);
    const found = tiled(bits, { rows: 2, itemBytes: 16, tileRows: 2 });
    expectTiles(
      found.map((word) => word - first),
      { rows: 2, items: 8, itemWords: 4, tileRows: 2 },
    );
  });
});
