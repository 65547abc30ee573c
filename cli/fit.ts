/** Whether a model fits where it is to run. */
import { freemem, totalmem } from "node:os";
import type { GpuNeeds } from "../engine/index.ts";
import { formatBytes } from "./format.ts";

/** The memory that this process may use: the machine's, or less where a container is given less. */
export function machineMemory(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

/** Whether a model fits an adapter; undefined where nothing stands against it, but its memory is not known. */
export interface Verdict {
  readonly fits: boolean | undefined;
  readonly reason: string;
}

/** A software adapter's memory is this machine's; WebGPU does not tell how much a GPU has. */
export function judge({ adapter, isSoftware, obstacles, totalBytes }: GpuNeeds): Verdict {
  if (adapter === undefined) return { fits: undefined, reason: "there is no adapter here to judge by" };
  const [obstacle] = obstacles;
  if (obstacle !== undefined) return { fits: false, reason: obstacle };
  if (!isSoftware)
    return { fits: undefined, reason: "no limit stands against it; WebGPU does not tell a GPU's memory" };
  const memory = `${formatBytes(freemem())} of ${formatBytes(machineMemory())} are free`;
  if (totalBytes > machineMemory()) return { fits: false, reason: `it computes in this machine's memory: ${memory}` };
  return { fits: true, reason: `it computes in this machine's memory: ${memory}` };
}
