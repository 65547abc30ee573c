/**
 * AWQ in AutoAWQ's "gemm" packing: for each linear module `qweight` [cols, rows / 8], whose words hold eight rows of one
 * column, `qzeros` [groups, rows / 8] in the same order and `scales` [groups, rows]: weight = scale * (q - zero), with
 * the zero as it is stored. Nibble k of word c, from the lowest bits up, is row 8 c + [0, 2, 4, 6, 1, 3, 5, 7][k].
 */

import type { Quantization } from "../files/quantization.ts";
import type { MatrixFormat } from "./format.ts";
import { groupedFormat, type IntegerWords, tileRows } from "./grouped.ts";

/** The shift of a row's nibble in its word. */
const nibbleShift = (row: number) => 4 * (((row & 1) << 2) + ((row & 7) >> 1));

const words: IntegerWords = {
  bits: 4,
  wordCols: 1,
  wordRows: 8,
  zeroShift: nibbleShift,
  pack(strip, stride, order, firstRow, rows, out, wordsPerRow) {
    for (let tile = 0; tile < rows; tile += tileRows) {
      const end = Math.min(rows, tile + tileRows);
      for (let word = 0; word < wordsPerRow; word++) {
        const k = (word >> 2) * 32 + (word & 3); // a packed word holds every fourth column of 32
        const a0 = (order[k] ?? 0) * stride;
        const a1 = (order[k + 4] ?? 0) * stride;
        const a2 = (order[k + 8] ?? 0) * stride;
        const a3 = (order[k + 12] ?? 0) * stride;
        const a4 = (order[k + 16] ?? 0) * stride;
        const a5 = (order[k + 20] ?? 0) * stride;
        const a6 = (order[k + 24] ?? 0) * stride;
        const a7 = (order[k + 28] ?? 0) * stride;
        for (let row = tile; row < end; row++) {
          const at = (firstRow + row) >> 3;
          const shift = nibbleShift(firstRow + row);
          out[row * wordsPerRow + word] =
            (((strip[a0 + at] ?? 0) >>> shift) & 15) |
            ((((strip[a1 + at] ?? 0) >>> shift) & 15) << 4) |
            ((((strip[a2 + at] ?? 0) >>> shift) & 15) << 8) |
            ((((strip[a3 + at] ?? 0) >>> shift) & 15) << 12) |
            ((((strip[a4 + at] ?? 0) >>> shift) & 15) << 16) |
            ((((strip[a5 + at] ?? 0) >>> shift) & 15) << 20) |
            ((((strip[a6 + at] ?? 0) >>> shift) & 15) << 24) |
            ((((strip[a7 + at] ?? 0) >>> shift) & 15) << 28);
        }
      }
    }
  },
};

/** The modules of an AWQ checkpoint. */
export function awq(quantization: Quantization): MatrixFormat {
  return groupedFormat(quantization, () => words);
}
