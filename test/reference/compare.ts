/** How results are judged (worst case, coordinates, count) and where awkward inputs come from. */

import type { Numbers } from "./ops.ts";

/** Allowed difference: |actual - expected| <= atol + rtol * |expected|. */
export interface Tolerance {
  readonly atol: number;
  readonly rtol?: number;
  /** Row-major shape, to print coordinates. */
  readonly shape: readonly number[];
  /** Why this tolerance and not a tighter one. */
  readonly why: string;
  /** What is being compared, for the message. */
  readonly what?: string;
}

/** The largest difference found. */
export interface Difference {
  readonly maxAbs: number;
  readonly index: number;
}

/** `index` in a row-major `shape`, as "[1, 0, 7]". */
export function coordinates(index: number, shape: readonly number[]): string {
  const parts: number[] = [];
  let rest = index;
  for (const size of shape.toReversed()) {
    parts.unshift(rest % size);
    rest = Math.floor(rest / size);
  }
  return `[${parts.join(", ")}]`;
}

/**
 * Checks every element and returns the largest difference. Throws an error that gives the worst case, its coordinates
 * and the count of offenders. A NaN matches only a NaN, an infinity only the same infinity.
 */
export function expectClose(actual: Numbers, expected: Numbers, tolerance: Tolerance): Difference {
  const { atol, rtol = 0, shape, why, what = "values" } = tolerance;
  const count = shape.reduce((product, size) => product * size, 1);
  if (actual.length !== count || expected.length !== count) {
    throw new Error(
      `${what}: expected ${count} elements [${shape.join(", ")}]; actual has ${actual.length}, the reference ${expected.length}`,
    );
  }
  let offenders = 0;
  let maxAbs = 0;
  let index = 0;
  let worstExcess = Number.NEGATIVE_INFINITY;
  let worst = 0;
  for (let i = 0; i < count; i++) {
    const a = actual[i] ?? Number.NaN;
    const e = expected[i] ?? Number.NaN;
    // Equal infinities and pairs of NaN match; any other non-finite pair is infinitely wrong.
    const difference = Object.is(a, e) ? 0 : Math.abs(a - e);
    const error = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
    const excess = Number.isFinite(e) ? error - (atol + rtol * Math.abs(e)) : error;
    if (excess > 0) offenders++;
    if (error > maxAbs) [maxAbs, index] = [error, i];
    if (excess > worstExcess) [worstExcess, worst] = [excess, i];
  }
  if (offenders > 0) {
    throw new Error(
      `${what}: ${offenders} of ${count} elements differ by more than ${atol}${rtol ? ` + ${rtol} * |expected|` : ""} (${why}); ` +
        `worst at ${coordinates(worst, shape)}: expected ${expected[worst]}, got ${actual[worst]}; ` +
        `largest difference ${maxAbs} at ${coordinates(index, shape)}`,
    );
  }
  return { maxAbs, index };
}

/** Ways for inputs to be awkward. */
export const nastyModes = ["normal", "outliers", "tiny", "mixed", "zeros", "denormals"] as const;
export type NastyMode = (typeof nastyModes)[number];

/** Uniform numbers in [0, 1), the same for the same seed (Marsaglia's xorshift on 32 bits, with a Weyl step). */
export function seededRandom(seed: number): () => number {
  let state = (Math.imul(seed, 0x9e3779b1) ^ 0x6d2b79f5) >>> 0 || 1;
  let weyl = seed >>> 0;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    weyl = (weyl + 362437) >>> 0;
    return ((state + weyl) >>> 0) / 2 ** 32;
  };
}

/**
 * `count` seeded float32 numbers. normal: N(0, 1) · outliers: one in 50 times 100 · tiny: times 1e-5 (subnormal as
 * f16) · mixed: signs alternate and sizes run over six decades · zeros: all zero but every 7th, with both signs of
 * zero · denormals: below the smallest normal float32.
 */
export function randomValues(seed: number, count: number, mode: NastyMode = "normal"): Float32Array<ArrayBuffer> {
  const uniform = seededRandom(seed);
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return Float32Array.from({ length: count }, (_, i) => {
    const n = normal();
    switch (mode) {
      case "normal":
        return n;
      case "outliers":
        return uniform() < 0.02 ? 100 * n : n;
      case "tiny":
        return 1e-5 * n;
      case "mixed":
        return (i % 2 === 0 ? 1 : -1) * 10 ** (6 * uniform() - 4);
      case "zeros":
        return i % 7 === 0 ? n : i % 2 === 0 ? 0 : -0;
      case "denormals":
        return 1e-39 * n;
    }
  });
}
