/**
 * GPTQ, as AutoGPTQ and GPTQModel write it: for each linear module `qweight` [cols * bits / 32, rows], whose words hold
 * consecutive columns of one row from the lowest bits up, `qzeros` [groups, rows * bits / 32], `scales` [groups, rows]
 * and `g_idx` [cols], the group of each column: weight = scale * (q - zero).
 * v1 (`checkpoint_format` "gptq", or none) stores zero - 1, modulo 2^bits; v2 ("gptq_v2") stores the zero.
 */

import type { Quantization } from "../files/quantization.ts";
import type { MatrixFormat } from "./format.ts";
import { groupedFormat, type IntegerWords, tileRows } from "./grouped.ts";

const words4: IntegerWords = {
  bits: 4,
  wordCols: 8,
  wordRows: 1,
  zeroShift: (row) => 4 * row,
  pack(strip, stride, order, firstRow, rows, out, wordsPerRow) {
    for (let tile = 0; tile < rows; tile += tileRows) {
      const end = Math.min(rows, tile + tileRows);
      for (let word = 0; word < wordsPerRow; word++) {
        const k = (word >> 2) * 32 + (word & 3); // a packed word holds every fourth column of 32
        const [k0 = 0, k1 = 0, k2 = 0, k3 = 0] = [order[k], order[k + 4], order[k + 8], order[k + 12]];
        const [k4 = 0, k5 = 0, k6 = 0, k7 = 0] = [order[k + 16], order[k + 20], order[k + 24], order[k + 28]];
        const a0 = (k0 >>> 3) * stride + firstRow;
        const a1 = (k1 >>> 3) * stride + firstRow;
        const a2 = (k2 >>> 3) * stride + firstRow;
        const a3 = (k3 >>> 3) * stride + firstRow;
        const a4 = (k4 >>> 3) * stride + firstRow;
        const a5 = (k5 >>> 3) * stride + firstRow;
        const a6 = (k6 >>> 3) * stride + firstRow;
        const a7 = (k7 >>> 3) * stride + firstRow;
        const [s0, s1, s2, s3] = [(k0 & 7) * 4, (k1 & 7) * 4, (k2 & 7) * 4, (k3 & 7) * 4];
        const [s4, s5, s6, s7] = [(k4 & 7) * 4, (k5 & 7) * 4, (k6 & 7) * 4, (k7 & 7) * 4];
        for (let row = tile; row < end; row++) {
          out[row * wordsPerRow + word] =
            (((strip[a0 + row] ?? 0) >>> s0) & 15) |
            ((((strip[a1 + row] ?? 0) >>> s1) & 15) << 4) |
            ((((strip[a2 + row] ?? 0) >>> s2) & 15) << 8) |
            ((((strip[a3 + row] ?? 0) >>> s3) & 15) << 12) |
            ((((strip[a4 + row] ?? 0) >>> s4) & 15) << 16) |
            ((((strip[a5 + row] ?? 0) >>> s5) & 15) << 20) |
            ((((strip[a6 + row] ?? 0) >>> s6) & 15) << 24) |
            ((((strip[a7 + row] ?? 0) >>> s7) & 15) << 28);
        }
      }
    }
  },
};

const words8: IntegerWords = {
  bits: 8,
  wordCols: 4,
  wordRows: 1,
  zeroShift: (row) => 8 * row,
  pack(strip, stride, order, firstRow, rows, out, wordsPerRow) {
    for (let tile = 0; tile < rows; tile += tileRows) {
      const end = Math.min(rows, tile + tileRows);
      for (let word = 0; word < wordsPerRow; word++) {
        const k = (word >> 2) * 16 + (word & 3); // a packed word holds every fourth column of 16
        const [k0 = 0, k1 = 0, k2 = 0, k3 = 0] = [order[k], order[k + 4], order[k + 8], order[k + 12]];
        const a0 = (k0 >>> 2) * stride + firstRow;
        const a1 = (k1 >>> 2) * stride + firstRow;
        const a2 = (k2 >>> 2) * stride + firstRow;
        const a3 = (k3 >>> 2) * stride + firstRow;
        const [s0, s1, s2, s3] = [(k0 & 3) * 8, (k1 & 3) * 8, (k2 & 3) * 8, (k3 & 3) * 8];
        for (let row = tile; row < end; row++) {
          out[row * wordsPerRow + word] =
            (((strip[a0 + row] ?? 0) >>> s0) & 255) |
            ((((strip[a1 + row] ?? 0) >>> s1) & 255) << 8) |
            ((((strip[a2 + row] ?? 0) >>> s2) & 255) << 16) |
            ((((strip[a3 + row] ?? 0) >>> s3) & 255) << 24);
        }
      }
    }
  },
};

/** The modules of a GPTQ checkpoint. */
export function gptq(quantization: Quantization): MatrixFormat {
  return groupedFormat(quantization, (bits) => (bits === 4 ? words4 : words8));
}
