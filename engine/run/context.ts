/** How many positions a model's cache has, and how many tokens are run at a time. */

import type { KvFormat } from "../../kernels/attention/kv/kv.ts";
import { PhiError } from "../errors.ts";
import type { Architecture } from "../models/architecture.ts";
import type { CheckedWeights } from "../weights/check.ts";
import { cacheRows, contextBuffers } from "./cache.ts";

const defaultContext = 4096;

/** The positions of the cache: what was asked for, if the model has them, or its own up to 4096. */
export function checkContext(asked: number | undefined, { maxPositions }: Architecture): number {
  if (asked === undefined) return Math.min(maxPositions, defaultContext);
  if (!Number.isInteger(asked) || asked < 1 || asked > maxPositions) {
    throw new PhiError(
      "usage",
      `--context: expected an integer from 1 to ${maxPositions} (max_position_embeddings), got ${asked}`,
    );
  }
  return asked;
}

/**
 * Refuses a context whose keys of a layer or rotary table do not fit into a binding, before a buffer is made. Throws a
 * PhiError "machine".
 */
export function checkContextBindings(
  { maxBindingBytes }: { readonly maxBindingBytes: number },
  architecture: Architecture,
  kv: KvFormat,
  { context, chunkTokens }: { readonly context: number; readonly chunkTokens: number },
): void {
  const rows = cacheRows(architecture, context, chunkTokens);
  for (const { what, bytes, positionBytes } of contextBuffers(architecture, kv, rows, context)) {
    if (bytes <= maxBindingBytes) continue;
    const fitting = Math.floor(maxBindingBytes / positionBytes);
    const why = `${what} ${bytes} bytes, and this adapter binds at most ${maxBindingBytes}`;
    throw new PhiError("machine", `--context: expected at most ${fitting} positions, got ${context}: ${why}`);
  }
}

/** Tokens at a time: as many as keep the largest linear well below the time after which systems reset a GPU. */
export function chunkFor(
  device: { readonly isSoftware: boolean },
  weights: CheckedWeights,
  { vocab }: Architecture,
): number {
  let largest = 1;
  for (const ref of weights.declared.values()) {
    // Of the head's matrix a prompt needs the last token's row, of the embedding no product.
    if (ref.kind === "matrix" && ref.rows !== vocab)
      largest = Math.max(largest, 2 * ref.rows * ref.parts * ref.cols * ref.activeShare);
  }
  const perDispatch = device.isSoftware ? 2e9 : 2e11;
  const tokens = 2 ** Math.floor(Math.log2(perDispatch / largest));
  return Math.max(16, Math.min(device.isSoftware ? 128 : 512, tokens));
}
