/** Host memory that the GPU copies weights from while the next ones are read. */

import type { Device, DeviceBuffer } from "./device.ts";

type Bytes = Uint8Array<ArrayBuffer>;

export interface Staging {
  /**
   * Has `fill` write what becomes `sizeBytes` bytes, a multiple of 4, of a buffer (COPY_DST) from an offset on, before
   * anything that is submitted later. What it is given may hold anything. Waits where the GPU is behind.
   */
  write(to: DeviceBuffer, offsetBytes: number, sizeBytes: number, fill: (bytes: Bytes) => void): Promise<void>;
  dispose(): void;
}

/**
 * A GPU needs one to be filled, one to be copied and one that is mapped again. A software adapter clears a matrix when it
 * is first written, and copies nothing meanwhile: with three, reading and clearing 50 MiB waited for each other, as they
 * did a little with six.
 */
export const stagingParts = 7;

/**
 * Staging of as many buffers as are on their way at a time, each as large as its largest write. `GPUQueue.writeBuffer`
 * would do for a model, but takes fresh memory for each write or, on a software adapter, clears and copies on the thread
 * that reads.
 */
export function createStaging(device: Device): Staging {
  /** Buffers that are copied from or mapped, in the order in which they will be free. */
  const away: Promise<DeviceBuffer>[] = [];
  const buffers = new Set<DeviceBuffer>();

  async function map(buffer: DeviceBuffer): Promise<DeviceBuffer> {
    await device.mapForWriting(buffer);
    return buffer;
  }

  async function mapped(sizeBytes: number): Promise<DeviceBuffer> {
    const oldest = away.length < stagingParts ? undefined : await away.shift();
    if (oldest !== undefined) {
      if (oldest.sizeBytes >= sizeBytes) return oldest;
      oldest.dispose();
      buffers.delete(oldest);
    }
    const buffer = device.createBuffer("staging", sizeBytes, GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC);
    buffers.add(buffer);
    return map(buffer);
  }

  return {
    async write(to, offsetBytes, sizeBytes, fill) {
      if (sizeBytes === 0) return;
      const buffer = await mapped(sizeBytes);
      await device.writeMapped(buffer, (memory) => fill(memory.subarray(0, sizeBytes)));
      const encoder = device.createCommandEncoder("staging");
      encoder.copyBufferToBuffer(buffer.gpu, 0, to.gpu, offsetBytes, sizeBytes);
      device.submit("staging", [encoder.finish()]);
      const again = map(buffer);
      again.catch(() => undefined); // whoever waits for it is told
      away.push(again);
    },
    dispose() {
      for (const buffer of buffers) buffer.dispose();
    },
  };
}
