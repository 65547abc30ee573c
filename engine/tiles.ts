/** Puts the rows of a loaded matrix into tiles (kernels/weights/matrix.wgsl), a piece at a time. */

import { tile } from "../kernels/tile.ts";
import { bindingAlignment, type Device, type DeviceBuffer } from "./device.ts";
import { bindGroups, createPipelines } from "./pipelines.ts";

/** Rows of a matrix in a buffer, one after the other. */
export interface RowBuffer {
  readonly buffer: DeviceBuffer;
  readonly rows: number;
  readonly rowBytes: number;
  /** Bytes of what lies together in a tile: a block, or a group's scale. */
  readonly itemBytes: number;
}

/** The rows as tiles, on the host: `words` of all rows, `itemWords` of an item. */
export function tiled<Words extends Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>>(
  words: Words,
  { rows, itemWords, tileRows }: { readonly rows: number; readonly itemWords: number; readonly tileRows: number },
): Words {
  const rowWords = words.length / rows;
  const out = words.slice() as Words;
  let place = 0;
  for (let first = 0; first < rows; first += tileRows) {
    const last = Math.min(first + tileRows, rows);
    for (let item = 0; item < rowWords; item += itemWords) {
      for (let row = first; row < last; row++) {
        for (let k = 0; k < itemWords; k++) out[place++] = words[row * rowWords + item + k] ?? 0;
      }
    }
  }
  return out;
}

export interface Tiler {
  /** The rows of the buffer (COPY_SRC) become tiles, after what was submitted so far. */
  add(rows: RowBuffer): Promise<void>;
  dispose(): void;
}

/** Bytes that are copied aside at a time, or a tile where that is more. */
const pieceBytes = 4 << 20;

/** Makes tiles of `tileRows` rows; with 1 it has nothing to do. */
export function createTiler(device: Device, tileRows: number): Tiler {
  if (tileRows === 1) return { add: async () => undefined, dispose: () => undefined };
  const pipelines = createPipelines(device);
  const order = device.createBuffer("tile order", 16, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
  let staging: DeviceBuffer | undefined;

  return {
    async add({ buffer, rows, rowBytes, itemBytes }) {
      const items = rowBytes / itemBytes;
      if (items === 1) return;
      const kernel = tile(itemBytes);
      const pipeline = await pipelines.get(kernel);
      const leastRows = Math.max(tileRows, bindingAlignment / 4); // whole tiles, and aligned whatever words a row has
      const pieceRows = Math.min(rows, leastRows * Math.max(1, Math.floor(pieceBytes / (leastRows * rowBytes))));
      if (staging === undefined || staging.sizeBytes < pieceRows * rowBytes) {
        staging?.dispose();
        const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
        staging = device.createBuffer("tile staging", pieceRows * rowBytes, usage);
      }
      device.writeBuffer(order, 0, Uint32Array.of(items, tileRows, 0, 0));
      const label = `${buffer.label} ${kernel.name}`;
      const encoder = device.createCommandEncoder(label);
      for (let row = 0; row < rows; row += pieceRows) {
        const count = Math.min(pieceRows, rows - row);
        const place = { offset: row * rowBytes, size: count * rowBytes };
        const resources: Readonly<Record<string, GPUBufferBinding>> = {
          order: { buffer: order.gpu },
          rows: { buffer: staging.gpu, size: place.size },
          tiles: { buffer: buffer.gpu, ...place },
        };
        encoder.copyBufferToBuffer(buffer.gpu, place.offset, staging.gpu, 0, place.size);
        const pass = encoder.beginComputePass();
        pass.setPipeline(pipeline.gpu);
        bindGroups(device, label, pipeline, (name) => resources[name]).forEach((group, index) => {
          pass.setBindGroup(index, group);
        });
        const [x, y] = kernel.grid(count * items);
        pass.dispatchWorkgroups(x, y);
        pass.end();
      }
      device.submit(label, [encoder.finish()]);
    },
    dispose() {
      staging?.dispose();
      order.dispose();
    },
  };
}
