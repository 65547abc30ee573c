/**
 * A kernel as plain data: which WGSL files make its module, with which constants, and how many workgroups it takes.
 * Nothing here knows a GPUDevice; `engine/gpu/pipelines.ts` turns a kernel into a pipeline.
 *
 * A folder holds the kernels of one op, or of ops that go together: their WGSL, what describes it, and their own snippets.
 * What several folders append lies in state.wgsl, lanes/ and weights/. Files that comments name are relative to their own
 * folder or to kernels/.
 */

/** Workgroups in x, y and z. */
export type Grid = readonly [x: number, y: number, z: number];

export interface Kernel {
  /** Unique name of the specialisation, for labels and messages, e.g. `matvec<f16,bias>`. */
  readonly name: string;
  /** The kernel's own file first, then the snippets that are appended to it. */
  readonly files: readonly URL[];
  /** Values of the module's `override` declarations: what the model fixes. */
  readonly constants: Readonly<Record<string, number>>;
  /** Appended as `const NAME = 4u;`: sizes of register tiles, which WGSL does not allow to be overrides. */
  readonly tile: Readonly<Record<string, number>>;
  /** Optional features of WebGPU that the module enables. */
  readonly features?: readonly "subgroups"[];
  /** Workgroups for a call of `seq` tokens. */
  grid(seq: number): Grid;
}

/** Every kernel reads the call's state. */
export const stateSnippet = new URL("./state.wgsl", import.meta.url);

const maxWorkgroups = 65535; // maxComputeWorkgroupsPerDimension, the same on all adapters

/** A grid of `count` workgroups, folded into two dimensions where one is too short (see `workgroupNumber` in state.wgsl). */
export function foldedGrid(count: number): Grid {
  if (count <= maxWorkgroups) return [count, 1, 1];
  const x = Math.ceil(count / Math.ceil(count / maxWorkgroups));
  return [x, Math.ceil(count / x), 1];
}
