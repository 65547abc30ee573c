/** Looks for weights that are not finite, on the GPU, while they are uploaded: no pass over them on the host. */

import { foundBytes, scan } from "../kernels/scan.ts";
import { type PlainLayout, rowBytes } from "../kernels/weights.ts";
import { bindingAlignment, type Device, type DeviceBuffer } from "./device.ts";
import { PhiError } from "./errors.ts";
import { bindGroups, createPipelines } from "./pipelines.ts";
import { type MatrixRef, type RowRange, storedRow, type TensorNeed } from "./weights.ts";

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

/** Where the quantizer counts what it finds in a row range. */
export interface ScanSlot {
  readonly binding: GPUBufferBinding;
  /** States the workgroups of a dispatch that counts there. */
  expect(workgroups: number): void;
}

export interface WeightScan {
  /** Scans a row range that was written, after what was submitted so far. */
  add(ref: MatrixRef, range: RowRange, layout: PlainLayout, buffer: DeviceBuffer): Promise<void>;
  /** A place for the quantizer's own finds in a row range, in the order of its plain rows. */
  slot(ref: MatrixRef, range: RowRange, layout: PlainLayout): ScanSlot;
  /** What was found, the first in the order of `add` and `slot`. */
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
  }[] = [];

  function slot(ref: MatrixRef, range: RowRange, layout: PlainLayout): ScanSlot {
    const binding = { buffer: found.gpu, offset: scanned.length * slotBytes, size: slotBytes };
    const elementBytes = layout === "f32" ? 4 : 2;
    const entry = { ref, range, rowElements: rowBytes(layout, ref.cols) / elementBytes, workgroups: 0 };
    scanned.push(entry);
    return {
      binding,
      expect(workgroups) {
        entry.workgroups += workgroups;
      },
    };
  }

  return {
    slot,
    async add(ref, range, layout, buffer) {
      const { binding: place, expect } = slot(ref, range, layout);
      const kernel = scan(layout, buffer.sizeBytes);
      const pipeline = await pipelines.get(kernel);
      const resources: Readonly<Record<string, GPUBufferBinding>> = {
        words: { buffer: buffer.gpu },
        found: place,
      };
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
      expect(workgroups);
    },
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
            nonFinite: { ...entry, count, element: ~notFirst >>> 0 },
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
