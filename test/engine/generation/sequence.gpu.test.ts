/**
 * Two sequences of one model whose submits alternate: each gives what it gives alone. Nothing of load or plan knows of the
 * second one.
 */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openCheckpoint } from "../../../engine/files/checkpoint.ts";
import { openFolder } from "../../../engine/files/disk.ts";
import { type GenerateOptions, generate } from "../../../engine/generation/generate.ts";
import { Sequence } from "../../../engine/generation/sequence.ts";
import { Device } from "../../../engine/gpu/device.ts";
import { tileRowsFor } from "../../../engine/graph/sizes.ts";
import { declareWeights } from "../../../engine/models/architecture.ts";
import { readArchitecture } from "../../../engine/models/table.ts";
import { Runtime } from "../../../engine/run/runtime.ts";
import { checkWeights } from "../../../engine/weights/check.ts";
import { uploadWeights } from "../../../engine/weights/upload.ts";
import { testAdapter } from "../../gpu.ts";

const context = 72;

/** A model without a sequence. */
async function openRuntime(name: string, submitFlops?: number): Promise<Runtime> {
  const path = fileURLToPath(new URL(`../../fixtures/models/${name}`, import.meta.url));
  const checkpoint = await openCheckpoint(await openFolder(path));
  try {
    const architecture = readArchitecture(checkpoint.config);
    const weights = await checkWeights(checkpoint, architecture, declareWeights(architecture));
    const device = await Device.open(await testAdapter());
    const sizes = { context, chunkTokens: 8, ...(submitFlops !== undefined && { submitFlops }) };
    const options = { kv: "f32", activations: "f32", ...sizes } as const;
    const runtime = new Runtime(device, architecture, weights, options);
    runtime.attach(await uploadWeights(device, checkpoint, weights, { tileRows: tileRowsFor(device) }));
    return runtime;
  } finally {
    await checkpoint.close();
  }
}

type Tokens = ReturnType<typeof generate>;

/** Takes a token of each in turn, until all have ended. */
async function inTurns(all: readonly Tokens[]): Promise<number[][]> {
  const ids: number[][] = all.map(() => []);
  const running = new Set(all.keys());
  while (running.size > 0) {
    for (const index of [...running]) {
      const step = await all[index]?.next();
      if (step === undefined || step.done) running.delete(index);
      else ids[index]?.push(step.value.id);
    }
  }
  return ids;
}

// A window of 16 over a ring; longrope's switch at 32 positions; calls in many submits.
describe.each([
  ["phi-3-mini-4k", undefined],
  ["phi-3-mini-128k", undefined],
  ["phi-2", 1],
] as const)("%s, %s operations a submit", (name, submitFlops) => {
  let runtime: Runtime;
  let sequences: readonly [Sequence, Sequence];

  beforeAll(async () => {
    runtime = await openRuntime(name, submitFlops);
    sequences = [new Sequence(runtime), new Sequence(runtime)];
    for (const sequence of sequences) await sequence.bind();
  });

  afterAll(() => runtime.device.dispose());

  const prompts = [
    [3, 17, 42, 5, 63, 7, 11, 2, 9, 30, 31, 8],
    [50, 4, 4, 21],
  ] as const;
  const tokens = (which: 0 | 1, options: Partial<GenerateOptions>) =>
    generate(sequences[which], prompts[which], { maxTokens: 40, ignoreEos: true, ...options }, []);

  test.each([
    ["greedy, a step a submit", [{ stepsPerSubmit: 1 }, { stepsPerSubmit: 1 }]],
    ["greedy and drawn, several steps a submit", [{ stepsPerSubmit: 3 }, { stepsPerSubmit: 2, sampling: { temperature: 1, seed: 5 } }]], // biome-ignore format: a row a case
    ["chosen on the host and on the GPU", [{ logprobs: true }, { stepsPerSubmit: 2 }]],
  ] as const)("%s", async (_, [first, second]) => {
    const alone = [await inTurns([tokens(0, first)]), await inTurns([tokens(1, second)])].flat();
    expect(alone.map((ids) => ids.length)).toEqual([40, 40]);
    expect(await inTurns([tokens(0, first), tokens(1, second)])).toEqual(alone);
    // At the same time: submits follow each other as they come.
    const together = await Promise.all([inTurns([tokens(0, first)]), inTurns([tokens(1, second)])]);
    expect(together.flat()).toEqual(alone);
  });

  test("one is traced while the other generates", async () => {
    const trace = async () => {
      const rows: Float32Array[] = [];
      for await (const { values } of sequences[1].every("trace", prompts[1])) rows.push(...values.values());
      return rows;
    };
    const [alone] = await inTurns([tokens(0, { stepsPerSubmit: 1 })]);
    const rows = await trace(); // the slots grow, and what was bound to them is bound again
    const [[ids], again] = await Promise.all([inTurns([tokens(0, { stepsPerSubmit: 1 })]), trace()]);
    expect(ids).toEqual(alone);
    expect(again).toEqual(rows);
  });

  test("one that is disposed leaves the other as it is", async () => {
    const before = runtime.device.ledger;
    const third = new Sequence(runtime);
    await third.bind();
    const [ids] = await inTurns([generate(third, prompts[0], { maxTokens: 3, ignoreEos: true }, [])]);
    third.dispose();
    const { buffers, bytes } = runtime.device.ledger;
    expect([buffers, bytes]).toEqual([before.buffers, before.bytes]);
    const [others] = await inTurns([tokens(0, {})]);
    expect(others?.slice(0, 3)).toEqual(ids);
  });
});
