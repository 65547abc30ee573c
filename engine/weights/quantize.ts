/** Float weights become integers on the GPU while they are loaded: which ones, and how they get there. */

import { pieceWords, type QuantizeShape, quantize, type ZeroKind } from "../../kernels/loading/quantize.ts";
import {
  type GroupSize,
  groupSizes,
  matrixWords,
  type Packing,
  type PlainLayout,
  type QuantizedLayout,
} from "../../kernels/weights/weights.ts";
import { PhiError } from "../errors.ts";
import type { Device, DeviceBuffer } from "../gpu/device.ts";
import { bindGroups, createPipelines } from "../gpu/pipelines.ts";
import type { Staging } from "../gpu/staging.ts";
import { Graph } from "../graph/graph.ts";
import { type MatrixRef, Weights } from "../graph/weights.ts";
import type { Architecture } from "../models/architecture.ts";
import type { PackedRows } from "./format.ts";
import type { ScanSlot } from "./scan.ts";

export const weightTypes = ["int4", "int8", "none"] as const;
/** What weights become; "none" leaves them as they are stored. */
export type WeightType = (typeof weightTypes)[number];

export const quantizeSchemes = ["asymmetric", "symmetric", "integer-zeros"] as const;
/**
 * Which zeros a group may have: any float16; the middle of the levels, so that none need be stored; or an integer among
 * the levels, as GPTQ files have them.
 */
export type QuantizeScheme = (typeof quantizeSchemes)[number];

/** How float weights are quantized while they are loaded. What the files hold quantized stays as it is. */
export interface QuantizeOptions {
  /** The linear layers. */
  readonly weights: WeightType;
  /** Head and embedding; default int8 where the linear layers are quantized. */
  readonly head?: WeightType;
  /** Consecutive columns that share a scale and a zero; default 32. */
  readonly groupSize?: GroupSize;
  /** Default asymmetric. */
  readonly scheme?: QuantizeScheme;
}

const layouts = { int4: "q4", int8: "q8" } as const;
const zeroKinds: Readonly<Record<QuantizeScheme, ZeroKind>> = {
  asymmetric: "any",
  symmetric: "middle",
  "integer-zeros": "whole",
};

/** The options with their defaults. */
export type QuantizeDescription = Required<QuantizeOptions>;

/** What becomes of each matrix that the files hold as floats. */
export interface QuantizeTargets {
  readonly description: QuantizeDescription;
  readonly zero: ZeroKind;
  /** undefined: it stays as it is stored. */
  packing(ref: MatrixRef): Packing | undefined;
}

/** Throws a PhiError "usage" for options that do not exist. */
export function quantizeTargets(
  architecture: Architecture,
  options: QuantizeOptions = { weights: "none" },
): QuantizeTargets {
  const { weights, groupSize = 32, scheme = "asymmetric" } = options;
  const head = options.head ?? (weights === "none" ? "none" : "int8");
  refuseUnknown("--quantize", weights, weightTypes);
  refuseUnknown("--quantize-head", head, weightTypes);
  refuseUnknown("--group-size", groupSize, groupSizes);
  refuseUnknown("--quantize-scheme", scheme, quantizeSchemes);
  const vocabulary = vocabularyMatrices(architecture);
  return {
    description: { weights, head, groupSize, scheme },
    zero: zeroKinds[scheme],
    packing(ref) {
      const type = ref.quantizable ? (vocabulary.has(ref.key) ? head : weights) : "none";
      return type === "none" ? undefined : { layout: layouts[type], group: groupSize };
    },
  };
}

function refuseUnknown<Value>(option: string, value: Value, known: readonly Value[]): void {
  if (known.includes(value)) return;
  throw new PhiError("usage", `${option}: expected one of ${known.join(", ")}, got ${JSON.stringify(value)}`);
}

/** Keys of the matrices that have a row for each token: embedding and head, which may be the same. */
function vocabularyMatrices(architecture: Architecture): ReadonlySet<string> {
  const graph = new Graph("decode");
  architecture.forward(graph, new Weights());
  const embeddings = graph.nodes.flatMap((node) => (node.op === "embed" ? [node.weight.key] : []));
  const head = graph.nodes.findLast((node) => node.op === "linear");
  return new Set([...embeddings, ...(head?.op === "linear" ? [head.weight.key] : [])]);
}

/** Where quantized rows go. */
export interface QuantizeJob {
  readonly key: string;
  readonly from: PlainLayout;
  readonly to: QuantizedLayout;
  readonly group: GroupSize;
  readonly zero: ZeroKind;
  /** Of the job's buffers, and how they lie there. */
  readonly rows: number;
  readonly cols: number;
  readonly tileRows?: number;
  readonly weight: DeviceBuffer;
  readonly scales: DeviceBuffer;
  /** Where what cannot be quantized is counted. */
  readonly slot: ScanSlot;
}

export interface Quantizer {
  /** Plain rows become rows firstRow … of the job's buffers, after what was submitted so far. */
  add(job: QuantizeJob, piece: PackedRows, firstRow: number): Promise<void>;
  dispose(): void;
}

/** A quantizer with a buffer for one piece of plain rows: the GPU takes them one after the other. */
export function createQuantizer(device: Device, staging: Staging): Quantizer {
  const pipelines = createPipelines(device);
  const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
  const pieceBuffer = device.createBuffer("quantize piece", 32, usage);
  const matrix = device.createBuffer("quantize rows", 32, usage);
  let plainRows: DeviceBuffer | undefined;

  return {
    async add(job, { rows, weight }, firstRow) {
      if (rows === 0) return;
      const { key, rows: rowsTotal, cols, tileRows = 1, slot } = job;
      if (plainRows === undefined || plainRows.sizeBytes < weight.byteLength) {
        plainRows?.dispose();
        const storage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
        plainRows = device.createBuffer("plain rows", weight.byteLength, storage);
      }
      const shape: QuantizeShape = job;
      const kernel = quantize(shape);
      const pipeline = await pipelines.get(kernel);
      await staging.write(plainRows, 0, weight.byteLength, (bytes) => bytes.set(weight));
      device.writeBuffer(pieceBuffer, 0, pieceWords({ rows, firstRow, rowsTotal, tileRows }));
      device.writeBuffer(matrix, 0, matrixWords({ rows, cols }));
      const resources: Readonly<Record<string, GPUBufferBinding>> = {
        piece: { buffer: pieceBuffer.gpu },
        weight: { buffer: plainRows.gpu },
        matrix: { buffer: matrix.gpu },
        packed: { buffer: job.weight.gpu },
        scales: { buffer: job.scales.gpu },
        found: slot.binding,
      };
      const label = `${key} ${kernel.name}`;
      const encoder = device.createCommandEncoder(label);
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline.gpu);
      bindGroups(device, label, pipeline, (name) => resources[name]).forEach((group, index) => {
        pass.setBindGroup(index, group);
      });
      const [x, y] = kernel.grid(rows);
      pass.dispatchWorkgroups(x, y);
      slot.expect(x * y);
      pass.end();
      device.submit(label, [encoder.finish()]);
    },
    dispose() {
      plainRows?.dispose();
      pieceBuffer.dispose();
      matrix.dispose();
    },
  };
}
