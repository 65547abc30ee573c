/** Looks for weights that are not finite while they are uploaded. */

import { exponents, foundBytes, scan } from "../../kernels/loading/scan.ts";
import { type PlainLayout, rowBytes } from "../../kernels/weights/weights.ts";
import { PhiError } from "../errors.ts";
import { bindingAlignment, type Device, type DeviceBuffer } from "../gpu/device.ts";
import { bindGroups, createPipelines } from "../gpu/pipelines.ts";
import { type MatrixRef, type RowRange, storedRow, type TensorNeed } from "../graph/weights.ts";
import { aligned } from "./tiles.ts";

/** The first of what was found. */
export interface Found {
  readonly need: TensorNeed;
  readonly row: number;
  readonly col: number;
  /** How many there are in all that was scanned. */
  readonly count: number;
}

export interface Finds {
  /** Elements that are NaN or infinite. */
  readonly nonFinite: Found | undefined;
  /** Groups of columns that were to be quantized and are too large for a float16 scale, by their first column. */
  readonly tooLarge: Found | undefined;
}

/** Where what is found in a row range is counted. */
export interface ScanSlot {
  readonly binding: GPUBufferBinding;
  /** States the workgroups of a dispatch that counts there. */
  expect(workgroups: number): void;
  /** Scans packed rows `row` … of the range on the host. */
  look(rows: Uint8Array, row: number): void;
  /** Scans the range on the GPU, where its rows lie one after the other, after what was submitted so far. */
  scan(buffer: DeviceBuffer): Promise<void>;
}

export interface WeightScan {
  /** A place for what is found in a row range, in the order of its plain rows. */
  slot(ref: MatrixRef, range: RowRange, layout: PlainLayout): ScanSlot;
  /** What was found, the first in the order of the slots. */
  finds(): Promise<Finds>;
  dispose(): void;
}

/** A slot's finds take less. */
const slotBytes = bindingAlignment;

/** A scan of at most `ranges` row ranges. */
export function createScan(device: Device, ranges: number): WeightScan {
  const pipelines = createPipelines(device);
  const sizeBytes = Math.max(1, ranges) * slotBytes;
  const found = device.createBuffer("scan", sizeBytes, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC);
  const scanned: {
    readonly ref: MatrixRef;
    readonly range: RowRange;
    readonly rowElements: number;
    workgroups: number;
    /** What was found on the host. */
    count: number;
    element: number;
  }[] = [];

  function slot(ref: MatrixRef, range: RowRange, layout: PlainLayout): ScanSlot {
    const binding = { buffer: found.gpu, offset: scanned.length * slotBytes, size: slotBytes };
    const elementBytes = layout === "f32" ? 4 : 2;
    const rowElements = rowBytes(layout, ref.cols) / elementBytes;
    const entry = { ref, range, rowElements, workgroups: 0, count: 0, element: Number.POSITIVE_INFINITY };
    scanned.push(entry);
    return {
      binding,
      expect(workgroups) {
        entry.workgroups += workgroups;
      },
      look(rows, row) {
        const { count, element } = nonFiniteOf(rows, layout);
        entry.count += count;
        entry.element = Math.min(entry.element, row * rowElements + element);
      },
      async scan(buffer) {
        const kernel = scan(layout, buffer.sizeBytes);
        const pipeline = await pipelines.get(kernel);
        const resources: Readonly<Record<string, GPUBufferBinding>> = { words: { buffer: buffer.gpu }, found: binding };
        const label = `${ref.key} ${kernel.name}`;
        const encoder = device.createCommandEncoder(label);
        const pass = encoder.beginComputePass();
        pass.setPipeline(pipeline.gpu);
        bindGroups(device, label, pipeline, (name) => resources[name]).forEach((group, index) => {
          pass.setBindGroup(index, group);
        });
        const [workgroups] = kernel.grid(1);
        pass.dispatchWorkgroups(workgroups);
        pass.end();
        device.submit(label, [encoder.finish()]);
        entry.workgroups += workgroups;
      },
    };
  }

  return {
    slot,
    async finds() {
      const staging = device.createBuffer("scan", sizeBytes, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
      try {
        const encoder = device.createCommandEncoder("scan");
        encoder.copyBufferToBuffer(found.gpu, 0, staging.gpu, 0, sizeBytes);
        device.submit("scan", [encoder.finish()]);
        const bytes = await device.readBack(staging, sizeBytes);
        const results = scanned.map((entry, index) => {
          const words = new Uint32Array(bytes, index * slotBytes, foundBytes / 4);
          const [count = 0, notFirst = 0, ran = 0, tooLarge = 0, notFirstTooLarge = 0] = words;
          if (ran !== entry.workgroups)
            throw new PhiError("gpu", `${entry.ref.key}: the check of its numbers did not run`);
          return {
            nonFinite: { ...entry, count: entry.count + count, element: Math.min(entry.element, ~notFirst >>> 0) },
            tooLarge: { ...entry, count: tooLarge, element: ~notFirstTooLarge >>> 0 },
          };
        });
        return {
          nonFinite: firstOf(results.map(({ nonFinite }) => nonFinite)),
          tooLarge: firstOf(results.map(({ tooLarge }) => tooLarge)),
        };
      } finally {
        staging.dispose();
      }
    },
    dispose: () => found.dispose(),
  };
}

interface Counted {
  readonly ref: MatrixRef;
  readonly range: RowRange;
  readonly rowElements: number;
  readonly count: number;
  readonly element: number;
}

function firstOf(counted: readonly Counted[]): Found | undefined {
  const first = counted.find(({ count }) => count > 0);
  return first && { ...locate(first), count: counted.reduce((sum, { count }) => sum + count, 0) };
}

/** The tensor, row and column of an element of a range's packed rows, which lie part after part. */
function locate({ ref, range, rowElements, element }: Counted): Omit<Found, "count"> {
  const packedRow = Math.floor(element / rowElements);
  const part = Math.floor(packedRow / range.rows);
  return { ...storedRow(ref, part, range.firstRow + (packedRow % range.rows)), col: element % rowElements };
}

/** How many packed elements are NaN or infinite, and the index of the first, judged as in kernels/loading/scan.wgsl. */
function nonFiniteOf(bytes: Uint8Array, layout: PlainLayout): { readonly count: number; readonly element: number } {
  const { all, lowest, perWord } = exponents[layout];
  const { buffer, byteOffset, byteLength } = aligned(bytes);
  const words = new Uint32Array(buffer, byteOffset, byteLength / 4); // a block is of several
  let [a, b, c, d] = [0, 0, 0, 0];
  for (let i = 0; i + 3 < words.length; i += 4) {
    a |= ((words[i] as number) & all) + lowest;
    b |= ((words[i + 1] as number) & all) + lowest;
    c |= ((words[i + 2] as number) & all) + lowest;
    d |= ((words[i + 3] as number) & all) + lowest;
  }
  const signs = (all << 1) & ~all;
  if (((a | b | c | d) & signs) === 0) return { count: 0, element: Number.POSITIVE_INFINITY };

  const bits = perWord === 1 ? [0x80000000] : [0x8000, 0x80000000];
  let count = 0;
  let element = Number.POSITIVE_INFINITY;
  words.forEach((word, i) => {
    bits.forEach((bit, k) => {
      if ((((word & all) + lowest) & bit) === 0) return;
      count++;
      element = Math.min(element, perWord * i + k);
    });
  });
  return { count, element };
}
