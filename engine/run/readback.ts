/** What of the slots is read back after a call: copied in the call's own last submit, since the next call overwrites them. */

import type { DeviceBuffer } from "../gpu/device.ts";
import type { Runtime } from "./runtime.ts";

/** The first numbers of a slot. */
export interface SlotPart {
  readonly name: string;
  readonly slot: number;
  readonly floats: number;
}

/** One call's values at a time. `dispose` it. */
export class Readback {
  readonly #runtime: Runtime;
  #staging: DeviceBuffer | undefined;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** Adds the copies to a submit; they lie one after the other in the staging buffer, which grows with the largest call. */
  copy(parts: readonly SlotPart[]): (encoder: GPUCommandEncoder) => void {
    const { device } = this.#runtime;
    const sizeBytes = 4 * parts.reduce((sum, { floats }) => sum + floats, 0);
    if (this.#staging === undefined || this.#staging.sizeBytes < sizeBytes) {
      this.#staging?.dispose();
      this.#staging = device.createBuffer("staging", sizeBytes, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
    }
    const { gpu } = this.#staging;
    return (encoder) => {
      let offsetBytes = 0;
      for (const { slot, floats } of parts) {
        encoder.copyBufferToBuffer(this.#runtime.slot(slot).gpu, 0, gpu, offsetBytes, floats * 4);
        offsetBytes += floats * 4;
      }
    };
  }

  /** The numbers that were copied, by name; `parts` are those of `copy`. Throws the device's PhiError. */
  async read(parts: readonly Omit<SlotPart, "slot">[]): Promise<ReadonlyMap<string, Float32Array>> {
    if (this.#staging === undefined) throw new Error("nothing was copied");
    const total = parts.reduce((sum, { floats }) => sum + floats, 0);
    const all = new Float32Array(await this.#runtime.device.readBack(this.#staging, total * 4));
    let first = 0;
    return new Map(
      parts.map(({ name, floats }) => {
        first += floats;
        return [name, parts.length === 1 ? all : all.slice(first - floats, first)] as const;
      }),
    );
  }

  dispose(): void {
    this.#staging?.dispose();
  }
}
