/** LayerNorm and RMSNorm of rows, a workgroup each, and LayerNorm of heads, a thread each. */

import { foldedGrid, type Kernel, stateSnippet } from "../kernel.ts";

/** Row-wise y [seq, cols] = x / rms(x) * gain. */
export function rmsNorm(eps: number, lanes: number): Kernel {
  return {
    name: "rmsNorm",
    files: [new URL("./rms_norm.wgsl", import.meta.url), stateSnippet],
    constants: { EPS: eps, LANES: lanes },
    tile: {},
    grid: (seq) => foldedGrid(seq),
  };
}

/** Row-wise y [seq, cols] = (x - mean) / deviation * gain + bias. */
export function layerNorm(eps: number, lanes: number): Kernel {
  return {
    name: "layerNorm",
    files: [new URL("./layer_norm.wgsl", import.meta.url), stateSnippet],
    constants: { EPS: eps, LANES: lanes },
    tile: {},
    grid: (seq) => foldedGrid(seq),
  };
}

/** LayerNorm over headDim of each query and key head of qkv [seq, (heads + 2 kvHeads) headDim]; values pass through. */
export function headNorm(heads: number, kvHeads: number, headDim: number, eps: number): Kernel {
  return {
    name: "headNorm",
    files: [new URL("./head_norm.wgsl", import.meta.url), stateSnippet],
    constants: { HEADS: heads, KV_HEADS: kvHeads, HEAD_DIM: headDim, EPS: eps },
    tile: {},
    grid: (seq) => foldedGrid(Math.ceil((seq * (heads + 2 * kvHeads)) / 64)),
  };
}
