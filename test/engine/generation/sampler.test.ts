import { describe, expect, test } from "vitest";
import {
  checkSampling,
  createSampler,
  logProbability,
  philox4x32,
  randomSeed,
  type SamplingHistory,
  type SamplingOptions,
} from "../../../engine/generation/sampler.ts";
import { failure } from "../../tempFolder.ts";

const none: SamplingHistory = { prompt: [], generated: [] };

/** Repeatable numbers in [0, 1) that owe nothing to the code under test (mulberry32). */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function randomLogits(size: number, random: () => number, spread = 8): Float32Array {
  return Float32Array.from({ length: size }, () => (random() + random() + random() - 1.5) * spread);
}

const randomIds = (count: number, size: number, random: () => number) =>
  Array.from({ length: count }, () => Math.floor(random() * size));

/**
 * The chain written a second time, as transformers words it: processors over a list of scores, warpers that mask with
 * -Infinity and take a fresh softmax each, top-p from the unlikely end.
 */
function reference(logits: Float32Array, history: SamplingHistory, options: SamplingOptions): number[] {
  const { temperature = 0, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1 } = options;
  const { presencePenalty = 0, frequencyPenalty = 0, logitBias = new Map() } = options;
  const all = new Set([...history.prompt, ...history.generated]);
  let scores = Array.from(logits, (logit, id) => {
    let score = Number.isFinite(logit) ? logit + (logitBias.get(id) ?? 0) : -Infinity;
    if (all.has(id)) score = score > 0 ? score / repetitionPenalty : score * repetitionPenalty;
    const times = history.generated.filter((other) => other === id).length;
    return score - frequencyPenalty * times - (times > 0 ? presencePenalty : 0);
  });
  if (temperature === 0) {
    const winner = scores.indexOf(Math.max(...scores));
    return scores.map((_, id) => (id === winner ? 1 : 0));
  }
  scores = scores.map((score) => score / temperature);
  const upward = () => scores.map((_, id) => id).sort((a, b) => (scores[a] ?? 0) - (scores[b] ?? 0) || b - a);
  const mask = (ids: readonly number[]) => {
    for (const id of ids) scores[id] = -Infinity;
  };
  if (topK > 0) mask(upward().slice(0, Math.max(0, scores.length - topK)));
  if (topP < 1) {
    const probabilities = softmax(scores);
    let below = 0;
    const removed = upward().filter((id) => {
      below += probabilities[id] ?? 0;
      return below <= 1 - topP;
    });
    mask(removed.slice(0, scores.length - 1));
  }
  const probabilities = softmax(scores);
  const largest = probabilities.reduce((a, b) => Math.max(a, b));
  mask(scores.map((_, id) => id).filter((id) => (probabilities[id] ?? 0) < minP * largest));
  return softmax(scores);
}

function softmax(scores: readonly number[]): number[] {
  const largest = scores.reduce((a, b) => Math.max(a, b));
  const exponentials = scores.map((score) => Math.exp(score - largest));
  const sum = exponentials.reduce((a, b) => a + b);
  return exponentials.map((exponential) => exponential / sum);
}

function largestDifference(actual: ArrayLike<number>, expected: readonly number[]): number {
  return expected.reduce((worst, value, at) => Math.max(worst, Math.abs(value - (actual[at] ?? Number.NaN))), 0);
}

describe("options", () => {
  const refused: [options: unknown, message: string][] = [
    [{ temperature: Number.NaN }, "--temperature: expected a finite number >= 0, got NaN"],
    [{ temperature: -1 }, "--temperature: expected a finite number >= 0, got -1"],
    [{ temperature: Infinity }, "--temperature: expected a finite number >= 0, got Infinity"],
    [{ temperature: "hot" }, "--temperature: expected a finite number >= 0, got hot"],
    [{ temperature: "\u001b[2J" }, "--temperature: expected a finite number >= 0, got \\u001b[2J"],
    [{ temperature: null }, "--temperature: expected a finite number >= 0, got null"],
    [{ topK: -1 }, "--top-k: expected a whole number >= 0 (0 is off), got -1"],
    [{ topK: 1.5 }, "--top-k: expected a whole number >= 0 (0 is off), got 1.5"],
    [{ topK: Number.NaN }, "--top-k: expected a whole number >= 0 (0 is off), got NaN"],
    [{ topK: Infinity }, "--top-k: expected a whole number >= 0 (0 is off), got Infinity"],
    [{ topP: 1.1 }, "--top-p: expected a number from 0 to 1, got 1.1"],
    [{ topP: -0.1 }, "--top-p: expected a number from 0 to 1, got -0.1"],
    [{ topP: Number.NaN }, "--top-p: expected a number from 0 to 1, got NaN"],
    [{ minP: 2 }, "--min-p: expected a number from 0 to 1, got 2"],
    [{ minP: Number.NaN }, "--min-p: expected a number from 0 to 1, got NaN"],
    [{ repetitionPenalty: 0 }, "--repeat-penalty: expected a finite number > 0, got 0"],
    [{ repetitionPenalty: -1 }, "--repeat-penalty: expected a finite number > 0, got -1"],
    [{ repetitionPenalty: Infinity }, "--repeat-penalty: expected a finite number > 0, got Infinity"],
    [{ presencePenalty: Number.NaN }, "--presence-penalty: expected a finite number, got NaN"],
    [{ frequencyPenalty: -Infinity }, "--frequency-penalty: expected a finite number, got -Infinity"],
    [{ logitBias: new Map([[50, 1]]) }, "--logit-bias: expected token ids from 0 to 49, got 50"],
    [{ logitBias: new Map([[-1, 1]]) }, "--logit-bias: expected token ids from 0 to 49, got -1"],
    [{ logitBias: new Map([[1.5, 1]]) }, "--logit-bias: expected token ids from 0 to 49, got 1.5"],
    [{ logitBias: new Map([[7, Number.NaN]]) }, "--logit-bias: expected a finite number for token 7, got NaN"],
    [{ logitBias: new Map([[7, Infinity]]) }, "--logit-bias: expected a finite number for token 7, got Infinity"],
    [{ logitBias: new Map([[7, undefined]]) }, "--logit-bias: expected a finite number for token 7, got null"],
    ...[-1, -1n, 2n ** 64n, 2 ** 53, 1.5, "abc", Number.NaN].map((seed): [unknown, string] => [
      { seed },
      `--seed: expected a whole number from 0 to 2^64 - 1 (above 2^53 - 1 as a bigint), got ${seed}`,
    ]),
  ];
  test.each(refused)("%o is refused", async (options, message) => {
    const error = await failure(() => checkSampling(options as SamplingOptions, 50), "usage");
    expect(error.message).toBe(message);
    await failure(() => createSampler(options as SamplingOptions, 50), "usage");
  });

  const accepted: SamplingOptions[] = [
    {},
    { temperature: 0 },
    { temperature: 1e-30 },
    { temperature: 1e30 },
    { topK: 0 },
    { topK: 1_000_000 },
    { topP: 0 },
    { topP: 1 },
    { minP: 0 },
    { minP: 1 },
    { repetitionPenalty: 0.5 },
    { presencePenalty: -2, frequencyPenalty: 100 },
    {
      logitBias: new Map([
        [0, -100],
        [49, 100],
      ]),
    },
    { seed: 0 },
    { seed: 2n ** 64n - 1n },
  ];
  test.each(accepted)("%o is accepted, and gives a probable token", (options) => {
    const logits = randomLogits(50, randomNumbers(1));
    const sampler = createSampler(options, 50);
    const id = sampler.sample(logits, { prompt: [1], generated: [2, 2] });
    expect(sampler.probabilities(logits, { prompt: [1], generated: [2, 2] })[id]).toBeGreaterThan(0);
  });
});

describe("random numbers", () => {
  // Random123 1.14, tests/kat_vectors, the lines "philox4x32 10".
  const knownAnswers = [
    "00000000 00000000 00000000 00000000  00000000 00000000  6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff  ffffffff ffffffff  408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344  a4093822 299f31d0  d16cfe09 94fdcceb 5001e420 24126ea1",
  ];
  test.each(knownAnswers)("Philox4x32-10: %s", (line) => {
    const [c0 = 0, c1 = 0, c2 = 0, c3 = 0, k0 = 0, k1 = 0, ...answer] = line
      .split(/ +/)
      .map((word) => Number.parseInt(word, 16));
    expect(philox4x32([c0, c1, c2, c3], [k0, k1])).toEqual(answer);
  });

  test("the key is the seed, the counter the index of the token, the first word leads", () => {
    const even = new Float32Array(256);
    for (const seed of [0n, 5n, 0x1234_5678_9abc_def0n, 2n ** 64n - 1n]) {
      const sampler = createSampler({ temperature: 1, seed }, 256);
      const key = [Number(seed % 2n ** 32n), Number(seed / 2n ** 32n)] as const;
      const generated: number[] = [];
      for (let index = 0; index < 300; index++) {
        const [word] = philox4x32([index, 0, 0, 0], key);
        const id = sampler.sample(even, { prompt: [], generated });
        expect(id).toBe(word >>> 24);
        generated.push(id);
      }
    }
  });

  function run(options: SamplingOptions): number[] {
    const random = randomNumbers(2);
    const sampler = createSampler(options, 50);
    const generated: number[] = [];
    while (generated.length < 100) {
      generated.push(sampler.sample(randomLogits(50, random, 2), { prompt: [], generated }));
    }
    return generated;
  }
  test("the same seed draws the same, others do not", () => {
    const options = { temperature: 1, topP: 0.95, frequencyPenalty: 0.1 };
    const first = run({ ...options, seed: 7 });
    expect(run({ ...options, seed: 7n })).toEqual(first);
    for (const seed of [8n, 7n + 2n ** 32n]) {
      const agreeing = run({ ...options, seed }).filter((id, at) => id === first[at]).length;
      expect(agreeing).toBeLessThan(50);
    }
  });

  test("a seed that was chosen is told, and repeats the run", () => {
    const sampler = createSampler({ temperature: 1 }, 50);
    const again = createSampler({ temperature: 1, seed: sampler.seed ?? 0n }, 50);
    const even = new Float32Array(50);
    const draws = (of: typeof sampler) =>
      Array.from({ length: 50 }, (_, length) => of.sample(even, { prompt: [], generated: Array(length).fill(0) }));
    expect(draws(sampler)).toEqual(draws(again));
    expect(createSampler({ temperature: 1 }, 50).seed).not.toBe(sampler.seed);
    expect(createSampler({}, 50).seed).toBeUndefined();
    expect(createSampler({ seed: 3 }, 50).seed).toBe(3n);
  });

  test("a random seed is exact as a number and uses its 53 bits", () => {
    const seeds = Array.from({ length: 200 }, randomSeed);
    for (const seed of seeds) expect(BigInt(Number(seed))).toBe(seed);
    expect(new Set(seeds).size).toBe(200);
    expect(seeds.reduce((a, b) => a | b)).toBe(2n ** 53n - 1n);
  });
});

describe("the distribution", () => {
  test("equals the chain in plain float64, over 3,000 random settings", () => {
    const random = randomNumbers(3);
    const pick = <T>(...choices: readonly T[]) => choices[Math.floor(random() * choices.length)];
    let worst = 0;
    let masked = 0;
    for (let trial = 0; trial < 3000; trial++) {
      const size = 1 + Math.floor(random() * 120);
      const logits = randomLogits(size, random, pick(1, 8, 40));
      // Ties, and ids that are out.
      if (random() < 0.3) for (const at of logits.keys()) logits[at] = Math.round((logits[at] ?? 0) * 2) / 2;
      if (random() < 0.2) for (let id = 1; id < size; id += 3) logits[id] = pick(-Infinity, Number.NaN, Infinity) ?? 0;
      const bias = new Map(randomIds(3, size, random).map((id) => [id, (random() - 0.5) * 10]));
      const options: SamplingOptions = {
        temperature: pick(0, 0.2, 0.7, 1, 1.5, 10) ?? 0,
        topK: pick(0, 0, 1, 2, 5, 40, 1000) ?? 0,
        topP: pick(1, 1, 0, random(), random()) ?? 1,
        minP: pick(0, 0, random() * 0.3, 1) ?? 0,
        repetitionPenalty: pick(1, 1.3, 0.8) ?? 1,
        presencePenalty: pick(0, 0.7, -0.7) ?? 0,
        frequencyPenalty: pick(0, 0.3, -0.3) ?? 0,
        ...(random() < 0.5 && { logitBias: bias }),
      };
      const history = { prompt: randomIds(10, size, random), generated: randomIds(10, size, random) };
      const expected = reference(logits, history, options);
      worst = Math.max(worst, largestDifference(createSampler(options, size).probabilities(logits, history), expected));
      if (expected.includes(0)) masked++;
    }
    expect(worst).toBeLessThan(1e-11);
    expect(masked).toBeGreaterThan(1000);
  });

  const size = 200_064;
  const shapes: [name: string, logit: (id: number) => number][] = [
    ["falling", (id) => -id],
    ["a ridge", (id) => Math.min(id, size - id)],
    ["a valley", (id) => -Math.min(id, size - id)],
    ["all equal", () => 1],
    ["few values", (id) => (id % 1000) * 10],
    ["one far above", (id) => (id === 5 ? 1e34 : id)],
    ["one far below", (id) => (id === 5 ? -1e34 : id % 5000)],
    ["each half of the one before", (id) => 4e4 * 2 ** -(id % 300)],
  ];
  test.each(shapes)("a vocabulary of 200,064, %s", (_, logit) => {
    const logits = Float32Array.from({ length: size }, (_, id) => logit(id) * 1e-4);
    for (const options of [
      { temperature: 1, topK: 50 },
      { temperature: 1, topP: 0.9 },
      { temperature: 0.5, topK: 150_000, topP: 0.3, minP: 0.01 },
    ]) {
      const sampler = createSampler(options, size);
      const expected = reference(logits, none, options);
      const actual = sampler.probabilities(logits, none);
      // Where sums of so many are rounded, the share may end one token later or earlier: the least likely one.
      const keptDifference = count(actual) - count(expected);
      const leastLikely = expected.reduce((least, value) => (value > 0 ? Math.min(least, value) : least), 1);
      expect(Math.abs(keptDifference)).toBeLessThanOrEqual("topP" in options ? 1 : 0);
      expect(largestDifference(actual, expected)).toBeLessThan(keptDifference === 0 ? 1e-11 : 1.001 * leastLikely);
    }
  });
  const count = (probabilities: Iterable<number>) => [...probabilities].filter((value) => value > 0).length;

  test("temperatures near 0 and towards infinity give no NaN", () => {
    const logits = Float32Array.of(-3, 2, 1, 2, -1e38);
    for (const temperature of [5e-324, 1e-300, 1e-30]) {
      expect([...createSampler({ temperature }, 5).probabilities(logits, none)]).toEqual([0, 0.5, 0, 0.5, 0]);
    }
    for (const temperature of [1e60, Number.MAX_VALUE]) {
      expect([...createSampler({ temperature }, 5).probabilities(logits, none)]).toEqual(Array(5).fill(0.2));
    }
    const [first] = createSampler({ temperature: 1e30, topP: 0.9, minP: 0.1 }, 5).probabilities(logits, none);
    expect(first).toBe(0.25);
  });

  test("penalties and biases of absurd size give no NaN", () => {
    const logits = Float32Array.of(-3, 2, 1, 3);
    const history = { prompt: [0, 1], generated: [1, 1, 2] };
    const huge = [1e-320, 1e-300, 1e300, Number.MAX_VALUE];
    for (const value of huge) {
      for (const sign of [1, -1]) {
        const options: SamplingOptions = {
          temperature: 1,
          topP: 0.9,
          repetitionPenalty: value,
          frequencyPenalty: sign * value,
          presencePenalty: -sign * value,
          logitBias: new Map([
            [0, sign * value],
            [3, -sign * value],
          ]),
        };
        const sampler = createSampler(options, 4);
        expect([...sampler.probabilities(logits, history)].reduce((a, b) => a + b)).toBeCloseTo(1, 12);
        expect([0, 1, 2, 3]).toContain(sampler.sample(logits, history));
      }
    }
  });

  test("presence and frequency count new tokens, repetition the prompt too", () => {
    const logits = Float32Array.of(2, 2, 2);
    const history = { prompt: [0], generated: [1, 1] };
    const odds = (options: SamplingOptions) => {
      const [a = 0, b = 0, c = 0] = createSampler({ temperature: 1, ...options }, 3).probabilities(logits, history);
      return [Math.log(a / c), Math.log(b / c)];
    };
    const expectOdds = (options: SamplingOptions, expected: readonly number[]) =>
      expect(largestDifference(odds(options), expected)).toBeLessThan(1e-14);
    expectOdds({ presencePenalty: 0.5 }, [0, -0.5]);
    expectOdds({ frequencyPenalty: 0.5 }, [0, -1]);
    expectOdds({ repetitionPenalty: 2 }, [-1, -1]);
    expectOdds({ repetitionPenalty: 2, presencePenalty: 0.5, frequencyPenalty: 0.5 }, [-1, -2.5]);
  });

  test("counts follow a history that grows, is copied, cut back or replaced", () => {
    const random = randomNumbers(4);
    const options = { temperature: 1, repetitionPenalty: 1.2, presencePenalty: 0.4, frequencyPenalty: 0.3 };
    const sampler = createSampler(options, 12);
    const logits = randomLogits(12, random);
    const prompt = randomIds(3, 12, random);
    let history = { prompt, generated: randomIds(2, 12, random) };
    const check = () =>
      expect(
        largestDifference(sampler.probabilities(logits, history), reference(logits, history, options)),
      ).toBeLessThan(1e-13);
    for (let step = 0; step < 20; step++) {
      check();
      history.generated.push(...randomIds(1, 12, random));
    }
    history = { prompt, generated: [...history.generated] };
    check();
    history.generated.length = 4;
    check();
    history.generated[3] = ((history.generated[3] ?? 0) + 1) % 12;
    history.generated.push(5);
    check();
    prompt.push(...randomIds(4, 12, random));
    check();
    history = { prompt: [1, 2], generated: history.generated };
    check();
    history = { prompt: [], generated: [] };
    check();
  });
});

describe("greedy", () => {
  const logits = Float32Array.of(1, 5, 3, 5, Number.NaN, Infinity, 9);
  const greedy: SamplingOptions[] = [
    {},
    { temperature: 0, topK: 3 },
    { temperature: 1, topK: 1 },
    { temperature: 1, topP: 0 },
  ];
  test.each(greedy)("%o: ties to the lowest id, never an id that is not finite or is padding", (options) => {
    const sampler = createSampler(options, 6);
    for (let index = 0; index < 50; index++) {
      expect(sampler.sample(logits, { prompt: [], generated: Array(index).fill(0) })).toBe(1);
    }
    expect([...sampler.probabilities(logits, none)]).toEqual([0, 1, 0, 0, 0, 0]);
  });

  test("follows bias and penalties", () => {
    const pick = (options: SamplingOptions) => createSampler(options, 6).sample(logits, { prompt: [], generated: [1] });
    expect(pick({ logitBias: new Map([[2, 2.5]]) })).toBe(2);
    expect(pick({ logitBias: new Map([[5, 100]]) })).toBe(1);
    expect(pick({ presencePenalty: 0.1 })).toBe(3);
  });

  const kinds: [options: SamplingOptions, isGreedy: boolean][] = [
    [{}, true],
    [{ temperature: 0, topK: 5, topP: 0.5, minP: 0.1, seed: 1 }, true],
    [{ repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, logitBias: new Map([[1, 0]]) }, true],
    [{ temperature: 1e-30 }, false],
    [{ repetitionPenalty: 1.1 }, false],
    [{ presencePenalty: 0.1 }, false],
    [{ frequencyPenalty: 0.1 }, false],
    [{ logitBias: new Map([[1, 1]]) }, false],
  ];
  test.each(kinds)("%o is plain argmax: %s", (options, isGreedy) => {
    expect(createSampler(options, 6).isGreedy).toBe(isGreedy);
  });

  test("no finite logit is the GPU's failure, too few are ours", async () => {
    const bad = Float32Array.of(Number.NaN, -Infinity, Infinity, 1);
    for (const options of [{}, { temperature: 1 }, { temperature: 1, topK: 2, logitBias: new Map([[1, 5]]) }]) {
      const error = await failure(() => createSampler(options, 3).sample(bad, none), "gpu");
      expect(error.message).toBe("the logits: expected a finite number among 3, got none");
    }
    expect(() => createSampler({}, 5).sample(bad, none)).toThrow(new RangeError("expected at least 5 logits, got 4"));
  });
});

describe("what must not come", () => {
  const logits = Float32Array.of(5, 4, 3, 2, 1, 0);
  const pick = (
    options: SamplingOptions,
    generated: readonly number[] = [],
    ends: readonly number[] = [],
    prompt = [9],
  ) => createSampler(options, 6, ends).sample(logits, { prompt, generated });

  test("suppressed ids, those past the vocabulary too", () => {
    expect(pick({ suppressTokens: [0, 1, 6, 99] })).toBe(2);
  });

  test("a bad word of one id never, of several after the others: over prompt and new tokens", () => {
    expect(pick({ badWordsIds: [[0]] })).toBe(1);
    expect(pick({ badWordsIds: [[3, 0]] })).toBe(0);
    expect(pick({ badWordsIds: [[3, 0]] }, [3])).toBe(1);
    expect(pick({ badWordsIds: [[2, 3, 0], [3, 1]] }, [3], [], [2])).toBe(2); // biome-ignore format: short
    expect(pick({ badWordsIds: [[2, 3, 0]] }, [3], [], [4])).toBe(0);
    expect(pick({ badWordsIds: [[1, 2, 3, 0]] }, [3], [], [2])).toBe(0); // longer than the sequence
    // As in transformers an end is no bad word by itself.
    expect(pick({ badWordsIds: [[0]] }, [], [0])).toBe(0);
    expect(pick({ badWordsIds: [[0], [3, 0]] }, [3], [0])).toBe(1);
  });

  test("no end before so many new tokens, or so many in all", () => {
    expect([0, 1, 2, 3].map((n) => pick({ minNewTokens: 2 }, new Array<number>(n).fill(5), [0, 1]))).toEqual([
      2, 2, 0, 0,
    ]);
    expect([0, 1, 2].map((n) => pick({ minLength: 3 }, new Array<number>(n).fill(5), [0], [9, 9]))).toEqual([1, 0, 0]);
    expect(pick({ minLength: 9, minNewTokens: 0 }, [], [0])).toBe(0);
  });

  test("they come after the penalties, and leave other probabilities in proportion", () => {
    const options = { temperature: 1, suppressTokens: [0], logitBias: new Map([[0, 100]]), seed: 1 };
    const found = createSampler(options, 6).probabilities(logits, { prompt: [], generated: [] });
    expect(found[0]).toBe(0);
    expect((found[1] ?? 0) / (found[2] ?? 0)).toBeCloseTo(Math.E, 6);
    expect(createSampler({ suppressTokens: [0] }, 6).isGreedy).toBe(false);
    expect(createSampler({ minNewTokens: 3 }, 6).isGreedy).toBe(true); // nothing ends the text
  });

  test("where nothing is left the options are at fault", async () => {
    const all = [0, 1, 2, 3, 4, 5];
    await failure(() => createSampler({ suppressTokens: all }, 6), "usage");
    await failure(() => pick({ suppressTokens: all.slice(1), minNewTokens: 2 }, [], [0]), "usage");
    for (const bad of [
      { suppressTokens: [-1] },
      { badWordsIds: [[]] },
      { badWordsIds: [[1.5]] },
      { minNewTokens: -1 },
    ]) {
      await failure(() => createSampler(bad, 6), "usage");
    }
  });
});

describe("draws follow the exact distribution (chi-square, 50,000 draws, significance 0.001)", () => {
  // The seeds are fixed, so each case passes or fails for good. A right sampler has one chance in a thousand of failing
  // a case at its first run; a wrong one of the last test's size is caught.
  const draws = 50_000;
  const size = 50;
  const logits = randomLogits(size, randomNumbers(5), 3);
  const history = { prompt: [3, 4, 5, 6, 7, 8, 9, 10], generated: [8, 9, 9, 20, 21, 21, 21, 22] };

  /** Pearson's statistic over its critical value, with bins expected below 5 taken together; above 1 is a rejection. */
  function chiSquare(counts: readonly number[], probabilities: readonly number[]): number {
    let statistic = 0;
    let bins = 0;
    let rareExpected = 0;
    let rareCount = 0;
    for (const [id, probability] of probabilities.entries()) {
      const drawn = counts[id] ?? 0;
      if (probability === 0 && drawn > 0) return Infinity;
      if (probability * draws < 5) {
        rareExpected += probability * draws;
        rareCount += drawn;
        continue;
      }
      statistic += (drawn - probability * draws) ** 2 / (probability * draws);
      bins++;
    }
    if (rareExpected > 0) {
      statistic += (rareCount - rareExpected) ** 2 / rareExpected;
      bins++;
    }
    // The 0.999 quantile after Wilson and Hilferty (1931): 3.0902 is the normal distribution's.
    const freedom = bins - 1;
    return statistic / (freedom * (1 - 2 / (9 * freedom) + 3.0902 * Math.sqrt(2 / (9 * freedom))) ** 3);
  }

  /** Draws at one position, each with a seed of its own. */
  function drawWithSeeds(options: SamplingOptions): number[] {
    const counts = Array<number>(size).fill(0);
    for (let seed = 0; seed < draws; seed++) {
      const id = createSampler({ ...options, seed: BigInt(seed) * 0x1_0000_0001n }, size).sample(logits, history);
      counts[id] = (counts[id] ?? 0) + 1;
    }
    return counts;
  }

  const options: SamplingOptions[] = [
    { temperature: 1 },
    { temperature: 0.6 },
    { temperature: 2.5 },
    { temperature: 1, topK: 7 },
    { temperature: 1, topP: 0.8 },
    { temperature: 1, minP: 0.1 },
    { temperature: 1, repetitionPenalty: 1.5 },
    { temperature: 1, presencePenalty: 1.2 },
    { temperature: 1, frequencyPenalty: 0.8 },
    {
      temperature: 1,
      logitBias: new Map([
        [0, 2.5],
        [30, -100],
      ]),
    },
    { temperature: 1.4, topK: 20, topP: 0.9 },
    { temperature: 1.4, topK: 20, minP: 0.05 },
    { temperature: 0.8, topP: 0.95, minP: 0.02 },
    { temperature: 1.2, repetitionPenalty: 1.3, presencePenalty: 0.5, frequencyPenalty: 0.4 },
    { temperature: 1.5, topK: 25, topP: 0.92, repetitionPenalty: 1.2 },
    {
      temperature: 1.5,
      topK: 30,
      topP: 0.95,
      minP: 0.04,
      repetitionPenalty: 1.2,
      presencePenalty: 0.3,
      frequencyPenalty: 0.2,
      logitBias: new Map([
        [1, 2],
        [9, 3],
      ]),
    },
  ];
  test.each(options)("over seeds: %o", (options) => {
    const expected = reference(logits, history, options);
    expect(expected.filter((probability) => probability * draws >= 5).length).toBeGreaterThan(2);
    expect(chiSquare(drawWithSeeds(options), expected)).toBeLessThan(1);
  });

  test.each([1n, 0xfeed_beef_0000_0001n])("over the indices of one run, seed %s", (seed) => {
    // Repetition penalty sees one id only, so the distribution stays while the index moves.
    const options = { temperature: 1.3, topP: 0.97, repetitionPenalty: 1.4, seed };
    const sampler = createSampler(options, size);
    const generated = [11];
    const counts = Array<number>(size).fill(0);
    const expected = reference(logits, { prompt: history.prompt, generated }, options);
    for (let draw = 0; draw < draws; draw++) {
      const id = sampler.sample(logits, { prompt: history.prompt, generated });
      counts[id] = (counts[id] ?? 0) + 1;
      generated.push(11);
    }
    expect(chiSquare(counts, expected)).toBeLessThan(1);
  });

  test("the same test rejects a temperature that is 4 % off and a share that is 3 % off", () => {
    const counts = drawWithSeeds({ temperature: 1 });
    expect(chiSquare(counts, reference(logits, history, { temperature: 1.04 }))).toBeGreaterThan(1);
    const shared = drawWithSeeds({ temperature: 1, topP: 0.8 });
    expect(chiSquare(shared, reference(logits, history, { temperature: 1, topP: 0.83 }))).toBeGreaterThan(1);
  });
});

describe("log-probability", () => {
  test("is the log-softmax of the raw logits", () => {
    const logits = randomLogits(1000, randomNumbers(6), 30);
    const expected = softmax([...logits]).map(Math.log);
    const actual = expected.map((_, id) => logProbability(logits, id));
    expect(largestDifference(actual, expected)).toBeLessThan(1e-12);
  });

  test("stays exact where the probability underflows, and beside logits that are not finite", () => {
    expect(logProbability(Float32Array.of(0, 2000), 0)).toBe(-2000);
    expect(logProbability(Float32Array.of(-1e38), 0)).toBe(0);
    const mixed = Float32Array.of(1, Number.NaN, 1, Infinity, -Infinity);
    expect(logProbability(mixed, 2)).toBeCloseTo(-Math.LN2, 15);
    for (const id of [1, 3, 4]) expect(logProbability(mixed, id)).toBe(-Infinity);
    expect(() => logProbability(mixed, 5)).toThrow(new RangeError("expected an id below 5, got 5"));
  });
});
