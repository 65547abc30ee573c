/**
 * `attention`: phi-3-small's two kinds of layer, dense and block-sparse, on the same cache: what skipping blocks saves.
 * Some outputs are checked against float64 loops before the time counts.
 */
import { Device } from "../engine/device.ts";
import { PhiError } from "../engine/errors.ts";
import { fromHalf } from "../engine/formats/plain.ts";
import { createPipelines } from "../engine/pipelines.ts";
import { tuningFor } from "../engine/tuning.ts";
import { attention, type KvShape, kvHeadBytes, type Visible } from "../kernels/attention.ts";
import { buffer, output, type Runner, read, runnerOf, type Setup, timesOf } from "./kernels.ts";
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
}

async function benchCall(
  setup: Setup,
  { positions, tokens, repetitions }: Call & { readonly repetitions: number },
): Promise<readonly Figure[]> {
  const { device } = setup;
  const tuning = tuningFor(device);
  const past = positions - tokens;
  const q = Float32Array.from({ length: tokens * shape.heads * shape.headDim }, (_, i) => 2 * Math.sin(i * 0.37));
  const cache = (seed: number) =>
    randomHalves(seed, (positions * shape.kvHeads * kvHeadBytes(shape.kv, shape.headDim)) / 4);
  const [k, v] = [cache(1), cache(2)];
  const state = Uint32Array.of(past, tokens, 0, positions, ...new Array<number>(60).fill(0));
  const operands = {
    state: buffer(setup, state, GPUBufferUsage.UNIFORM),
    q: buffer(setup, q),
    keys: buffer(setup, k),
    values: buffer(setup, v),
    o: output(setup, q.byteLength),
  };
  try {
    const runs: { readonly name: string; readonly run: Runner; readonly times: number; readonly samples: number[] }[] =
      [];
    for (const [name, visible] of Object.entries(kinds)) {
      const tile = tokens === 1 ? tuning.decodeAttention : tuning.prefillAttention;
      const kernel = attention(shape, scale, visible, tile);
      const constants = { ...kernel.constants, UNROLL: tuning.unroll ? 1 : 0 };
      const run = await runnerOf(setup, { ...kernel, constants }, tokens, operands);
      const times = await timesOf(run);
      check(await read(setup, operands.o, q.byteLength), { q, k, v }, { positions, tokens }, visible);
      runs.push({ name, run, times, samples: [] });
    }
    for (let i = 0; i < repetitions; i++) {
      for (const { run, times, samples } of runs) samples.push(1000 * (await run(times)));
    }
    const name = `${positions} positions, ${tokens} ${tokens === 1 ? "token" : "tokens"}`;
    const [dense, sparse] = runs;
    const ratios = sparse?.samples.map((ms, i) => (100 * ms) / (dense?.samples[i] ?? Number.NaN)) ?? [];
    return [
      ...runs.map((run) => ({ name: `${name}: ${run.name}`, unit: "ms", samples: run.samples })),
      { name: "  time", unit: "% of dense", samples: ratios },
      { name: "  keys that a query sees", unit: "% of dense", samples: [100 * seenShare({ positions, tokens })] },
    ];
  } finally {
    for (const made of Object.values(operands)) made.dispose();
  }
}

/** Two halves in each word, of sizes from 0.5 to 1 and both signs. */
function randomHalves(seed: number, count: number): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(count);
  let state = seed;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = ((state ^ (state >>> 15)) & 0x83ff83ff) | 0x38003800;
  }
  return words;
}

function sees(visible: Visible, position: number, key: number, head: number): boolean {
  if ("window" in visible) return true;
  const { size, local, stride, headStep } = visible.blocks;
  const [own, block] = [Math.floor(position / size), Math.floor(key / size)];
  return own - block < local || (block + head * headStep + 1) % stride === 0;
}

/** Of the keys up to a query, those that it sees, over all queries and heads. */
function seenShare({ positions, tokens }: Call): number {
  let [seen, all] = [0, 0];
  for (let position = positions - tokens; position < positions; position++) {
    for (let head = 0; head < shape.heads; head++) {
      for (let key = 0; key <= position; key++) seen += sees(kinds["block-sparse"], position, key, head) ? 1 : 0;
      all += position + 1;
    }
  }
  return seen / all;
}

/** Compares the first token's head 1 and the last token's last head with float64 loops. */
function check(
  o: Float32Array,
  { q, k, v }: { readonly q: Float32Array; readonly k: Uint32Array; readonly v: Uint32Array },
  { positions, tokens }: Call,
  visible: Visible,
): void {
  const { heads, kvHeads, headDim } = shape;
  const half = (words: Uint32Array, i: number) => fromHalf(((words[i >> 1] ?? 0) >>> (16 * (i % 2))) & 0xffff);
  for (const [token, head] of [
    [0, 1],
    [tokens - 1, heads - 1],
  ] as const) {
    // biome-ignore format: a list
    const position = positions - tokens + token;
    const query = (token * heads + head) * headDim;
    const row = (key: number) => (Math.floor((head * kvHeads) / heads) * positions + key) * headDim;
    const expected = new Float64Array(headDim);
    let mass = 0;
    for (let key = 0; key <= position; key++) {
      if (!sees(visible, position, key, head)) continue;
      let score = 0;
      for (let d = 0; d < headDim; d++) score += scale * (q[query + d] ?? 0) * half(k, row(key) + d);
      const weight = Math.exp(score); // scores are below 2 in size
      mass += weight;
      for (let d = 0; d < headDim; d++) expected[d] = (expected[d] ?? 0) + weight * half(v, row(key) + d);
    }
    for (let d = 0; d < headDim; d++) {
      const [is, should] = [o[query + d] ?? Number.NaN, (expected[d] ?? 0) / mass];
      // n u of a weighted mean of values below 1, the weights themselves within 1e-5 (exp in WGSL).
      if (!(Math.abs(is - should) <= positions * 2 ** -24 + 2e-5)) {
        throw new PhiError("internal", `token ${token}, head ${head}, ${d}: expected ${should}, got ${is}`);
      }
    }
  }
}
