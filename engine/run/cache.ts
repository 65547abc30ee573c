/** The key/value cache and the rotary tables of one model on the GPU. */

import { type KvFormat, kvHeadBytes } from "../../kernels/attention/kv/kv.ts";
import type { Device, DeviceBuffer } from "../gpu/device.ts";
import type { Architecture } from "../models/architecture.ts";
import { type RopeRegime, ropeTable } from "../models/rope.ts";

export interface Cache {
  readonly keys: readonly DeviceBuffer[];
  readonly values: readonly DeviceBuffer[];
  /** Positions that a layer holds; position p lies in row p % rows. */
  readonly rows: number;
  /** Interleaved cos and sin, [context, rotary / 2, 2]. */
  readonly rope: DeviceBuffer;
  /** Writes the rotary table of a regime, if it is not there yet. What is cached under another one is then void. */
  setRegime(regime: RopeRegime): void;
  readonly regime: RopeRegime | undefined;
  dispose(): void;
}

/** Positions that a layer's cache must hold: all of the context, or the window and what one call appends to it. */
export function cacheRows(architecture: Architecture, context: number, chunkTokens: number): number {
  return Math.min(context, (architecture.window ?? context) + chunkTokens);
}

/** Bytes of the keys (or the values) of one layer. */
export function layerCacheBytes({ kvHeads, headDim }: Architecture, kv: KvFormat, rows: number): number {
  return kvHeads * rows * kvHeadBytes(kv, headDim);
}

/** What grows with a context and must fit into a binding; `what` with its verb. */
export function contextBuffers(
  architecture: Architecture,
  kv: KvFormat,
  rows: number,
  context: number,
): readonly { readonly what: string; readonly bytes: number; readonly positionBytes: number }[] {
  const positionBytes = architecture.rope.rotary * 4;
  return [
    {
      what: "the keys of one layer take",
      bytes: layerCacheBytes(architecture, kv, rows),
      positionBytes: layerCacheBytes(architecture, kv, 1),
    },
    { what: "the rotary table takes", bytes: context * positionBytes, positionBytes },
  ];
}

const tablePiece = 4096; // positions of the rotary table that are computed at a time

export function createCache(
  device: Device,
  architecture: Architecture,
  kv: KvFormat,
  rows: number,
  context: number,
): Cache {
  const bytes = layerCacheBytes(architecture, kv, rows);
  const layers = Array.from({ length: architecture.layers }, (_, layer) => layer);
  const keys = layers.map((layer) => device.createBuffer(`layer.${layer}/keys`, bytes, GPUBufferUsage.STORAGE));
  const values = layers.map((layer) => device.createBuffer(`layer.${layer}/values`, bytes, GPUBufferUsage.STORAGE));
  const positionBytes = architecture.rope.rotary * 4;
  const rope = device.createBuffer(
    "rope table",
    context * positionBytes,
    GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST,
  );
  let current: RopeRegime | undefined;
  return {
    rows,
    keys,
    values,
    rope,
    get regime() {
      return current;
    },
    setRegime(regime) {
      if (regime === current) return;
      for (let first = 0; first < context; first += tablePiece) {
        const end = Math.min(context, first + tablePiece);
        device.writeBuffer(rope, first * positionBytes, ropeTable(architecture.rope, regime, first, end));
      }
      current = regime;
    },
    dispose() {
      for (const buffer of [...keys, ...values, rope]) buffer.dispose();
    },
  };
}
