/** Random modules as GPTQ and AWQ store them, and their values, in plain loops (../shared/reference/NOTES.md). */

import type { TensorSpec } from "../../engine/files/safetensors.ts";
import { seededRandom } from "./compare.ts";
import { decodeHalf, encodeHalf } from "./ops.ts";

export interface ModuleShape {
  readonly method: "gptq" | "awq";
  readonly bits: 4 | 8;
  readonly rows: number;
  readonly cols: number;
  /** The group of each column. */
  readonly groupOf: readonly number[];
  /** GPTQ v1: zeros are stored less one. */
  readonly zerosLessOne?: boolean;
  /** All zeros are the middle of the range. */
  readonly sym?: boolean;
  readonly noGroupIndex?: boolean;
  readonly scaleDtype?: "F16" | "BF16" | "F32";
}

export type StoredTensor = TensorSpec & { readonly data: Uint8Array<ArrayBuffer> };

export interface RandomModule {
  readonly tensors: readonly StoredTensor[];
  /** scale * (q - zero) [rows, cols]. */
  readonly values: Float64Array;
  /** The integers [rows, cols]. */
  readonly q: Uint8Array;
  readonly zero: (row: number, group: number) => number;
}

/** `group` columns after `group` columns, as without act-order. */
export function evenGroups(cols: number, group: number): number[] {
  return Array.from({ length: cols }, (_, k) => Math.floor(k / group));
}

/** Groups of `group` columns each, in a random order of the columns, as act-order has them. */
export function shuffledGroups(seed: number, cols: number, group: number): number[] {
  const random = seededRandom(seed);
  const groups = evenGroups(cols, group);
  for (let k = cols - 1; k > 0; k--) {
    const other = Math.floor(random() * (k + 1));
    [groups[k], groups[other]] = [groups[other] ?? 0, groups[k] ?? 0];
  }
  return groups;
}

const awqOrder = [0, 2, 4, 6, 1, 3, 5, 7];

/** A module `name` of random integers over their whole range, zeros too, and scales of both signs, some of them 0. */
export function randomModule(name: string, seed: number, shape: ModuleShape): RandomModule {
  const { method, bits, rows, cols, groupOf, zerosLessOne = false, sym = false, scaleDtype = "F16" } = shape;
  const random = seededRandom(seed);
  const levels = 2 ** bits;
  const perWord = 32 / bits;
  const groups = Math.max(...groupOf) + 1;
  const q = Uint8Array.from({ length: rows * cols }, () => Math.floor(random() * levels));
  const zeros = Uint8Array.from({ length: groups * rows }, () => (sym ? levels / 2 : Math.floor(random() * levels)));
  const scaleBits = Uint16Array.from({ length: groups * rows }, (_, i) =>
    encodeHalf(i % 17 === 5 ? 0 : ((random() - 0.4) * 0.5) / levels, scaleDtype === "BF16" ? "bf16" : "f16"),
  );
  const scale = (i: number) => decodeHalf(scaleBits[i] ?? 0, scaleDtype === "BF16" ? "bf16" : "f16");
  const at = (row: number, group: number) => group * rows + row;

  const qweight = new Uint32Array((rows * cols) / perWord);
  const qzeros = new Uint32Array((groups * rows) / perWord);
  const or = (words: Uint32Array, index: number, value: number, shift: number) => {
    words[index] = ((words[index] ?? 0) | (value << shift)) >>> 0;
  };
  const nibble = (row: number) => (method === "awq" ? awqOrder.indexOf(row % 8) : row % perWord) * bits;
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < cols; k++) {
      const value = q[row * cols + k] ?? 0;
      if (method === "awq") or(qweight, k * (rows / 8) + Math.floor(row / 8), value, nibble(row));
      else or(qweight, Math.floor(k / perWord) * rows + row, value, (k % perWord) * bits);
    }
    for (let group = 0; group < groups; group++) {
      const stored = ((zeros[at(row, group)] ?? 0) - (zerosLessOne ? 1 : 0) + levels) % levels;
      or(qzeros, group * (rows / perWord) + Math.floor(row / perWord), stored, nibble(row));
    }
  }
  const values = Float64Array.from({ length: rows * cols }, (_, i) => {
    const index = at(Math.floor(i / cols), groupOf[i % cols] ?? 0);
    return scale(index) * ((q[i] ?? 0) - (zeros[index] ?? 0));
  });
  const qweightShape = method === "awq" ? [cols, rows / 8] : [cols / perWord, rows];
  const scales = scaleDtype === "F32" ? Float32Array.from(scaleBits, (_, i) => scale(i)) : scaleBits;
  const tensors: StoredTensor[] = [
    { name: `${name}.qweight`, dtype: "I32", shape: qweightShape, data: new Uint8Array(qweight.buffer) },
    { name: `${name}.qzeros`, dtype: "I32", shape: [groups, rows / perWord], data: new Uint8Array(qzeros.buffer) },
    { name: `${name}.scales`, dtype: scaleDtype, shape: [groups, rows], data: new Uint8Array(scales.buffer) },
  ];
  if (method === "gptq" && !shape.noGroupIndex) {
    const data = new Uint8Array(Int32Array.from(groupOf).buffer);
    tensors.push({ name: `${name}.g_idx`, dtype: "I32", shape: [cols], data });
  }
  return { tensors, values, q, zero: (row, group) => zeros[at(row, group)] ?? 0 };
}
