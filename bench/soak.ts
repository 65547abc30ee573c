/**
 * `soak`: many generations on one model, many loads in one process, many callers at once. What must not change does not:
 * host memory, GPU buffers, and the text of a seed.
 */
import { type Folder, loadModel, type Model, PhiError, type SamplingOptions } from "../engine/index.ts";
import type { Figure } from "./report.ts";

export interface SoakOptions {
  readonly folder: Folder;
  /** Another adapter of the same GPU: each serves one model. */
  readonly nextAdapter: () => Promise<GPUAdapter>;
  readonly generations: number;
  readonly loads: number;
  readonly concurrent: number;
  /** Runs of the same tokens, greedy and sampled. */
  readonly repeats: number;
  /** How many tokens these have; default 256. */
  readonly repeatedTokens?: number;
  readonly onProgress?: (text: string) => void;
}

/** Host memory may move by this share after the warm-up. */
const flat = 0.05;
const context = 512;

/** The n-th of the mixed requests: greedy and sampled, short and long, some with a prefix that the one before has. */
function request(n: number, vocabularySize: number) {
  const length = 1 + ((n * 37) % 61);
  const start = n % 3 === 0 ? n : n - (n % 3); // three in a row begin alike
  const ids = Array.from({ length }, (_, i) => (start * 7919 + i * 104729 + 13) % vocabularySize);
  const sampling: SamplingOptions = n % 2 === 0 ? {} : { temperature: 0.8, topK: 40, topP: 0.95, seed: BigInt(n) };
  return { ids, options: { maxTokens: 1 + ((n * 11) % 24), sampling, ignoreEos: n % 5 === 0 } };
}

async function answer(model: Model, n: number): Promise<string> {
  const { ids, options } = request(n, model.vocabularySize);
  const out: number[] = [];
  for await (const { id } of model.generate(ids, options)) out.push(id);
  return out.join();
}

function broken(what: string, expected: unknown, got: unknown): never {
  throw new PhiError("internal", `soak: ${what}: expected ${expected}, got ${got}`);
}

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;

/** The same tokens every time: from an empty cache and a filled one, and after an answer that was broken off. */
async function repeat(
  model: Model,
  repeats: number,
  tokens: number,
  onProgress?: (text: string) => void,
): Promise<void> {
  const { ids } = request(0, model.vocabularySize);
  for (const sampling of [{}, { temperature: 0.8, seed: 11n }] as const) {
    let first: string | undefined;
    for (let n = 0; n < repeats; n++) {
      // Every other time something else is cached before, and every fourth time its answer was broken off.
      if (n % 2 === 1) {
        for await (const _ of model.generate(request(n, model.vocabularySize).ids, { maxTokens: 8, sampling })) {
          if (n % 4 === 3) break;
        }
      }
      const out: number[] = [];
      const options = { maxTokens: tokens, sampling, ignoreEos: true };
      for await (const { id } of model.generate(ids, options)) out.push(id);
      first ??= out.join();
      if (out.join() !== first) broken(`tokens of run ${n} of ${repeats}`, first, out.join());
    }
    onProgress?.(`${repeats} runs of ${tokens} tokens at temperature ${"temperature" in sampling ? 0.8 : 0}`);
  }
}

/** Runs it all. Throws a PhiError "internal" that says what did not stay as it was. */
export async function benchSoak(options: SoakOptions): Promise<readonly Figure[]> {
  const { folder, nextAdapter, generations, loads, concurrent, onProgress } = options;
  const { repeats, repeatedTokens = 256 } = options;
  const load = async () => loadModel({ folder, adapter: await nextAdapter(), context });
  const model = await load();
  const rss: number[] = [];
  const generationMs: number[] = [];
  try {
    const watched = Array.from({ length: Math.min(20, generations) }, (_, n) => n);
    const before: string[] = [];
    for (const n of watched) before.push(await answer(model, n));
    const { buffers, bytes } = model.ledger();
    for (let n = 0; n < generations; n++) {
      const began = performance.now();
      await answer(model, n);
      generationMs.push(performance.now() - began);
      rss.push(process.memoryUsage.rss());
      if (n % 500 === 499) onProgress?.(`${n + 1} of ${generations} generations`);
    }
    const now = model.ledger();
    if (now.buffers !== buffers) broken("GPU buffers", buffers, now.buffers);
    if (now.bytes !== bytes) broken("GPU bytes", bytes, now.bytes);
    for (const n of watched) {
      const again = await answer(model, n);
      if (again !== before[n]) broken(`tokens of request ${n}`, before[n], again);
    }
    const asked = Array.from({ length: concurrent }, (_, n) => n % Math.max(1, watched.length));
    const together = await Promise.all(asked.map((n) => answer(model, n)));
    asked.forEach((n, i) => {
      if (together[i] !== before[n]) broken(`tokens of request ${n} among ${concurrent}`, before[n], together[i]);
    });
    await repeat(model, repeats, repeatedTokens, onProgress);
  } finally {
    model.dispose();
  }
  if (model.ledger().buffers !== 0) broken("GPU buffers after dispose", 0, model.ledger().buffers);

  const tenth = Math.max(1, Math.floor(generations / 10));
  const early = median(rss.slice(tenth, 2 * tenth));
  const late = median(rss.slice(-tenth));
  // A short run is all warm-up.
  if (generations >= 1000 && Math.abs(late / early - 1) > flat) {
    broken("host memory after the warm-up", `${Math.round(early / 2 ** 20)} MiB, 5 % more or less`, late / 2 ** 20);
  }

  const loadRss: number[] = [];
  for (let n = 0; n < loads; n++) {
    const again = await load();
    await answer(again, n);
    again.dispose();
    if (again.ledger().buffers !== 0) broken(`GPU buffers after dispose ${n}`, 0, again.ledger().buffers);
    loadRss.push(process.memoryUsage.rss());
    if (n % 10 === 9) onProgress?.(`${n + 1} of ${loads} loads`);
  }
  const [first = 0] = loadRss.slice(Math.floor(loads / 5));
  const growth = ((loadRss.at(-1) ?? 0) - first) / Math.max(1, loads);
  if (loads >= 50 && growth > 2 ** 19) broken("host memory a load", "less than 0.5 MiB", `${growth / 2 ** 20} MiB`);
  return [
    { name: `a generation, of ${generations}`, unit: "ms", samples: generationMs },
    { name: "host memory after the warm-up", unit: "MiB", samples: [early / 2 ** 20] },
    { name: "host memory at the end", unit: "MiB", samples: [late / 2 ** 20] },
    { name: `host memory gained a load, of ${loads}`, unit: "MiB", samples: [growth / 2 ** 20] },
    { name: "generations at once, each as alone", unit: "", samples: [concurrent] },
    { name: `equal runs of ${repeatedTokens} tokens, greedy and sampled`, unit: "each", samples: [repeats] },
  ];
}
