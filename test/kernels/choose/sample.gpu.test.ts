/**
 * Draws on the GPU against the sampler of the host, which has the same random numbers: every one of them must be the
 * host's, or lie within rounding of it. Draws that follow each other count what they drew, as in a generation.
 */
import { describe, expect, test } from "vitest";
import { canSampleOnGpu, controlOf } from "../../../engine/generation/control.ts";
import { createSampler, philox4x32, type SamplingOptions } from "../../../engine/generation/sampler.ts";
import { sample, stateWords } from "../../../kernels/choose/next.ts";
import type { Kernel } from "../../../kernels/kernel.ts";
import { seededRandom } from "../../reference/compare.ts";
import { broken, kernelSetup, liveBuffers } from "../harness.ts";

interface Draws {
  readonly ids: readonly number[];
  readonly stopped: number;
  readonly notFinite: number;
}

/** Draws up to 64 tokens one after the other, each from the same logits. */
async function drawOnGpu(
  kernel: Kernel,
  logits: Float32Array<ArrayBuffer>,
  options: SamplingOptions,
  { prompt = [], first = 0, count }: { prompt?: readonly number[]; first?: number; count: number },
): Promise<Draws> {
  const { device, pipelines } = await kernelSetup();
  const pipeline = await pipelines.get({ ...kernel, constants: { UNROLL: 0, ...kernel.constants } });
  const seed = BigInt(options.seed ?? 0);
  const control = controlOf({ sampling: options, seed, stopIds: [] }, prompt, logits.length);
  const state = new Uint32Array(stateWords.all);
  state.set([9, 1, 0, 100, 0, first]);
  const { STORAGE, UNIFORM, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const make = (name: string, data: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>) => {
    const buffer = device.createBuffer(
      name,
      data.byteLength,
      (name === "control" ? UNIFORM : STORAGE) | COPY_SRC | COPY_DST,
    );
    device.writeBuffer(buffer, 0, data);
    return buffer;
  };
  const buffers = {
    state: make("state", state),
    control: make("control", control.words),
    ids: make("ids", new Uint32Array(4)),
    logits: make("logits", logits),
    marks: make("marks", control.marks ?? new Uint32Array(4)),
  };
  const given = make("given", logits);
  const back = device.createBuffer("back", state.byteLength, MAP_READ | COPY_DST);
  try {
    const [layout] = pipeline.layouts;
    if (layout === undefined) throw new Error("no layout");
    const group = device.createBindGroup(
      "sample",
      layout,
      pipeline.bindings.map(({ name, binding }) => ({
        binding,
        resource: { buffer: buffers[name as keyof typeof buffers].gpu },
      })),
    );
    const encoder = device.createCommandEncoder("sample");
    for (let n = 0; n < count; n++) {
      encoder.copyBufferToBuffer(given.gpu, 0, buffers.logits.gpu, 0, logits.byteLength);
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline.gpu);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(1);
      pass.end();
    }
    encoder.copyBufferToBuffer(buffers.state.gpu, 0, back.gpu, 0, state.byteLength);
    device.submit("sample", [encoder.finish()]);
    const words = new Uint32Array(await device.readBack(back, state.byteLength));
    const drawn = (words[stateWords.drawn] ?? 0) - first;
    return {
      ids: Array.from({ length: drawn }, (_, i) => words[stateWords.tokens + ((first + i) % stateWords.ring)] ?? -1),
      stopped: words[stateWords.stopped] ?? -1,
      notFinite: words[stateWords.notFinite] ?? -1,
    };
  } finally {
    for (const buffer of [...Object.values(buffers), given, back]) buffer.dispose();
  }
}

/** The drivers' exp was measured within 1e-5 relative, so shares of the sum of weights are within about twice that. */
const rounding = 2e-5;

/** The random number of a draw, as engine/generation/sampler.ts defines it. */
function uniform(seed: number, index: number): number {
  const [word0, word1] = philox4x32([index, 0, 0, 0], [seed, 0]);
  return (word0 + word1 / 2 ** 32) / 2 ** 32;
}

/** Draws and checks each one; gives how often each id was drawn, and what was expected of one draw without penalties. */
async function check(
  kernel: Kernel,
  logits: Float32Array<ArrayBuffer>,
  options: SamplingOptions & { readonly seed: number },
  { prompt = [], batches = 1, count = 64 }: { prompt?: readonly number[]; batches?: number; count?: number } = {},
) {
  expect(canSampleOnGpu(options, logits.length)).toBe(true);
  const sampler = createSampler(options, logits.length);
  const counts = new Float64Array(logits.length);
  const hasHistory = (options.repetitionPenalty ?? options.presencePenalty ?? options.frequencyPenalty) !== undefined;
  let same = 0;
  for (let batch = 0; batch < batches; batch++) {
    const first = batch * count;
    const { ids, stopped } = await drawOnGpu(kernel, logits, options, { prompt, first, count });
    expect([ids.length, stopped]).toEqual([count, 0]);
    const generated: number[] = [];
    // The host draws by the number of new tokens so far, which is `first` more than this batch has.
    const before = Array.from({ length: first }, () => -1);
    let probabilities = sampler.probabilities(logits, { prompt, generated });
    for (const [i, id] of ids.entries()) {
      if (hasHistory && i > 0) probabilities = sampler.probabilities(logits, { prompt, generated: [...generated] });
      if (id === sampler.sample(logits, { prompt, generated: [...before, ...generated] })) same++;
      let low = 0;
      for (let other = 0; other < id; other++) low += probabilities[other] ?? 0;
      const u = uniform(options.seed, first + i);
      const what = `draw ${first + i} of ${JSON.stringify(options)}: id ${id}, u ${u}, its share from ${low}`;
      if (!((probabilities[id] ?? 0) > 0)) throw new Error(`${what}: it is out`);
      if (options.temperature !== 0 && (u < low - rounding || u > low + (probabilities[id] ?? 0) + rounding)) {
        throw new Error(`${what} of ${probabilities[id]}`);
      }
      counts[id] = (counts[id] ?? 0) + 1;
      generated.push(id);
    }
  }
  expect(same / (batches * count)).toBeGreaterThan(0.98);
  return { counts, probabilities: sampler.probabilities(logits, { prompt, generated: [] }) };
}

function randomLogits(seed: number, vocab: number, spread = 8): Float32Array<ArrayBuffer> {
  const random = seededRandom(seed);
  return Float32Array.from({ length: vocab }, () => (random() + random() + random() - 1.5) * spread);
}

const bias = new Map([
  [3, 4],
  [17, -50],
  [40, 2.5],
]);

const chains: readonly SamplingOptions[] = [
  { temperature: 1 },
  { temperature: 0.7, topK: 5 },
  { temperature: 1.3, topP: 0.8 },
  { temperature: 1, minP: 0.05 },
  { temperature: 0.9, topK: 40, topP: 0.9, minP: 0.02 },
  { temperature: 1, repetitionPenalty: 1.3 },
  { temperature: 1, frequencyPenalty: 0.4, presencePenalty: 0.6 },
  { temperature: 0.8, logitBias: bias },
  { temperature: 0.8, topK: 20, topP: 0.95, minP: 0.01, repetitionPenalty: 1.1, presencePenalty: 0.2, logitBias: bias },
  { repetitionPenalty: 1.5, frequencyPenalty: 0.3, logitBias: bias },
  { temperature: 1, topP: 0.9, suppressTokens: [3, 17, 40, 41], badWordsIds: [[5], [50]], repetitionPenalty: 1.2 },
  { suppressTokens: [1, 2, 3, 4, 5, 6, 7, 8, 9] },
];

describe("sample", () => {
  test.each(chains)("%o", async (options) => {
    const prompt = [5, 5, 9, 62];
    for (const [vocab, threads] of [
      [63, 64],
      [1000, 64],
      [1000, 256],
    ] as const) {
      const logits = randomLogits(vocab, vocab);
      await check(sample(threads), logits, { ...options, seed: vocab + threads }, { prompt });
    }
  });

  test("draws follow the exact distribution: chi-square, significance 0.001", async () => {
    const logits = randomLogits(77, 63);
    for (const options of chains.slice(0, 5)) {
      const run = { batches: 16 };
      const { counts, probabilities } = await check(sample(64), logits, { ...options, seed: 5 }, run);
      let statistic = 0;
      let bins = 0;
      let rest = { count: 0, expected: 0 };
      probabilities.forEach((probability, id) => {
        const expected = probability * 1024;
        if (expected < 5) rest = { count: rest.count + (counts[id] ?? 0), expected: rest.expected + expected };
        else {
          statistic += ((counts[id] ?? 0) - expected) ** 2 / expected;
          bins++;
        }
      });
      if (rest.expected > 1) {
        statistic += (rest.count - rest.expected) ** 2 / rest.expected;
        bins++;
      }
      // Wilson and Hilferty's approximation of the quantile 0.999.
      const freedom = bins - 1;
      const limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * Math.sqrt(2 / (9 * freedom))) ** 3;
      expect(statistic, JSON.stringify(options)).toBeLessThan(limit);
    }
  });

  test("a vocabulary of 200,000: every option, few draws", async () => {
    const logits = randomLogits(4, 200_003, 20);
    const kernel = sample(256);
    for (const options of [chains[0], chains[4], { temperature: 30, topP: 0.5 }, { temperature: 1, topK: 150_000 }]) {
      await check(kernel, logits, { ...options, seed: 8 }, { count: 2 });
    }
  });

  test("ties, shares and counts at their ends, temperatures from 1e-30 to 1e30", async () => {
    const kernel = sample(64);
    const tied = new Float32Array(1000).fill(2);
    const zeros = Float32Array.from({ length: 1000 }, (_, i) => (i % 2 === 0 ? -0 : 0));
    const some = Float32Array.from({ length: 1000 }, (_, i) => (i % 7 === 3 ? 5 : i % 3));
    const far = randomLogits(6, 1000).map((value, i) => (i % 2 === 0 ? -3.4028234663852886e38 : value));
    const ends: readonly SamplingOptions[] = [
      { temperature: 1, topK: 10 },
      { temperature: 1, topK: 300 },
      { temperature: 1, topK: 1 },
      { temperature: 1, topK: 1000 },
      { temperature: 1, topK: 99999 },
      { temperature: 1, topP: 0 },
      { temperature: 1, topP: 1e-30 },
      { temperature: 1, topP: 0.1 },
      { temperature: 1, topP: 0.3 },
      { temperature: 1, topK: 10, topP: 0.7 },
      { temperature: 1, topP: 1 },
      { temperature: 1, minP: 1 },
      { temperature: 1, minP: 0 },
      { temperature: 1e-30 },
      { temperature: 1e-37, topP: 0.5 },
      { temperature: 1e30, topK: 500 },
    ];
    for (const options of ends) {
      for (const logits of [tied, zeros, some, far]) await check(kernel, logits, { ...options, seed: 3 }, { count: 8 });
    }
    await check(sample(64), Float32Array.of(-4), { temperature: 1, topP: 0.5, topK: 1, seed: 1 }, { count: 4 });
  });

  test("logits that are not finite stop it and are counted", async () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const logits = randomLogits(2, 1000);
      logits.set([bad, bad], 500);
      for (const options of [{ temperature: 1, topP: 0.9 }, { logitBias: bias }]) {
        const draws = await drawOnGpu(sample(64), logits, options, { count: 2 });
        expect(draws).toEqual({ ids: [], stopped: 1, notFinite: 2 });
      }
    }
  });

  test("options that float32 cannot hold are left to the host", () => {
    const bad: readonly SamplingOptions[] = [
      { logitBias: new Map([[1, 1e30]]) },
      { presencePenalty: -2000 },
      { frequencyPenalty: 1001 },
      { repetitionPenalty: 1e-4 },
      { repetitionPenalty: 1e5 },
      { temperature: 1e-300 },
      { temperature: 1e300 },
    ];
    for (const options of bad) expect(canSampleOnGpu(options, 10)).toBe(false);
    expect(canSampleOnGpu({ temperature: 1 }, 2 ** 24 + 1)).toBe(false);
    // What is forbidden changes from token to token.
    expect(canSampleOnGpu({ badWordsIds: [[1, 2]] }, 10)).toBe(false);
    expect(canSampleOnGpu({ minNewTokens: 2 }, 10, [3])).toBe(false);
    expect(canSampleOnGpu({ minNewTokens: 2, suppressTokens: [1], badWordsIds: [[2]] }, 10)).toBe(true);
    expect(canSampleOnGpu({ suppressTokens: [1], temperature: 1e34 }, 10)).toBe(false);
  });

  test("mistakes are found", async () => {
    const options = { temperature: 1, topK: 20, topP: 0.9, repetitionPenalty: 1.2, seed: 1 };
    for (const [from, to] of [
      ["isLess64(held, goal)", "!isLess64(goal, held)"],
      ["marks[id].said++;", ""],
      [
        "score / control.repetition, score * control.repetition",
        "score * control.repetition, score / control.repetition",
      ],
    ] as const) {
      const kernel = await broken(sample(64), from, to);
      await expect(check(kernel, randomLogits(9, 1000), options, { prompt: [1, 2] }), from).rejects.toThrow();
    }
  });

  test("no buffer is left", async () => expect(await liveBuffers()).toBe(0));
});
