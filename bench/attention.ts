/**
 * `attention`: phi-3-small's two kinds of layer, dense and block-sparse, on equal caches: what skipping blocks saves.
 * Outputs are compared with float64 loops before the time counts.
 */

import { seenKeys } from "../engine/check/problems/attention.ts";
import { problemOf } from "../engine/check/problems.ts";
import { Device } from "../engine/gpu/device.ts";
import { createPipelines } from "../engine/gpu/pipelines.ts";
import { tuningFor } from "../engine/graph/sizes.ts";
import { attention } from "../kernels/attention/attention.ts";
import type { KvShape } from "../kernels/attention/kv/kv.ts";
import type { Visible } from "../kernels/attention/visible/visible.ts";
import { openChecked, type Setup } from "./kernels.ts";
import type { Figure } from "./report.ts";

/** The geometry of phi-3-small-8k and -128k. */
const shape: KvShape = { heads: 32, kvHeads: 8, headDim: 128, kv: "f16" };
const blocks = { size: 64, local: 16, stride: 8, headStep: 1 };
const scale = 1 / shape.headDim;
const kinds = { dense: { window: undefined }, "block-sparse": { blocks } } as const satisfies Record<string, Visible>;

export interface AttentionBenchOptions {
  /** Keys that the last query has before and under it. */
  readonly positions: readonly number[];
  /** Tokens of a call; 1 is a step of decode. */
  readonly tokens: readonly number[];
  /** Rounds over both kinds, so that what disturbs one disturbs both. */
  readonly repetitions: number;
  readonly onProgress?: (text: string) => void;
}

/** Milliseconds of one layer's attention, of both kinds, and the sparse one's share of the time and of the keys. */
export async function benchAttention(adapter: GPUAdapter, options: AttentionBenchOptions): Promise<readonly Figure[]> {
  const device = await Device.open(adapter);
  try {
    const setup = { device, pipelines: createPipelines(device) };
    const figures: Figure[] = [];
    for (const positions of options.positions) {
      for (const tokens of options.tokens) {
        if (tokens > positions) continue;
        options.onProgress?.(`${positions} positions, ${tokens} tokens`);
        figures.push(...(await benchCall(setup, { positions, tokens, repetitions: options.repetitions })));
      }
    }
    return figures;
  } finally {
    device.dispose();
  }
}

interface Call {
  readonly positions: number;
  readonly tokens: number;
  readonly repetitions: number;
}

async function benchCall(setup: Setup, { positions, tokens, repetitions }: Call): Promise<readonly Figure[]> {
  const tuning = tuningFor(setup.device);
  const tile = tokens === 1 ? tuning.decodeAttention : tuning.prefillAttention;
  const name = `${positions} positions, ${tokens} ${tokens === 1 ? "token" : "tokens"}`;
  const open = async (kind: keyof typeof kinds) => {
    const bare = attention(shape, scale, kinds[kind], tile);
    const kernel = { ...bare, constants: { ...bare.constants, UNROLL: tuning.unroll ? 1 : 0 } };
    const size = { seq: tokens, past: positions - tokens };
    const problem = problemOf(kernel, size);
    if (problem === undefined) throw new Error(`${kernel.name}: no reference`);
    const { scores } = seenKeys(kernel, problem);
    return {
      scores,
      samples: [] as number[],
      ...(await openChecked(setup, { name: `${name}: ${kind}`, kernel, problem })),
    };
  };
  const [dense, sparse] = [await open("dense"), await open("block-sparse")];
  try {
    for (let i = 0; i < repetitions; i++) {
      for (const { trial, times, samples } of [dense, sparse]) samples.push(1000 * (await trial.run(times)));
    }
    const ratios = sparse.samples.map((ms, i) => (100 * ms) / (dense.samples[i] ?? Number.NaN));
    return [
      { name: `${name}: dense`, unit: "ms", samples: dense.samples },
      { name: `${name}: block-sparse`, unit: "ms", samples: sparse.samples },
      { name: "  time", unit: "% of dense", samples: ratios },
      { name: "  keys that a query sees", unit: "% of dense", samples: [(100 * sparse.scores) / dense.scores] },
    ];
  } finally {
    dense.trial.dispose();
    sparse.trial.dispose();
  }
}
