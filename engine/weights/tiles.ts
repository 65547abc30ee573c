/** Puts the rows of a matrix into tiles (kernels/weights/matrix.wgsl) on their way to the GPU. */

/** Rows that are to lie in tiles. */
export interface TiledRows {
  readonly rows: number;
  readonly rowBytes: number;
  /** Bytes of what lies together: a block, which is a multiple of 16, or a group's scale, which is 4. */
  readonly itemBytes: number;
  /** Rows of a tile; the last one is lower where the rows do not fill it. */
  readonly tileRows: number;
}

type Bytes = Uint8Array<ArrayBuffer>;

/** Rows of one tile: `count` from its row `row` on. */
interface PartOfTile {
  readonly row: number;
  readonly count: number;
  readonly height: number;
}

/**
 * Puts blocks where they belong in a tile, from rows that lie one after the other. They are moved by words of 64 bits (not
 * by floats, whose NaNs might change their bits), two at a time: 1.6 times as fast as a loop over an item's words.
 */
function layBlocks(from: Bytes, to: Bytes, { rowBytes, itemBytes }: TiledRows, { row, count, height }: PartOfTile) {
  const source = new BigUint64Array(from.buffer, from.byteOffset, (count * rowBytes) / 8);
  const target = new BigUint64Array(to.buffer, to.byteOffset, (height * rowBytes) / 8);
  const rowWords = rowBytes / 8;
  const itemWords = itemBytes / 8;
  const step = height * itemWords;
  for (let i = 0; i < count; i++) {
    const end = (i + 1) * rowWords;
    for (let pair = 0; pair < itemWords; pair += 2) {
      let at = (row + i) * itemWords + pair;
      for (let word = i * rowWords + pair; word < end; word += itemWords) {
        target[at] = source[word] as bigint;
        target[at + 1] = source[word + 1] as bigint;
        at += step;
      }
    }
  }
}

/** The same for scales. */
function layScales(from: Bytes, to: Bytes, { rowBytes }: TiledRows, { row, count, height }: PartOfTile) {
  const rowWords = rowBytes / 4;
  const source = new Uint32Array(from.buffer, from.byteOffset, count * rowWords);
  const target = new Uint32Array(to.buffer, to.byteOffset, height * rowWords);
  for (let i = 0; i < count; i++) {
    for (let item = 0; item < rowWords; item++) target[item * height + row + i] = source[i * rowWords + item] as number;
  }
}

/** Puts rows into a tile. */
function lay(from: Bytes, to: Bytes, size: TiledRows, part: PartOfTile): void {
  if (size.itemBytes === 4) layScales(from, to, size, part);
  else layBlocks(from, to, size, part);
}

/** Rows that are whole tiles, from tile `tile` on. */
function layTiles(from: Bytes, to: Bytes, size: TiledRows, tile: number): void {
  for (let at = 0; at < from.byteLength; tile++) {
    const height = heightOf(tile, size);
    lay(from.subarray(at), to.subarray(at), size, { row: 0, count: height, height });
    at += height * size.rowBytes;
  }
}

function heightOf(tile: number, { rows, tileRows }: TiledRows): number {
  return Math.min(tileRows, rows - tile * tileRows);
}

/** All rows as tiles. */
export function tiled<Words extends Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>>(
  words: Words,
  size: Omit<TiledRows, "rowBytes">,
): Words {
  const to = words.slice() as Words;
  const rows = aligned(new Uint8Array(words.buffer, words.byteOffset, words.byteLength));
  layTiles(rows, new Uint8Array(to.buffer), { ...size, rowBytes: words.byteLength / size.rows }, 0);
  return to;
}

/** Has `fill` write `sizeBytes` bytes of the tiles, from an offset on. */
type WriteTiles = (offsetBytes: number, sizeBytes: number, fill: (bytes: Bytes) => void) => Promise<void>;

/** Takes rows `first` …, which lie one after the other. */
export type TakeRows = (first: number, rows: Uint8Array) => Promise<void>;

/** Makes tiles of rows that come in pieces, each row once, in any order. Tiles are written when they are whole. */
export function tileWriter(size: TiledRows, write: WriteTiles): TakeRows {
  const { rowBytes, itemBytes, tileRows } = size;
  if (tileRows === 1 || rowBytes === itemBytes) {
    return (first, rows) => write(first * rowBytes, rows.byteLength, (bytes) => bytes.set(rows));
  }
  /** Tiles of which rows are missing. */
  const parts = new Map<number, { readonly bytes: Bytes; count: number }>();

  async function addPart(row: number, rows: Bytes): Promise<void> {
    const tile = Math.floor(row / tileRows);
    const height = heightOf(tile, size);
    const part = parts.get(tile) ?? { bytes: new Uint8Array(height * rowBytes), count: 0 };
    parts.set(tile, part);
    const count = rows.byteLength / rowBytes;
    lay(rows, part.bytes, size, { row: row % tileRows, count, height });
    part.count += count;
    if (part.count < height) return;
    parts.delete(tile);
    await write(tile * tileRows * rowBytes, part.bytes.byteLength, (bytes) => bytes.set(part.bytes));
  }

  return async (first, given) => {
    const rows = aligned(given);
    const end = first + rows.byteLength / rowBytes;
    const part = (from: number, to: number) => rows.subarray((from - first) * rowBytes, (to - first) * rowBytes);
    // The rows before the first whole tile, the whole tiles, the rows after them.
    const wholeFirst = Math.min(end, Math.ceil(first / tileRows) * tileRows);
    const wholeEnd = end === size.rows ? end : Math.max(wholeFirst, Math.floor(end / tileRows) * tileRows);
    if (first < wholeFirst) await addPart(first, part(first, wholeFirst));
    if (wholeFirst < wholeEnd) {
      const whole = part(wholeFirst, wholeEnd);
      await write(wholeFirst * rowBytes, whole.byteLength, (bytes) =>
        layTiles(whole, bytes, size, wholeFirst / tileRows),
      );
    }
    if (wholeEnd < end) await addPart(wholeEnd, part(wholeEnd, end));
  };
}

/** The bytes where they may be read as words, of 64 bits at most. */
export function aligned(bytes: Uint8Array): Bytes {
  return bytes.byteOffset % 8 === 0 ? (bytes as Bytes) : bytes.slice();
}
