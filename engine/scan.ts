/** Looks for weights that are not finite, on the GPU, while they are uploaded: no pass over them on the host. */

import { foundBytes, scan } from "../kernels/scan.ts";
import { type PlainLayout, rowBytes } from "../kernels/weights.ts";
import type { Device, DeviceBuffer } from "./device.ts";
import { PhiError } from "./errors.ts";
import { createPipelines } from "./pipelines.ts";
import { type MatrixRef, type RowRange, storedRow, type TensorNeed } from "./weights.ts";

/** An element that is not finite. */
export interface NonFinite {
  readonly need: TensorNeed;
  readonly row: number;
  readonly col: number;
  /** Such elements in all that was scanned. */
  readonly count: number;
}

export interface WeightScan {
  /** Scans a row range that was written, after what was submitted so far. */
  add(ref: MatrixRef, range: RowRange, layout: PlainLayout, buffer: DeviceBuffer): Promise<void>;
  /** The first element that is not finite, in the order of `add`; undefined where all are. */
  first(): Promise<NonFinite | undefined>;
  dispose(): void;
}

/** A binding may begin at multiples of this on every adapter (minStorageBufferOffsetAlignment's default). */
const slotBytes = 256;

/** A scan of at most `ranges` row ranges. */
export function createScan(device: Device, ranges: number): WeightScan {
  const pipelines = createPipelines(device);
  const sizeBytes = Math.max(1, ranges) * slotBytes;
  const found = device.createBuffer("scan", sizeBytes, GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC);
  const scanned: {
    readonly ref: MatrixRef;
    readonly range: RowRange;
    readonly rowElements: number;
    readonly workgroups: number;
  }[] = [];
  return {
    async add(ref, range, layout, buffer) {
      const kernel = scan(layout, buffer.sizeBytes);
      const pipeline = await pipelines.get(kernel);
      const resources: Readonly<Record<string, GPUBufferBinding>> = {
        words: { buffer: buffer.gpu },
        found: { buffer: found.gpu, offset: scanned.length * slotBytes, size: slotBytes },
      };
      const entries = pipeline.bindings.map(({ name, binding }) => {
        const resource = resources[name];
        if (resource === undefined) throw new Error(`${kernel.name}: nothing is bound to "${name}"`);
        return { binding, resource };
      });
      const label = `${ref.key} ${kernel.name}`;
      const encoder = device.createCommandEncoder(label);
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline.gpu);
      pipeline.layouts.forEach((group, index) => {
        pass.setBindGroup(index, device.createBindGroup(label, group, entries));
      });
      const [workgroups] = kernel.grid(1);
      pass.dispatchWorkgroups(workgroups);
      pass.end();
      device.submit(label, [encoder.finish()]);
      const elementBytes = layout === "f32" ? 4 : 2;
      scanned.push({ ref, range, rowElements: rowBytes(layout, ref.cols) / elementBytes, workgroups });
    },
    async first() {
      const staging = device.createBuffer("scan", sizeBytes, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
      try {
        const encoder = device.createCommandEncoder("scan");
        encoder.copyBufferToBuffer(found.gpu, 0, staging.gpu, 0, sizeBytes);
        device.submit("scan", [encoder.finish()]);
        const bytes = await device.readBack(staging, sizeBytes);
        const results = scanned.map((entry, index) => {
          const [count = 0, notFirst = 0, ran = 0] = new Uint32Array(bytes, index * slotBytes, foundBytes / 4);
          if (ran !== entry.workgroups)
            throw new PhiError("gpu", `${entry.ref.key}: the check of its numbers did not run`);
          return { ...entry, count, element: ~notFirst >>> 0 };
        });
        const bad = results.find(({ count }) => count > 0);
        if (bad === undefined) return undefined;
        return { ...locate(bad), count: results.reduce((sum, { count }) => sum + count, 0) };
      } finally {
        staging.dispose();
      }
    },
    dispose: () => found.dispose(),
  };
}

/** The tensor, row and column of an element of a range's packed rows, which lie part after part. */
function locate({
  ref,
  range,
  rowElements,
  element,
}: {
  readonly ref: MatrixRef;
  readonly range: RowRange;
  readonly rowElements: number;
  readonly element: number;
}): Omit<NonFinite, "count"> {
  const packedRow = Math.floor(element / rowElements);
  const part = Math.floor(packedRow / range.rows);
  return { ...storedRow(ref, part, range.firstRow + (packedRow % range.rows)), col: element % rowElements };
}
