/** `geometry`: a layer of each published model at its real width, with random weights, runs on this adapter. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Config, loadModel, openFolder, PhiError } from "../engine/index.ts";
import type { Figure } from "./report.ts";
import { type SyntheticPreset, writeSynthetic } from "./synthetic.ts";

export interface GeometryOptions {
  readonly preset: SyntheticPreset;
  readonly adapter: GPUAdapter;
  readonly layers: number;
  /** Other values for keys of config.json, such as a smaller `vocab_size`. */
  readonly config?: Config;
  readonly promptTokens: number;
  readonly signal: AbortSignal;
  readonly onProgress: (text: string) => void;
}

/**
 * Writes the checkpoint to a temporary folder, loads it, runs a prompt and one token more, and removes it. The engine
 * itself refuses logits that are not finite; here it is also seen that they are not all the same.
 */
export async function benchGeometry(options: GeometryOptions): Promise<readonly Figure[]> {
  const { preset, adapter, layers, config, promptTokens, signal, onProgress } = options;
  const out = await mkdtemp(join(tmpdir(), "phi-geometry-"));
  try {
    onProgress(`${preset}: writing`);
    const { tensorBytes } = await writeSynthetic({ preset, layers, config, out });
    onProgress(`${preset}: loading ${(tensorBytes / 1e9).toFixed(1)} GB`);
    const began = performance.now();
    const model = await loadModel({ folder: await openFolder(out), adapter, context: 1024, signal });
    const loadMs = performance.now() - began;
    try {
      const ids = Array.from({ length: promptTokens }, (_, i) => (i * 7919) % model.vocabularySize);
      const spread = await logitSpread(model.logits(ids, { signal }));
      const tokens = model.generate(ids, { maxTokens: 2, ignoreEos: true, signal });
      let next = await tokens.next();
      while (!next.done) next = await tokens.next();
      const { prefillMs, decodeMs } = next.value.stats;
      const figure = (name: string, unit: string, value: number): Figure => ({ name, unit, samples: [value] });
      return [
        figure("weights", "MiB", tensorBytes / 2 ** 20),
        figure("load", "s", loadMs / 1000),
        figure(`prefill, ${promptTokens} tokens`, "ms", prefillMs),
        figure("one token", "ms", decodeMs),
        figure("standard deviation of the logits", "", spread),
      ];
    } finally {
      model.dispose();
    }
  } finally {
    await rm(out, { recursive: true, force: true });
  }
}

/** Of the last position. Throws where they are all the same: then something was not computed. */
async function logitSpread(
  rows: AsyncIterable<{ readonly values: Float32Array; readonly rows?: number }>,
): Promise<number> {
  let last = new Float32Array();
  for await (const { values } of rows) last = values.slice();
  // What may never be chosen has the most negative number.
  const finite = last.filter((value) => value > -1e30);
  const mean = finite.reduce((sum, value) => sum + value, 0) / finite.length;
  const spread = Math.sqrt(finite.reduce((sum, value) => sum + (value - mean) ** 2, 0) / finite.length);
  if (spread > 0) return spread;
  throw new PhiError("gpu", `the logits: expected numbers that differ, got a standard deviation of ${spread}`);
}
