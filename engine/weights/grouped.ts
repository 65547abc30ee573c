/**
 * Matrices stored as integers with a scale and a zero for each group of columns, in words that hold several rows or
 * columns: what GPTQ and AWQ have in common. Their words become those of the packed layouts on the host: strips of rows
 * are read, and a typed-array loop gathers the integers of each packed word.
 */

import { type GroupSize, groupSizes, type Packing, rowBytes, scaleRowBytes } from "../../kernels/weights/weights.ts";
import { PhiError, printable } from "../errors.ts";
import type { Quantization } from "../files/quantization.ts";
import type { TensorInfo } from "../files/safetensors.ts";
import type { TensorNeed } from "../graph/weights.ts";
import {
  type MatrixFormat,
  type MatrixSource,
  type Problem,
  pieceBytes,
  type ReadTensor,
  rowsOfPiece,
} from "./format.ts";
import { fromHalf, isPlain, type PlainDType, plainBytes, toFloat32, toHalf } from "./plain.ts";

/** How integers lie in the words of a format. */
export interface IntegerWords {
  readonly bits: 4 | 8;
  /** Columns in a word of `qweight`, 1 where it holds rows. */
  readonly wordCols: number;
  /** Rows in a word of `qweight`, 1 where it holds columns. */
  readonly wordRows: number;
  /** The shift of a row's integer in a word of `qzeros`, which holds 32 / bits rows. */
  zeroShift(row: number): number;
  /**
   * Fills packed words: word w of row r at `out[r * wordsPerRow + w]`. `strip` holds the stored words of a strip of rows,
   * `stride` words for each `wordCols` columns, and a row of zeros after them; `order[k]` is the stored column of packed
   * column k; `firstRow` counts from the strip's first row.
   */
  pack(
    strip: Uint32Array,
    stride: number,
    order: Uint32Array,
    firstRow: number,
    rows: number,
    out: Uint32Array,
    wordsPerRow: number,
  ): void;
}

/** A matrix [storedRows, cols] in the tensors of a module, their shapes checked. */
export interface GroupedMatrix {
  readonly need: TensorNeed;
  readonly words: IntegerWords;
  readonly storedRows: number;
  /** [cols * storedRows / (32 / bits)] words. */
  readonly qweight: TensorInfo;
  /** [groups, storedRows / (32 / bits)] words. */
  readonly qzeros: TensorInfo;
  /** [groups, storedRows], F32, F16 or BF16. */
  readonly scales: TensorInfo;
  readonly gIdx: TensorInfo | undefined;
  readonly groups: number;
  /** The group of each column [cols], below `groups`. */
  readonly groupOf: Uint32Array;
  /** What is added to a stored zero, modulo 2^bits. */
  readonly zeroOffset: 0 | 1;
}

/** The quantized modules of a checkpoint, whose integers lie in the words that `wordsOf` gives for their bits. */
export function groupedFormat(quantization: Quantization, wordsOf: (bits: 4 | 8) => IntegerWords): MatrixFormat {
  return {
    // An embedding's rows are looked up one by one: no tool quantizes it in these formats.
    stores: (tensors, need) => tensors.has(`${moduleOf(need)}.qweight`) && !/embed_tokens/.test(need.name),
    async open(tensors, need, read) {
      const checked = checkModule(tensors, need, quantization, wordsOf);
      if ("problem" in checked) return checked;
      const found = await readGroupIndex(checked, read);
      if ("problem" in found) return found;
      const { groupOf, isIgnored } = found;
      return { ...groupedMatrix({ ...checked, groupOf }), ...(isIgnored && { ignoresGroupIndex: true }) };
    },
  };
}

function moduleOf({ name }: TensorNeed): string {
  return name.replace(/\.weight$/, "");
}

const quantizationAdvice = "Do config.json's sizes and its quantization_config belong to these files?";

type CheckedModule = Omit<GroupedMatrix, "groupOf">;

/** Names, dtypes and shapes of a module's tensors. */
function checkModule(
  tensors: ReadonlyMap<string, TensorInfo>,
  need: TensorNeed,
  quantization: Quantization,
  wordsOf: (bits: 4 | 8) => IntegerWords,
): CheckedModule | Problem {
  const { source, method, descAct } = quantization;
  const module = moduleOf(need);
  const [rows = 0, cols = 0] = need.shape;
  const get = (name: string) => tensors.get(`${module}.${name}`);
  const [qweight, qzeros, scales, gIdx] = [get("qweight"), get("qzeros"), get("scales"), get("g_idx")];
  const where = (tensor: TensorInfo) => `${printable(tensor.file)}: tensor "${printable(tensor.name)}"`;
  const shape = (sizes: readonly number[]) => `[${sizes.join(", ")}]`;
  const problems: string[] = [];
  const expect = (tensor: TensorInfo, dtypes: readonly string[], sizes: readonly number[]) => {
    if (!dtypes.includes(tensor.dtype)) {
      problems.push(`${where(tensor)}: expected ${dtypes.join(" or ")}, got ${tensor.dtype}`);
    } else if (tensor.shape.length !== sizes.length || tensor.shape.some((n, i) => n !== sizes[i])) {
      problems.push(`${where(tensor)}: expected ${shape(sizes)}, got ${shape(tensor.shape)}`);
    }
  };
  const failed = (): Problem => ({ problem: problems.join("; "), advice: quantizationAdvice });

  if (qweight === undefined) throw new Error(`${module} is not quantized`);
  const both = tensors.get(need.name);
  if (both) problems.push(`${where(both)}: expected no such tensor beside "${printable(qweight.name)}", got both`);
  const isMissing = (name: string) =>
    problems.push(`${where(qweight)}: expected a tensor "${printable(`${module}.${name}`)}" beside it, got none`);
  if (qzeros === undefined) isMissing("qzeros");
  if (scales === undefined) isMissing("scales");
  if (gIdx === undefined && descAct) isMissing("g_idx"); // the groups follow another order
  if (gIdx !== undefined && method === "awq") {
    problems.push(`${where(gIdx)}: expected no such tensor in AWQ, whose columns have no order of their own, got one`);
  }
  if (problems.length > 0 || qzeros === undefined || scales === undefined) return failed();

  const bits = quantization.varies ? moduleBits(qweight, cols, quantization) : quantization.bits;
  if (bits === undefined) {
    const sizes = [4, 8].map((n) => (cols * n) / 32).join(" or ");
    const problem = `${where(qweight)}: expected ${sizes} rows (4 or 8 bits), got ${shape(qweight.shape)}`;
    return { problem, advice: quantizationAdvice };
  }
  const words = wordsOf(bits);
  const perWord = 32 / bits;
  const storedRows = need.mayHaveMoreRows ? Math.max(rows, (qweight.shape[1] ?? 0) * words.wordRows) : rows;
  const matrixText = `"${printable(need.name)}" ${shape(need.shape)}`;
  if (storedRows % perWord !== 0) {
    problems.push(`${where(qzeros)}: expected a multiple of ${perWord} rows of ${matrixText}, got ${storedRows}`);
  }
  if (cols % words.wordCols !== 0) {
    problems.push(`${where(qweight)}: expected a multiple of ${words.wordCols} columns of ${matrixText}, got ${cols}`);
  }
  const group = quantization.varies ? cols / (scales.shape[0] ?? 0) : (quantization.groupCols ?? cols);
  if (group > cols || cols % group !== 0 || (group % 32 !== 0 && group !== cols)) {
    const key = source.has("q_group_size") ? "q_group_size" : "group_size";
    const expected = `-1 or a divisor of ${cols}, the columns of ${matrixText}`;
    problems.push(`${printable(source.file)}: "${key}": expected ${expected}, got ${group}`);
  }
  if (problems.length > 0) return failed();

  const groups = cols / group;
  expect(qweight, ["I32"], [cols / words.wordCols, storedRows / words.wordRows]);
  expect(qzeros, ["I32"], [groups, storedRows / perWord]);
  expect(scales, ["F16", "BF16", "F32"], [groups, storedRows]);
  if (gIdx) expect(gIdx, ["I32"], [cols]);
  if (problems.length > 0) return failed();
  const zeroOffset = quantization.zerosLessOne(module) ? 1 : 0;
  return { need, words, storedRows, qweight, qzeros, scales, gIdx, groups, zeroOffset };
}

/** The bits of a module that may differ from the others, by the size of its words. */
function moduleBits(qweight: TensorInfo, cols: number, { method, bits }: Quantization): 4 | 8 | undefined {
  if (method === "awq") return bits;
  const found = ((qweight.shape[0] ?? 0) * 32) / cols;
  return found === 4 || found === 8 ? found : undefined;
}

interface GroupIndex {
  /** The group of each column. */
  readonly groupOf: Uint32Array;
  readonly isIgnored: boolean;
}

/**
 * The group of each column: WebGPU would clamp one that is out of range, and the weights would be wrong silently. Where
 * every column is said to be of the first of several groups, the index was never filled in: the groups lie in order, as
 * without one (turboderp/exllama #44).
 */
async function readGroupIndex({ need, gIdx, groups }: CheckedModule, read: ReadTensor): Promise<GroupIndex | Problem> {
  const cols = need.shape[1] ?? 0;
  const inOrder = () => Uint32Array.from({ length: cols }, (_, k) => Math.floor((k * groups) / cols));
  if (gIdx === undefined) return { groupOf: inOrder(), isIgnored: false };
  const groupOf = new Int32Array(cols);
  await read(gIdx, 0, cols * 4, new Uint8Array(groupOf.buffer));
  if (groups > 1 && groupOf.every((group) => group === 0)) return { groupOf: inOrder(), isIgnored: true };
  const bad = groupOf.findIndex((group) => group < 0 || group >= groups);
  if (bad < 0) return { groupOf: Uint32Array.from(groupOf), isIgnored: false };
  const expected = `a group from 0 to ${groups - 1}`;
  return {
    problem: `${printable(gIdx.file)}: tensor "${printable(gIdx.name)}": expected ${expected}, got ${groupOf[bad]} at [${bad}]`,
    advice: "The file is damaged, or its quantization failed: download it again.",
  };
}

/** Stored words that are held at a time for rows of which each needs all columns. */
const stripBytes = 64 << 20;
/** Rows whose packed words of some columns stay in the first cache. */
export const tileRows = 64;

/** Columns that exist in no tensor: they read the row of zeros after the strip. */
function paddedOrder(columns: Uint32Array, blockCols: number): Uint32Array {
  const order = new Uint32Array(Math.ceil(columns.length / blockCols) * blockCols).fill(columns.length);
  order.set(columns);
  return order;
}

/**
 * The columns sorted by group, each group's in their order, and the largest packed group whose columns are all of one
 * stored group. No such group, as where the stored ones are of different sizes: undefined.
 */
export function groupColumns(
  groupOf: Uint32Array,
): { readonly columns: Uint32Array<ArrayBuffer>; readonly group: GroupSize } | undefined {
  const columns = Uint32Array.from(groupOf.keys());
  if (groupOf.some((group, k) => k > 0 && group < (groupOf[k - 1] ?? 0))) {
    columns.sort((a, b) => (groupOf[a] ?? 0) - (groupOf[b] ?? 0) || a - b);
  }
  const group = groupSizes
    .toReversed()
    .find((size) => columns.every((column, k) => groupOf[column] === groupOf[columns[k - (k % size)] ?? 0]));
  return group === undefined ? undefined : { columns, group };
}

/** The matrix as the engine loads it: in q4 or q8, or as float32 where its groups fit neither or the caller says so. */
export function groupedMatrix(matrix: GroupedMatrix): MatrixSource {
  const { need, words, groupOf } = matrix;
  const [rows = 0, cols = 0] = need.shape;
  const sorted = groupColumns(groupOf);
  const permuted = sorted?.columns.some((column, k) => column !== k) ?? false;
  const packing: Packing =
    sorted === undefined
      ? { layout: "f32" }
      : { layout: words.bits === 4 ? "q4" : "q8", group: sorted.group, ...(permuted && { permuted }) };
  const { qweight, qzeros, scales, gIdx } = matrix;
  const tensors = [qweight, qzeros, scales, ...(gIdx ? [gIdx] : [])];
  return {
    tensors,
    isQuantized: true,
    packing,
    // Rows past those that are used are few.
    storedBytes:
      [qweight, qzeros, scales].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) * (rows / matrix.storedRows),
    async *rows(read, firstRow, count, as) {
      // Stored words may hold eight rows.
      const most = Math.max(8, Math.floor((stripBytes * 8) / (words.bits * cols) / 8) * 8);
      for (let row = firstRow; row < firstRow + count; row += most) {
        const end = Math.min(row + most, firstRow + count);
        yield* stripRows(matrix, sorted?.columns, read, row, end - row, as);
      }
    },
    ...(sorted && { permutation: () => sorted.columns }),
  };
}

async function* stripRows(
  matrix: GroupedMatrix,
  sorted: Uint32Array | undefined,
  read: ReadTensor,
  firstRow: number,
  rows: number,
  as: Packing,
) {
  const { need, words, groupOf } = matrix;
  const cols = need.shape[1] ?? 0;
  const start = Math.floor(firstRow / 8) * 8;
  const stripRows = Math.min(matrix.storedRows, Math.ceil((firstRow + rows) / 8) * 8) - start;
  const groups = await readGroups(matrix, read, start, stripRows);
  const stride = stripRows / words.wordRows;
  const strip = new Uint32Array((cols / words.wordCols + 1) * stride);
  await readStrip(matrix.qweight, read, (start / words.wordRows) * 4, stride * 4, new Uint8Array(strip.buffer));

  const layout = words.bits === 4 ? "q4" : "q8";
  const natural = sorted === undefined || !("group" in as);
  const columns = natural ? Uint32Array.from(groupOf.keys()) : sorted; // sorted columns of no act-order are in order
  const order = paddedOrder(columns, 32);
  const wordsPerRow = rowBytes(layout, cols) / 4;
  const most = rowsOfPiece(natural ? 4 * cols : wordsPerRow * 4);
  for (let done = 0; done < rows; done += most) {
    const count = Math.min(most, rows - done);
    const first = firstRow - start + done;
    const packed = new Uint32Array(count * wordsPerRow);
    words.pack(strip, stride, order, first, count, packed, wordsPerRow);
    if (!("group" in as)) {
      const values = dequantize(packed, groups, groupOf, words.bits, stripRows, first, count);
      yield { rows: count, weight: new Uint8Array(values.buffer) };
    } else {
      const groupsPerRow = scaleRowBytes(as, cols) / 4;
      const scales = new Uint32Array(count * groupsPerRow);
      for (let g = 0; g < groupsPerRow; g++) {
        const from = (groupOf[columns[g * as.group] ?? 0] ?? 0) * stripRows + first;
        for (let row = 0; row < count; row++) scales[row * groupsPerRow + g] = groups[from + row] ?? 0;
      }
      yield { rows: count, weight: new Uint8Array(packed.buffer), scales: new Uint8Array(scales.buffer) };
    }
  }
}

/** Packed words in the columns' own order → float32 [count, cols], padded: a float16 times an integer of 8 bits is exact. */
function dequantize(
  packed: Uint32Array,
  groups: Uint32Array,
  groupOf: Uint32Array,
  bits: 4 | 8,
  stripRows: number,
  first: number,
  count: number,
): Float32Array<ArrayBuffer> {
  const cols = groupOf.length;
  const wordsPerRow = packed.length / count;
  const mask = 2 ** bits - 1;
  const stride = rowBytes("f32", cols) / 4;
  const out = new Float32Array(count * stride);
  const halfValues = Float32Array.from({ length: 1 << 16 }, (_, half) => fromHalf(half));
  for (let k = 0; k < cols; k++) {
    // q4: column 4 v + c of a block is nibble v of its word c; q8: byte v of word c of its half.
    const v = (k & 31) >> 2;
    const word = bits === 4 ? (k >> 5) * 4 + (k & 3) : (k >> 4) * 4 + (k & 3);
    const shift = bits === 4 ? 4 * v : 8 * (v & 3);
    const from = (groupOf[k] ?? 0) * stripRows + first;
    for (let row = 0; row < count; row++) {
      const group = groups[from + row] ?? 0;
      const q = ((packed[row * wordsPerRow + word] ?? 0) >>> shift) & mask;
      out[row * stride + k] = (halfValues[group & 0xffff] ?? 0) * (q - (halfValues[group >>> 16] ?? 0));
    }
  }
  return out;
}

/** A word for each group and row of the strip, [groups, stripRows]: the scale's float16, and the zero's above it. */
async function readGroups(matrix: GroupedMatrix, read: ReadTensor, start: number, rows: number): Promise<Uint32Array> {
  const { words, scales, qzeros, groups, storedRows, zeroOffset } = matrix;
  const { dtype } = scales;
  if (!isPlain(dtype)) throw new Error(`${scales.name} was not checked`);
  const scaleBytes = plainBytes(dtype);
  const stored = new Uint8Array(groups * rows * scaleBytes);
  await readStrip(scales, read, start * scaleBytes, rows * scaleBytes, stored);
  const halves = toHalves(stored, dtype);
  const bad = halves.findIndex((bits) => (bits & 0x7c00) === 0x7c00);
  if (bad >= 0) {
    const [value = 0] = toFloat32(stored.subarray(bad * scaleBytes, (bad + 1) * scaleBytes), dtype);
    refuseScale(scales, [Math.floor(bad / rows), start + (bad % rows)], value);
  }
  const perWord = 32 / words.bits;
  const zeros = new Uint32Array((groups * rows) / perWord);
  await readStrip(qzeros, read, (start / perWord) * 4, (rows / perWord) * 4, new Uint8Array(zeros.buffer));
  const mask = 2 ** words.bits - 1;
  const shifts = Array.from({ length: perWord }, (_, row) => words.zeroShift(row));
  const halfOf = Uint16Array.from({ length: mask + 1 }, (_, zero) => toHalf(zero));
  const out = new Uint32Array(groups * rows);
  for (let word = 0; word < zeros.length; word++) {
    const bits = zeros[word] ?? 0;
    for (let r = 0; r < perWord; r++) {
      const zero = ((bits >>> (shifts[r] ?? 0)) + zeroOffset) & mask;
      out[word * perWord + r] = (halves[word * perWord + r] ?? 0) | ((halfOf[zero] ?? 0) << 16);
    }
  }
  if (storedRows % perWord !== 0) throw new Error(`${qzeros.name} was not checked`);
  return out;
}

function toHalves(bytes: Uint8Array<ArrayBuffer>, dtype: PlainDType): Uint16Array {
  if (dtype === "F16") return new Uint16Array(bytes.buffer);
  return Uint16Array.from(toFloat32(bytes, dtype), toHalf);
}

function refuseScale({ file, name }: TensorInfo, index: readonly number[], value: number): never {
  const where = `${printable(file)}: tensor "${printable(name)}"`;
  const expected = Number.isFinite(value) ? "numbers that a float16 holds" : "finite numbers";
  throw new PhiError("checkpoint", `${where}: expected ${expected}, got ${value} at [${index.join(", ")}]`, [
    "The file is damaged, or its quantization failed.",
  ]);
}

/** Parts of rows that are asked for at the same time: over a network each is an answer to wait for. */
const readAtOnce = 16;

/** Bytes `offset` … of each row of a tensor, one after the other into the start of `out`. */
async function readStrip(
  tensor: TensorInfo,
  read: ReadTensor,
  offset: number,
  length: number,
  out: Uint8Array,
): Promise<void> {
  const rows = tensor.shape[0] ?? 0;
  const rowBytes = tensor.sizeBytes / rows;
  if (length === rowBytes) {
    const rowsAtOnce = Math.max(1, Math.floor(pieceBytes / length));
    for (let row = 0; row < rows; row += rowsAtOnce) {
      const count = Math.min(rowsAtOnce, rows - row);
      await read(tensor, row * rowBytes, count * length, out.subarray(row * length));
    }
    return;
  }
  for (let first = 0; first < rows; first += readAtOnce) {
    const batch = Array.from({ length: Math.min(readAtOnce, rows - first) }, (_, i) => first + i);
    await Promise.all(batch.map((row) => read(tensor, row * rowBytes + offset, length, out.subarray(row * length))));
  }
}
