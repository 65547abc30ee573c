/**
 * What lives as long as a sequence: its ids, its place in the cache, what its choosers are told, and what is on its way.
 * Plans, weights and the slots that they compute in are the runtime's, which any number of sequences use one call after
 * the other.
 */

import { controlWords, markBytes, stateWords } from "../../kernels/choose/next.ts";
import { PhiError } from "../errors.ts";
import type { DeviceBuffer } from "../gpu/device.ts";
import type { Chooser } from "../graph/plan.ts";
import { ropeRegime } from "../models/rope.ts";
import type { SequenceBuffers } from "../run/binding.ts";
import { type Cache, cacheRows, createCache } from "../run/cache.ts";
import { Readback } from "../run/readback.ts";
import type { Runner } from "../run/runner.ts";
import type { RunnerKind, Runtime } from "../run/runtime.ts";
import type { Control } from "./control.ts";

/** Float32 rows of consecutive positions. */
export interface Rows {
  readonly firstPosition: number;
  readonly rows: number;
  /** [rows, columns] */
  readonly values: Float32Array;
}

export interface TraceRows {
  readonly firstPosition: number;
  readonly rows: number;
  /** `embed`, `layer.0` … and `final_norm` [rows, hidden], `logits` [rows, vocab]. */
  readonly values: ReadonlyMap<string, Float32Array>;
}

/** Tokens that the GPU chooses in one submit. */
export interface Batch {
  /** Index of its first among the new tokens of the generation. */
  readonly first: number;
  readonly count: number;
  /** Whether its steps ran the tokens that were chosen before, and not a prompt. */
  readonly isDecode: boolean;
  readonly staging: DeviceBuffer;
}

/** What a prefill is for: the first new token, chosen on the GPU, or the logits that it is chosen from, or neither. */
export interface PrefillOptions {
  readonly signal?: AbortSignal | undefined;
  /** Chooses the next token, the one of index `drawn`. */
  readonly chooser?: Chooser;
  readonly drawn?: number;
  /** Copies the logits of the last position, to be read with `readLogits`. */
  readonly logits?: boolean;
}

/** How much of a prompt was run, and the batch of its first new token where one was asked for. */
export interface Prefilled {
  readonly run: number;
  readonly batch: Batch | undefined;
}

/** Submits of decode steps that may be on their way at a time. */
export const mostBatches = 2;

/** Bytes of a sequence's buffers beside its cache: what the choosers read and write, what reads it back, the ids of a call. */
export function sequenceBytes(vocab: number, chunkTokens: number): number {
  const stateBytes = (1 + mostBatches) * stateWords.all * 4 + controlWords.all * 4;
  return stateBytes + Math.ceil((vocab * markBytes) / 16) * 16 + Math.ceil((chunkTokens * 4) / 16) * 16;
}

/** A sequence of a model, empty at first. `dispose` it, or the device. */
export class Sequence {
  readonly runtime: Runtime;
  readonly cache: Cache;
  readonly #buffers: SequenceBuffers;
  readonly #runners = new Map<RunnerKind, Promise<Runner>>();
  /** Of the slots that the runners are bound to. */
  #slotsVersion = 0;
  readonly #readback: Readback;
  /** Where states are read from, in turn: as many as can be on their way. */
  readonly #stateStaging: readonly DeviceBuffer[];
  #batches = 0;
  /** The ids whose keys and values are in the cache, from position 0. */
  #cached: number[] = [];
  /** The token that was chosen last, which no step that was read back has run. */
  #next: number | undefined;
  /** Steps that were submitted and not read back. */
  #inFlight = 0;
  /** Positions that were ever written since the cache was last begun at 0: what a ring may have overwritten. */
  #written = 0;
  #queue: Promise<void> = Promise.resolve();

  constructor(runtime: Runtime) {
    this.runtime = runtime;
    this.#readback = new Readback(runtime);
    const { device, architecture, options } = runtime;
    const { kv, context, chunkTokens } = options;
    this.cache = createCache(device, architecture, kv, cacheRows(architecture, context, chunkTokens), context);
    const { STORAGE, UNIFORM, COPY_DST, COPY_SRC, MAP_READ } = GPUBufferUsage;
    const stateBytes = stateWords.all * 4;
    this.#buffers = {
      state: device.createBuffer("state", stateBytes, UNIFORM | STORAGE | COPY_DST | COPY_SRC),
      control: device.createBuffer("control", controlWords.all * 4, UNIFORM | COPY_DST),
      marks: device.createBuffer("marks", architecture.vocab * markBytes, STORAGE | COPY_DST),
      ids: device.createBuffer("ids", chunkTokens * 4, STORAGE | COPY_DST),
      cache: this.cache,
    };
    this.#stateStaging = Array.from({ length: mostBatches }, (_, i) =>
      device.createBuffer(`state staging #${i}`, stateBytes, MAP_READ | COPY_DST),
    );
  }

  /** Makes the plans of generation ready to run. */
  async bind(): Promise<void> {
    const { runtime } = this;
    this.#slotsVersion = runtime.reserve([runtime.plan("prefill"), runtime.plan("decode")]);
    await Promise.all([this.#runner("prefill"), this.#runner("decode")]);
  }

  #runner(kind: RunnerKind): Promise<Runner> {
    const plan = this.runtime.plan(kind);
    const version = this.runtime.reserve([plan]);
    if (version !== this.#slotsVersion) this.#runners.clear();
    this.#slotsVersion = version;
    const runner = this.#runners.get(kind) ?? this.bindPlans([plan]).then(([bound]) => bound as Runner);
    this.#runners.set(kind, runner);
    return runner;
  }

  /** Runs a call of a plan when those before it, of whichever sequence, have ended. */
  #call<T>(kind: RunnerKind, use: (runner: Runner) => Promise<T>): Promise<T> {
    return this.runtime.alone(async () => use(await this.#runner(kind)));
  }

  /** Plans of any sizes on this sequence's buffers; they serve until slots are replaced (`Runtime.reserve`). */
  bindPlans(plans: Parameters<Runtime["bind"]>[0]): Promise<readonly Runner[]> {
    return this.runtime.bind(plans, this.#buffers);
  }

  /** Runs `work` when this sequence's calls before it have ended. */
  async exclusive(): Promise<() => void> {
    const before = this.#queue;
    let release: () => void = () => {};
    this.#queue = new Promise((resolve) => {
      release = resolve;
    });
    await before;
    return release;
  }

  /** The most steps that a submit may have: their tokens are all kept, and a ring keeps the rows that a shorter prefix needs. */
  get mostSteps(): number {
    const { chunkTokens } = this.runtime.options;
    return Math.min(
      stateWords.ring / mostBatches,
      this.#isRing ? Math.ceil(chunkTokens / mostBatches) : stateWords.ring,
    );
  }

  /** Whether later positions overwrite earlier ones. */
  get #isRing(): boolean {
    return this.cache.rows < this.runtime.options.context;
  }

  /** Tells the choosers of the next calls what they go by. */
  control({ words, marks }: Control): void {
    const { device } = this.runtime;
    device.writeBuffer(this.#buffers.control, 0, words);
    if (marks !== undefined) device.writeBuffer(this.#buffers.marks, 0, marks);
  }

  /**
   * Brings the cache to hold `ids`, as far as it must: keeps the prefix that it shares with what is cached and runs the
   * rest in chunks. longrope's factors follow the length of the whole sequence, so a change of regime runs all of it
   * again. Throws a PhiError "aborted", or the device's.
   */
  async prefill(ids: readonly number[], options: PrefillOptions = {}): Promise<Prefilled> {
    const { signal, drawn = 0 } = options;
    const { architecture, options: model } = this.runtime;
    const regime = ropeRegime(architecture.rope, ids.length);
    this.#written = Math.max(this.#written, this.#cached.length + this.#inFlight);
    this.#inFlight = 0;
    this.#next = undefined;
    const shared = regime === this.cache.regime ? this.#reusable(ids) : 0;
    this.cache.setRegime(regime);
    this.#cached.length = shared;
    if (shared === 0) this.#written = 0;
    let batch: Batch | undefined;
    for (let past = shared; past < ids.length; past += model.chunkTokens) {
      if (signal?.aborted) throw new PhiError("aborted", "stopped");
      const chunk = ids.slice(past, past + model.chunkTokens);
      this.#written = Math.max(this.#written, past + chunk.length); // before the run, which may stop half-way
      const isLast = past + chunk.length >= ids.length;
      batch = await this.#call(chunk.length === 1 ? "decode" : "prefill", async (runner) => {
        if (isLast) return this.#feedLast(runner, chunk, past, options);
        await runner.feed(chunk, past, drawn, { signal, cacheOnly: true });
        return undefined;
      });
      this.#cached.push(...chunk);
    }
    return { run: ids.length - shared, batch };
  }

  /** Runs the last chunk of a prompt, with what is wanted of its last position. */
  async #feedLast(
    runner: Runner,
    chunk: readonly number[],
    past: number,
    { signal, chooser, drawn = 0, logits }: PrefillOptions,
  ): Promise<Batch | undefined> {
    if (chooser !== undefined) {
      const batch = this.#nextBatch(drawn, 1, false);
      await runner.feed(chunk, past, drawn, { signal, chooser, last: this.#copyState(batch) });
      return batch;
    }
    const { logitsSlot, vocab } = runner.plan;
    const last = logits ? this.#readback.copy([{ name: "logits", slot: logitsSlot, floats: vocab }]) : undefined;
    await runner.feed(chunk, past, drawn, { signal, ...(last && { last }) });
    return undefined;
  }

  /** The logits [vocab] of the last position, after a prefill with `logits`. */
  async readLogits(): Promise<Float32Array> {
    const floats = this.runtime.architecture.vocab;
    const values = await this.#readback.read([{ name: "logits", floats }]);
    return values.get("logits") ?? new Float32Array();
  }

  /** The logits [vocab] of the last of `ids` at positions `past` …, by a runner of this sequence's (`bindPlans`). */
  async logitsOf(
    { plan, feed }: Runner,
    ids: readonly number[],
    past: number,
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    const last = this.#readback.copy([{ name: "logits", slot: plan.logitsSlot, floats: plan.vocab }]);
    await feed(ids, past, 0, { signal, last });
    return this.readLogits();
  }

  /**
   * Submits `count` steps, each for the token that the one before it chose, the first of them the one of index `first`.
   * At most `mostBatches` are on their way at a time; they are read in their order.
   */
  async decode(first: number, count: number, chooser: Chooser, signal?: AbortSignal): Promise<Batch> {
    const batch = this.#nextBatch(first, count, true);
    const past = this.#cached.length + this.#inFlight;
    this.#inFlight += count;
    const last = this.#copyState(batch);
    await this.#call("decode", (runner) => runner.repeat(count, past, { chooser, signal, last }));
    return batch;
  }

  #nextBatch(first: number, count: number, isDecode: boolean): Batch {
    const staging = this.#stateStaging[this.#batches++ % mostBatches];
    if (staging === undefined) throw new Error("there is no staging buffer");
    return { first, count, isDecode, staging };
  }

  #copyState({ staging }: Batch): (encoder: GPUCommandEncoder) => void {
    const { state } = this.#buffers;
    return (encoder) => encoder.copyBufferToBuffer(state.gpu, 0, staging.gpu, 0, stateWords.all * 4);
  }

  /** The tokens of a batch, fewer than it has steps if one is a stop id or the count of logits not finite is above 0. */
  async readBatch({ first, count, isDecode, staging }: Batch): Promise<{ ids: readonly number[]; notFinite: number }> {
    const { device } = this.runtime;
    const read = new Uint32Array(await device.readBack(staging, stateWords.all * 4));
    const words = device.isNull ? read.fill(0) : read;
    const [stopped, drawn, notFinite] = [stateWords.stopped, stateWords.drawn, stateWords.notFinite].map(
      (word) => words[word] ?? 0,
    );
    const chosen = stopped === 1 ? Math.min(count, Math.max(0, (drawn ?? 0) - first)) : count;
    const ids = Array.from(
      { length: chosen },
      (_, i) => words[stateWords.tokens + ((first + i) % stateWords.ring)] ?? 0,
    );
    if (isDecode) {
      this.#inFlight = stopped === 1 ? 0 : this.#inFlight - count;
      if (this.#next !== undefined) this.#cached.push(this.#next, ...ids.slice(0, -1));
      this.#written = Math.max(this.#written, this.#cached.length);
    }
    this.#next = ids.at(-1);
    return { ids, notFinite: stopped === 1 ? (notFinite ?? 0) : 0 };
  }

  /** Tokens of the cached prefix that `ids` can keep; at least the last of `ids` is run, for its logits. */
  #reusable(ids: readonly number[]): number {
    let shared = 0;
    while (shared < ids.length - 1 && ids[shared] === this.#cached[shared]) shared++;
    // A ring may have overwritten keys that a shorter prefix needs again.
    const { chunkTokens } = this.runtime.options;
    return this.#isRing && this.#written > shared + chunkTokens ? 0 : shared;
  }

  /** Logits, and with `trace` the named values, of every position, a chunk at a time. What was cached is gone. */
  async *every(
    kind: "all" | "trace",
    ids: readonly number[],
    signal?: AbortSignal,
  ): AsyncGenerator<TraceRows, void, undefined> {
    this.checkPrompt(ids);
    const release = await this.exclusive();
    try {
      const { maxSeq, taps, logitsSlot, vocab } = this.runtime.plan(kind);
      this.cache.setRegime(ropeRegime(this.runtime.architecture.rope, ids.length));
      this.#cached = []; // this call writes over whatever was cached
      this.#inFlight = 0;
      for (let past = 0; past < ids.length; past += maxSeq) {
        if (signal?.aborted) throw new PhiError("aborted", "stopped");
        const chunk = ids.slice(past, past + maxSeq);
        const rows = chunk.length;
        const parts = [...taps].map(([name, { slot, cols }]) => ({ name, slot, floats: rows * cols }));
        parts.push({ name: "logits", slot: logitsSlot, floats: rows * vocab });
        await this.#call(kind, (runner) => runner.feed(chunk, past, 0, { signal, last: this.#readback.copy(parts) }));
        yield { firstPosition: past, rows, values: await this.#readback.read(parts) };
      }
    } finally {
      release();
    }
  }

  /** Refuses ids that no token has, an empty prompt and one that leaves no room. Throws a PhiError "usage". */
  checkPrompt(ids: readonly number[]): void {
    if (ids.length === 0) throw new PhiError("usage", "the prompt is empty: expected at least one token");
    const { architecture, options } = this.runtime;
    const { vocab, maxPositions } = architecture;
    const bad = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocab);
    if (bad >= 0)
      throw new PhiError("usage", `token ${bad} of the prompt: expected an id from 0 to ${vocab - 1}, got ${ids[bad]}`);
    if (ids.length > options.context) {
      throw new PhiError("usage", `the prompt is ${ids.length} tokens, the context is ${options.context}`, [
        `Shorten the prompt, or give --context up to ${maxPositions}.`,
      ]);
    }
  }

  /** Bytes of the keys and values. */
  get kvBytes(): number {
    return [...this.cache.keys, ...this.cache.values].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  }

  /** Frees its buffers. A call that is under way must have ended. */
  dispose(): void {
    const { state, control, marks, ids, cache } = this.#buffers;
    for (const buffer of [state, control, marks, ids, ...this.#stateStaging]) buffer.dispose();
    this.#readback.dispose();
    cache.dispose();
  }
}
