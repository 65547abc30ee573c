/** Perplexity and divergence on logits that are given, against sums written out here. */
import { describe, expect, test } from "vitest";
import { type EvaluateOptions, evaluate, type LogitsSource } from "../../../engine/index.ts";
import { seededRandom } from "../../reference/compare.ts";

const vocab = 7;

/**
 * A model whose logits depend on the token, on its position in the window and on `seed`; it gives `chunk` rows at a time,
 * and writes down what it was asked for.
 */
function fake(seed: number, chunk = 3, change: (row: Float32Array, position: number) => void = () => {}) {
  const asked: number[][] = [];
  const row = (id: number, position: number) => {
    const random = seededRandom(1000 * seed + 100 * position + id);
    return Float32Array.from({ length: vocab }, () => 8 * random() - 4);
  };
  const source: LogitsSource & { readonly context: number } = {
    vocabularySize: vocab,
    context: 64,
    async *logits(ids) {
      asked.push([...ids]);
      for (let first = 0; first < ids.length; first += chunk) {
        const part = ids.slice(first, first + chunk);
        const values = new Float32Array(part.length * vocab);
        part.forEach((id, i) => {
          const one = row(id, first + i);
          change(one, first + i);
          values.set(one, i * vocab);
        });
        yield { firstPosition: first, rows: part.length, values };
      }
    },
  };
  return { source, asked, row };
}

const logSoftmax = (row: Float32Array) => {
  const sum = row.reduce((total, logit) => total + Math.exp(logit), 0);
  return [...row].map((logit) => logit - Math.log(sum));
};

const text = Array.from({ length: 23 }, (_, i) => (i * i + 3 * i) % vocab);

/** Float64 sums of some twenty terms, in another order. */
const digits = 12;

describe("windows", () => {
  // [window, stride, windows at most] → where windows begin, and of which inputs predictions are scored
  test.each([
    [5, undefined, undefined, [0, 5, 10, 15], [0, 0, 0, 0]],
    [5, 2, undefined, [0, 2, 4, 6, 8, 10, 12, 14, 16], [0, 3, 3, 3, 3, 3, 3, 3, 3]],
    [5, 2, 2, [0, 2], [0, 3]],
    [11, undefined, undefined, [0, 11], [0, 0]], // exactly filled: the last token is only predicted
    [22, 1, undefined, [0], [0]],
    [60, 7, undefined, [0], [0]], // longer than the text
    [undefined, undefined, undefined, [0], [0]],
  ])("of %s, %s apart, at most %s", async (window, stride, maxWindows, starts, firstScored) => {
    const model = fake(1);
    const options: EvaluateOptions = {
      ...(window !== undefined && { window }),
      ...(stride !== undefined && { stride }),
      ...(maxWindows !== undefined && { maxWindows }),
    };
    const seen: number[] = [];
    const result = await evaluate(model.source, text, { ...options, onProgress: (...now) => seen.push(...now) });
    const inputs = Math.min(window ?? 64, text.length - 1);
    expect(model.asked).toEqual(starts.map((start) => text.slice(start, start + inputs)));
    let nll = 0;
    let tokens = 0;
    starts.forEach((start, i) => {
      for (let position = firstScored[i] ?? 0; position < inputs; position++, tokens++) {
        nll -= logSoftmax(model.row(text[start + position] ?? 0, position))[text[start + position + 1] ?? 0] ?? 0;
      }
    });
    expect(result).toMatchObject({ tokens, windows: starts.length, window: inputs, against: undefined });
    expect(result.meanNll).toBeCloseTo(nll / tokens, digits);
    expect(result.perplexity).toBeCloseTo(Math.exp(nll / tokens), digits - 2);
    expect(seen.slice(-2)).toEqual([tokens, tokens]);
  });
});

test("divergence from another model, whose chunks are of another size", async () => {
  const [model, base] = [fake(1, 3), fake(2, 4)];
  const result = await evaluate(model.source, text, { window: 10, stride: 6, against: base.source });
  const found = { nll: 0, kl: [] as number[], agreed: 0 };
  for (const [start, first] of [[0, 0], [6, 4], [12, 4]] as const) {
    for (let position = first; position < 10; position++) {
      const id = text[start + position] ?? 0;
      const [p, q] = [logSoftmax(base.row(id, position)), logSoftmax(model.row(id, position))];
      found.nll -= p[text[start + position + 1] ?? 0] ?? 0;
      found.kl.push(p.reduce((sum, logP, i) => sum + Math.exp(logP) * (logP - (q[i] ?? 0)), 0));
      if (p.indexOf(Math.max(...p)) === q.indexOf(Math.max(...q))) found.agreed++;
    }
  } // biome-ignore format: windows in a line
  const tokens = found.kl.length;
  expect(result.tokens).toBe(tokens);
  expect(result.against?.meanNll).toBeCloseTo(found.nll / tokens, digits);
  expect(result.against?.meanKl).toBeCloseTo(found.kl.reduce((sum, kl) => sum + kl, 0) / tokens, digits);
  expect(result.against?.maxKl).toBeCloseTo(Math.max(...found.kl), digits);
  expect(result.against?.top1Agreement).toBe(found.agreed / tokens);
  expect(found.agreed).toBeGreaterThan(0);
  expect(found.agreed).toBeLessThan(tokens);
});

test("a model against itself: no divergence, however large its logits are", async () => {
  const large = (row: Float32Array) => void row.forEach((value, i) => {
    row[i] = 1000 * value + 5000;
  }); // biome-ignore format: short
  const { source } = fake(3, 4, large);
  const { meanNll, against } = await evaluate(source, text, { against: fake(3, 5, large).source });
  expect(Number.isFinite(meanNll)).toBe(true);
  expect(against).toMatchObject({ meanNll, meanKl: 0, maxKl: 0, top1Agreement: 1 });
});

test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])(
  "a logit of %s is an error",
  async (bad) => {
    const { source } = fake(1, 3, (row, position) => {
      if (position === 4) row[6] = bad;
    });
    const run = evaluate(source, text, { window: 10 });
    await expect(run).rejects.toMatchObject({ kind: "gpu", message: "logits are not finite at token 4 of the text" });
  },
);

test.each([
  [[], {}, "the text: expected at least 2 tokens, got 0"],
  [[1], {}, "the text: expected at least 2 tokens, got 1"],
  [text, { window: 65 }, "window: expected a whole number from 1 to 64, got 65"],
  [text, { window: 8, stride: 9 }, "stride: expected a whole number from 1 to 8, got 9"],
  [text, { stride: 0 }, "stride: expected a whole number from 1 to 64, got 0"],
  [text, { maxWindows: 0.5 }, /^windows: expected a whole number/],
  [
    text,
    { against: { ...fake(2).source, vocabularySize: 8 } },
    "against: expected a model with the same vocabulary of 7, got 8",
  ],
])("refused: %j, %j", async (ids, options, message) => {
  const { source, asked } = fake(1);
  const matching = typeof message === "string" ? message : expect.stringMatching(message);
  await expect(evaluate(source, ids, options)).rejects.toMatchObject({ kind: "usage", message: matching });
  expect(asked).toEqual([]);
});
