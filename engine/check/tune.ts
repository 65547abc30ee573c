/**
 * Measures which sizes of a model's kernels are fastest on an adapter: on the model's own buffers and weights, with the
 * dispatches of its own plans. A size is chosen for all shapes of a kernel together, so that a tuned model has as many
 * pipelines as another.
 */

import type { Kernel } from "../../kernels/kernel.ts";
import { PhiError } from "../errors.ts";
import { controlOf } from "../generation/control.ts";
import type { Sequence } from "../generation/sequence.ts";
import { allSteps, type Plan } from "../graph/plan.ts";
import type { Family, Sizes, TunedSizes, Tuning } from "../graph/sizes.ts";
import { candidatesFor, sizeText } from "../graph/sizes.ts";
import type { Runner } from "../run/runner.ts";
import type { Runtime } from "../run/runtime.ts";
import { checkKernel, distinctKernels, kernelKey } from "./selfcheck.ts";
import { timesOf } from "./trial.ts";

export interface TuneKernelsOptions {
  readonly signal?: AbortSignal;
  /** The measurements end after these, compiling included; loading and the last comparison come on top. Default 120. */
  readonly seconds?: number;
  /** Only kernels whose name holds this, those of a small share too. */
  readonly only?: string;
  readonly onKernel?: (progress: TuneProgress) => void;
}

/** Told before a kernel is measured. */
export interface TuneProgress {
  readonly kernel: string;
  /** Sizes that are measured beside the default. */
  readonly candidates: number;
  readonly secondsLeft: number;
}

/** What became of a size that was tried. */
export interface TriedSize {
  readonly size: string;
  /** `ran`, or why its time does not count. */
  readonly result: "ran" | "wrong numbers" | "does not run";
  /** Median of its time ÷ the default's, by round; absent where it did not run. */
  readonly ratio?: number;
  /** What the compiler says where it does not run. */
  readonly message?: string;
}

export interface TunedKernel {
  /** e.g. `matvec<q4,bias>` */
  readonly kernel: string;
  readonly plan: "prefill" | "decode";
  /** e.g. `960x576`; each with its number of dispatches. */
  readonly shapes: readonly { readonly shape: string; readonly count: number }[];
  /** Of the time of the plan's kernels that have sizes, in the default ones, from 0 to 1. */
  readonly share: number;
  readonly defaultSize: string;
  /** The default one, where no other is faster by more than the noise. */
  readonly chosenSize: string;
  /** Time in the chosen size ÷ in the default one. */
  readonly ratio: number;
  readonly tried: readonly TriedSize[];
  /** Why it kept its default without a measurement. */
  readonly skipped?: "small share" | "out of time";
}

export interface TuneReport {
  readonly adapterName: string;
  readonly notes: readonly string[];
  readonly kernels: readonly TunedKernel[];
  /** Milliseconds of a whole call, in the default sizes and in the chosen ones; medians of paired rounds. */
  readonly whole: readonly { readonly plan: "prefill" | "decode"; readonly tokens: number; readonly defaultMs: number; readonly chosenMs: number }[]; // biome-ignore format: one line
  /** For `LoadOptions.tuned`: what differs from the defaults. */
  readonly sizes: TunedSizes;
  /** The keys that these sizes are for, those that kept their default included. */
  readonly keys: readonly string[];
  readonly seconds: number;
}

/** Seconds that one measurement of a shape should take. */
const measureSeconds = 0.05;
/** Interleaved measurements of the default and of each candidate. */
const rounds = 7;
const leastRounds = 3;
/** What a candidate must gain. */
const leastGain = 0.03;
/** Best ratio so far from which a candidate is given up before the last round. */
const hopeless = 1.15;
/** Kernels of a smaller share keep their defaults: a gain there could not be felt, and each candidate is compiled. */
const leastShare = 0.01;
/** Where attention is measured: a single token sees so many keys, if the context has them. */
const depth = 1023;

/**
 * The candidate that takes the place of the default, or undefined: of those that were at least 3 % faster in three
 * quarters of the rounds, the one of the lowest median. `base` and each candidate hold seconds by round, taken in turn; a
 * candidate of fewer rounds was given up.
 */
export function chooseCandidate(
  base: readonly number[],
  candidates: readonly (readonly number[])[],
): number | undefined {
  let best: { index: number; ratio: number } | undefined;
  for (const [index, seconds] of candidates.entries()) {
    if (seconds.length < base.length || base.length < leastRounds) continue;
    const ratios = ratiosOf(base, seconds);
    const ratio = quantile(ratios, 0.5);
    if (quantile(ratios, 0.75) <= 1 - leastGain && !(best !== undefined && best.ratio <= ratio))
      best = { index, ratio };
  }
  return best?.index;
}

function ratiosOf(base: readonly number[], seconds: readonly number[]): readonly number[] {
  return seconds.map((value, round) => value / (base[round] ?? Number.NaN));
}

/** The value below which a share of them lies, between two of them where it must. */
function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const at = (index: number) => sorted[index] ?? Number.NaN;
  return at(Math.floor(place)) + (place % 1) * (at(Math.ceil(place)) - at(Math.floor(place)));
}

type Kind = "prefill" | "decode";

/** A kernel of a plan, with all its dispatches. */
interface Group {
  readonly kind: Kind;
  readonly family: Family;
  readonly kernel: string;
  /** Of the plans' steps that take a size of it. */
  readonly keys: readonly string[];
}

interface Tuner {
  /** What the candidates run on. Its cache is written over. */
  readonly sequence: Sequence;
  readonly base: Tuning;
  readonly signal: AbortSignal | undefined;
  readonly deadlineMs: number;
  /** Tokens and position of a measured call. */
  readonly calls: Readonly<Record<Kind, { readonly seq: number; readonly past: number }>>;
}

/**
 * Measures the kernels of a loaded model, on the buffers of a sequence of it that nothing else uses. Every candidate's
 * kernel is compared with the reference before its time counts (selfcheck.ts), and in the end the logits in the chosen
 * sizes with those in the default ones. Throws a PhiError "aborted" where `signal` stops it, and "gpu" where the adapter
 * computes wrong numbers.
 */
export async function tuneKernels(
  sequence: Sequence,
  options: TuneKernelsOptions,
): Promise<Omit<TuneReport, "notes" | "seconds">> {
  const { runtime } = sequence;
  const { context, chunkTokens } = runtime.options;
  const tuner: Tuner = {
    sequence,
    base: runtime.tuning,
    signal: options.signal,
    deadlineMs: performance.now() + 1000 * (options.seconds ?? 120),
    calls: {
      decode: { seq: 1, past: Math.min(context - 1, depth) },
      prefill: { seq: chunkTokens, past: Math.min(context - chunkTokens, depth) },
    },
  };
  const { vocab } = runtime.architecture;
  sequence.control(
    controlOf({ sampling: { temperature: 0.8, topK: 40, topP: 0.9 }, seed: 1n, stopIds: [] }, [], vocab),
  );
  let tuning = tuner.base;
  const kernels: TunedKernel[] = [];
  sequence.cache.setRegime("short");
  // Attention first: in how many parts it writes decides which kernel reads them.
  for (const isFirst of [true, false]) {
    for (const { group, share } of await weigh(tuner, tuning, groupsOf(runtime, tuning))) {
      if ((group.family === "decodeAttention") !== isFirst || !group.kernel.includes(options.only ?? "")) continue;
      const { size, result } = await tuneGroup(tuner, tuning, group, share, options);
      if (size !== undefined) tuning = withSize(tuning, group, size);
      kernels.push(result);
    }
  }
  const names = new Set(kernels.map(({ kernel }) => kernel));
  const keys = groupsOf(runtime, tuning).flatMap((group) => (names.has(group.kernel) ? group.keys : []));
  const whole = await compareWhole(tuner, tuning);
  return { adapterName: runtime.device.adapterName, kernels, whole, sizes: tuning.tuned ?? {}, keys };
}

/** The kernels that have sizes; one that both plans run is measured where single tokens run it. */
function groupsOf(runtime: Runtime, tuning: Tuning): readonly Group[] {
  const groups = new Map<string, { kind: Kind; family: Family; kernel: string; keys: Set<string> }>();
  for (const kind of ["decode", "prefill"] as const) {
    for (const { kernel, size } of allSteps(runtime.planFor(kind, tuning))) {
      if (size === undefined) continue;
      const group = groups.get(kernel.name) ?? { kind, family: size.family, kernel: kernel.name, keys: new Set() };
      group.keys.add(size.key);
      groups.set(kernel.name, group);
    }
  }
  return [...groups.values()].map((group) => ({ ...group, keys: [...group.keys] }));
}

/** A tuning with a size for all keys of a group. */
function withSize(tuning: Tuning, { family, keys }: Group, size: Sizes[Family]): Tuning {
  const own = { ...tuning.tuned?.[family], ...Object.fromEntries(keys.map((key) => [key, size])) };
  return { ...tuning, tuned: { ...tuning.tuned, [family]: own } };
}

/** Dispatches of one shape, and how many of the plan's they stand for. */
interface Row {
  readonly key: string;
  readonly indices: readonly number[];
}

/** The steps in which any of these plans differ from the first, by shape. */
function changedRows([base, ...others]: readonly Plan[], keys: readonly string[]): readonly Row[] {
  const rows = new Map<string, number[]>();
  const steps = base === undefined ? [] : allSteps(base);
  const lists = others.map(allSteps);
  steps.forEach(({ kernel, size }, index) => {
    const isChanged = lists.some((list) => {
      const other = list[index]?.kernel;
      return other !== undefined && kernelKey(other) !== kernelKey(kernel);
    });
    if (size === undefined || !(isChanged || keys.includes(size.key))) return;
    rows.set(size.key, [...(rows.get(size.key) ?? []), index]);
  });
  return [...rows].map(([key, indices]) => ({ key, indices }));
}

/** The plan with these steps alone. */
function partOf(plan: Plan, indices: readonly number[]): Plan {
  const steps = allSteps(plan);
  return { ...plan, steps: indices.flatMap((index) => steps[index] ?? []), choosers: {} };
}

function stopIfAborted({ signal }: Tuner): void {
  if (signal?.aborted) throw new PhiError("aborted", "tuning was stopped");
}

/**
 * Seconds, by plan and round, of those dispatches that differ between `plans` or take a size of `keys`. The plans run in
 * turn, the first of them in the default sizes; one that is clearly slower is given up. Ends at the deadline.
 */
async function measurePlans(
  tuner: Tuner,
  kind: Kind,
  plans: readonly Plan[],
  keys: readonly string[],
  most: number,
): Promise<readonly (readonly number[])[]> {
  const { sequence, calls, deadlineMs } = tuner;
  const { seq, past } = calls[kind];
  const rows = changedRows(plans, keys);
  // As many of a shape's dispatches as a measurement takes, each on weights of its own, as it is when the model runs.
  const singles = await sequence.bindPlans(rows.map(({ indices }) => partOf(plans[0] as Plan, indices.slice(0, 1))));
  const times: number[] = [];
  const measured: (readonly number[])[] = [];
  for (const [i, { indices }] of rows.entries()) {
    const run = singles[i] as Runner;
    const once = (count: number) => run.measure(seq, past, count);
    const dispatches = await timesOf(once, measureSeconds, Number.POSITIVE_INFINITY);
    measured.push(indices.slice(0, dispatches));
    times.push(Math.min(1000, Math.max(1, Math.round(dispatches / indices.length))));
  }
  const runners = await sequence.bindPlans(plans.flatMap((plan) => measured.map((indices) => partOf(plan, indices))));
  const seconds = plans.map(() => [] as number[]);
  const alive = new Set(plans.keys());
  for (let round = 0; round < most; round++) {
    for (const index of alive) {
      let sum = 0;
      for (const [row, { indices }] of rows.entries()) {
        stopIfAborted(tuner);
        const runner = runners[index * rows.length + row] as Runner;
        const one = await runner.measure(seq, past, times[row] ?? 1);
        sum += (one * indices.length) / (measured[row]?.length ?? 1);
      }
      seconds[index]?.push(sum);
    }
    for (const index of alive) {
      const ratios = ratiosOf(seconds[0] ?? [], seconds[index] ?? []);
      if (index > 0 && Math.min(...ratios) > hopeless) alive.delete(index);
    }
    if (alive.size < Math.min(2, plans.length) || performance.now() > deadlineMs) break;
  }
  return seconds;
}

/** Groups with their share of the time of their plan, the largest first. */
async function weigh(tuner: Tuner, tuning: Tuning, groups: readonly Group[]) {
  const seconds = new Map<Group, number>();
  const totals: Record<Kind, number> = { decode: 0, prefill: 0 };
  for (const group of groups) {
    const plan = tuner.sequence.runtime.planFor(group.kind, tuning);
    const [samples = []] = await measurePlans(tuner, group.kind, [plan], group.keys, leastRounds);
    const own = Math.min(...samples);
    seconds.set(group, own);
    totals[group.kind] += own;
  }
  const shareOf = (group: Group) => (seconds.get(group) ?? 0) / totals[group.kind];
  return groups.map((group) => ({ group, share: shareOf(group) })).sort((a, b) => b.share - a.share);
}

/** Measures the sizes of a kernel; the one to take in place of the default, if there is one. */
async function tuneGroup(
  tuner: Tuner,
  tuning: Tuning,
  group: Group,
  share: number,
  { only, onKernel }: TuneKernelsOptions,
): Promise<{ readonly size: Sizes[Family] | undefined; readonly result: TunedKernel }> {
  const { deadlineMs } = tuner;
  const { runtime } = tuner.sequence;
  const { kind, family, kernel, keys } = group;
  const plan = runtime.planFor(kind, tuning);
  const defaultSize = sizeText(tuning[family]);
  const unchanged: TunedKernel = {
    kernel,
    plan: kind,
    shapes: changedRows([plan], keys).map(({ key, indices }) => ({
      shape: key.slice(kernel.length + 1),
      count: indices.length,
    })),
    share,
    defaultSize,
    chosenSize: defaultSize,
    ratio: 1,
    tried: [],
  };
  if (share < leastShare && only === undefined)
    return { size: undefined, result: { ...unchanged, skipped: "small share" } };
  const sizes = candidatesFor(runtime.device)[family].filter((size) => sizeText(size) !== defaultSize);
  const secondsLeft = (deadlineMs - performance.now()) / 1000;
  if (secondsLeft <= 0) return { size: undefined, result: { ...unchanged, skipped: "out of time" } };
  onKernel?.({ kernel, candidates: sizes.length, secondsLeft });

  const tried: TriedSize[] = [];
  const candidates: { readonly size: Sizes[Family]; readonly plan: Plan }[] = [];
  for (const size of sizes) {
    stopIfAborted(tuner);
    if (performance.now() > deadlineMs) break;
    const other = runtime.planFor(kind, withSize(tuning, group, size));
    const kernels = changedKernels(plan, other);
    if (kernels.length === 0) continue; // this kernel takes no notice of what differs
    const failed = await failureOf(runtime, kernels);
    if (failed === undefined) candidates.push({ size, plan: other });
    else tried.push({ size: sizeText(size), ...failed });
  }
  const plans = [plan, ...candidates.map((candidate) => candidate.plan)];
  const [base = [], ...others] = await measurePlans(tuner, kind, plans, keys, rounds);
  const ratios = others.map((seconds) => quantile(ratiosOf(base, seconds), 0.5));
  for (const [i, { size }] of candidates.entries()) {
    tried.push({ size: sizeText(size), result: "ran", ratio: ratios[i] ?? Number.NaN });
  }
  const chosen = chooseCandidate(base, others);
  if (chosen === undefined) return { size: undefined, result: { ...unchanged, tried } };
  const size = candidates[chosen]?.size;
  return { size, result: { ...unchanged, chosenSize: sizeText(size), ratio: ratios[chosen] ?? 1, tried } };
}

/** The kernels of a plan that are not those of another, each once. */
function changedKernels(base: Plan, other: Plan): readonly Kernel[] {
  const known = new Set(allSteps(base).map(({ kernel }) => kernelKey(kernel)));
  const kernels = distinctKernels(allSteps(other).map(({ kernel }) => kernel));
  return kernels.filter((kernel) => !known.has(kernelKey(kernel)));
}

/** Why a candidate's kernels are of no use, or undefined: each is compiled and checked. Throws where the device fails. */
async function failureOf(
  { device, pipelines }: Runtime,
  kernels: readonly Kernel[],
): Promise<Omit<TriedSize, "size"> | undefined> {
  for (const kernel of kernels) {
    try {
      const { error } = await checkKernel(device, pipelines, kernel);
      if (!(error <= 1) && !device.isNull) return { result: "wrong numbers" };
    } catch (error) {
      device.check();
      if (!(error instanceof PhiError && error.kind === "internal")) throw error;
      return { result: "does not run", message: error.message };
    }
  }
  return undefined;
}

/** Seconds that the comparison of whole calls may take, and its rounds at most. */
const wholeSeconds = 10;
const wholeRounds = 5;
/** Of the largest logit. Sums in another order and a cache rounded to 10 bits move logits by less; a wrong kernel by more. */
const wholeTolerance = 0.02;

/** A chunk of a prompt and a token after it in the default sizes and in the chosen ones: equal logits, and the times. */
async function compareWhole(tuner: Tuner, tuning: Tuning): Promise<TuneReport["whole"]> {
  const { sequence, base } = tuner;
  const { runtime } = sequence;
  if (tuning === base) return [];
  const { context, chunkTokens } = runtime.options;
  const { architecture, device } = runtime;
  const tokens = Math.max(1, Math.min(chunkTokens, context - 1));
  const ids = Array.from({ length: tokens + 1 }, (_, i) => (i * 7919 + 1) % architecture.vocab);
  const kinds = ["prefill", "decode"] as const;
  const calls = { prefill: { ids: ids.slice(0, tokens), past: 0 }, decode: { ids: ids.slice(tokens), past: context > tokens ? tokens : 0 } }; // biome-ignore format: one table
  const runners = await sequence.bindPlans(
    kinds.flatMap((kind) => [runtime.planFor(kind, base), runtime.planFor(kind, tuning)]),
  );
  const both = (kind: Kind) => runners.filter(({ plan }) => plan.kind === kind);

  const logits: Float32Array[] = [];
  for (const sizes of [0, 1]) {
    for (const kind of kinds) {
      const runner = both(kind)[sizes] as Runner;
      logits.push(await sequence.logitsOf(runner, calls[kind].ids, calls[kind].past, tuner.signal));
    }
  }
  const [prefill, decode, otherPrefill, otherDecode] = logits as [
    Float32Array,
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  for (const [expected, got] of [
    [prefill, otherPrefill],
    [decode, otherDecode],
  ] as const) {
    const off = largestDifference(expected, got);
    if (!(off <= wholeTolerance) && !device.isNull) {
      throw new PhiError(
        "gpu",
        `in the sizes that were chosen the logits are off by ${off.toPrecision(2)} of the largest on ${device.adapterName}`,
        ["The driver compiles a kernel wrongly at this model's shapes: no size was kept."],
      );
    }
  }
  const whole = [];
  for (const kind of kinds) {
    const { ids: own, past } = calls[kind];
    const began = performance.now();
    const seconds: [number[], number[]] = [[], []];
    for (let round = 0; round < wholeRounds && performance.now() - began < (wholeSeconds / 2) * 1000; round++) {
      for (const sizes of [0, 1] as const) {
        stopIfAborted(tuner);
        const runner = both(kind)[sizes] as Runner;
        seconds[sizes].push(await runner.measure(own.length, past, 1));
      }
    }
    const [before, after] = seconds.map((values) => 1000 * quantile(values, 0.5));
    whole.push({ plan: kind, tokens: own.length, defaultMs: before ?? 0, chosenMs: after ?? 0 });
  }
  return whole;
}

/** The largest difference of two rows ÷ the largest number; NaN where they hold one. */
function largestDifference(expected: Float32Array, got: Float32Array): number {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-30);
  return expected.reduce((worst, value, i) => Math.max(worst, Math.abs(value - (got[i] ?? Number.NaN)) / largest), 0);
}
