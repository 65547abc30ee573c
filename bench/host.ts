/**
 * `host`: what the CPU spends on a decoded token, measured on Dawn's null backend, which does everything but the GPU's
 * work: there the time of the decode loop is host time.
 */
import type { DeviceCall } from "../engine/gpu/device.ts";
import { type KvFormat, loadModel, type Model } from "../engine/index.ts";
import type { Figure } from "./report.ts";
import { planSynthetic, type SyntheticPreset, syntheticFolder } from "./synthetic.ts";
import { promptIds, timeRun } from "./text.ts";

export interface HostOptions {
  readonly preset: SyntheticPreset;
  /** Default: the model's own. */
  readonly layers?: number | undefined;
  readonly kv: KvFormat;
  readonly context?: number | undefined;
  /** Tokens before the first that is timed. */
  readonly depths: readonly number[];
  readonly newTokens: number;
  readonly repetitions: number;
  readonly onProgress?: (text: string) => void;
}

/** Time by the WebGPU call that was made last: what follows it belongs to it. */
const parts = {
  createCommandEncoder: "encode",
  submit: "submit",
  mapAsync: "read back",
} as const satisfies Partial<Record<DeviceCall, string>>;

type Part = (typeof parts)[keyof typeof parts];

/** Adds up the time between WebGPU calls while it runs. */
function callClock() {
  const totals = new Map<Part, number>();
  let current: Part | undefined;
  let since = 0;
  let running = false;
  const settle = () => {
    const now = performance.now();
    if (current !== undefined) totals.set(current, (totals.get(current) ?? 0) + now - since);
    since = now;
  };
  return {
    totals,
    /** Begins behind a read-back, as a token arrives. */
    start() {
      totals.clear();
      current = "read back";
      since = performance.now();
      running = true;
    },
    stop() {
      settle();
      running = false;
    },
    intercept(call: DeviceCall) {
      if (!running || !(call in parts)) return;
      settle();
      current = parts[call as keyof typeof parts];
    },
  };
}

const smallBytes = 1 << 20;
const shrunkBytes = 1 << 16;

/**
 * Has an adapter's device make a small buffer wherever more than a mebibyte is asked for, and ignore what is written or
 * copied to it. The null backend allows all buffers together 512 MiB and computes nothing: no model of real size would
 * fit and none needs its room, for what the host does for a token does not depend on the size of a buffer. Buffers begin
 * as zeros and what is read back stays so: that backend leaves memory as it finds it and copies nothing.
 */
export function withSmallBuffers(adapter: GPUAdapter): void {
  const requestDevice = adapter.requestDevice.bind(adapter);
  adapter.requestDevice = async (descriptor) => {
    const device = await requestDevice(descriptor);
    const { queue } = device;
    const createBuffer = device.createBuffer.bind(device);
    const createCommandEncoder = device.createCommandEncoder.bind(device);
    const writeBuffer = queue.writeBuffer.bind(queue);
    const shrunk = new WeakSet<GPUBuffer>();
    device.createBuffer = (asked) => {
      if ((asked.usage & GPUBufferUsage.MAP_WRITE) !== 0) return createBuffer(asked);
      const isWhole = asked.size <= smallBytes || (asked.usage & GPUBufferUsage.MAP_READ) !== 0;
      const size = isWhole ? asked.size : shrunkBytes;
      const buffer = createBuffer({ ...asked, size, usage: asked.usage | GPUBufferUsage.COPY_DST });
      if (isWhole) writeBuffer(buffer, 0, new Uint8Array(size));
      else shrunk.add(buffer);
      return buffer;
    };
    queue.writeBuffer = (buffer, ...rest) => {
      if (!shrunk.has(buffer)) writeBuffer(buffer, ...rest);
    };
    device.createCommandEncoder = (descriptor) => {
      const encoder = createCommandEncoder(descriptor);
      const copy = encoder.copyBufferToBuffer.bind(encoder);
      encoder.copyBufferToBuffer = ((from: GPUBuffer, at: number, to: GPUBuffer, toAt: number, size: number) => {
        if (!shrunk.has(to)) copy(from, at, to, toAt, size);
      }) as typeof copy;
      return encoder;
    };
    return device;
  };
}

/** Microseconds of host time per decoded token and dispatch, and how a token's divides. `adapter` is the null one. */
export async function benchHost(
  adapter: GPUAdapter,
  options: HostOptions,
): Promise<{ readonly layers: number; readonly figures: readonly Figure[] }> {
  const { preset, kv, newTokens, repetitions, onProgress } = options;
  const clock = callClock();
  withSmallBuffers(adapter);
  onProgress?.(`${preset}: loading`);
  const model = await loadModel({
    folder: syntheticFolder({ preset, layers: options.layers }),
    adapter,
    kv,
    ...(options.context !== undefined && { context: options.context }),
    device: { intercept: clock.intercept },
  });
  try {
    const figures: Figure[] = [];
    for (const depth of options.depths) {
      const prompt = promptIds(Math.max(1, depth), model.vocabularySize);
      onProgress?.(`${preset}: decode at depth ${depth}`);
      // Two runs: the second has the compiled JavaScript of the first.
      for (let n = 0; n < 2; n++) await timeRun(model, prompt, newTokens + 1);
      const usPerToken: number[] = [];
      const cpuUsPerToken: number[] = [];
      let dispatches = 0;
      for (let n = 0; n < repetitions; n++) {
        let before = process.cpuUsage();
        let spent = before;
        const run = await timeRun(model, prompt, newTokens + 1, {
          onFirst: () => {
            before = process.cpuUsage();
          },
          onLast: () => {
            spent = process.cpuUsage(before);
          },
        });
        usPerToken.push((run.decodeMs * 1000) / newTokens);
        cpuUsPerToken.push((spent.user + spent.system) / newTokens);
        dispatches = run.dispatchesPerToken;
      }
      const perDispatch = usPerToken.map((us) => us / dispatches);
      const where = `at depth ${depth}`;
      figures.push({ name: `host time ${where}`, unit: "µs/token", samples: usPerToken });
      // Of all threads, Dawn's too: what is left of the time where others use the processor.
      figures.push({ name: "  CPU", unit: "µs/token", samples: cpuUsPerToken });
      figures.push(...(await divide(model, prompt, options, clock)));
      figures.push({ name: `host time ${where}`, unit: "µs/dispatch", samples: perDispatch });
      if (depth === options.depths.at(-1)) figures.push({ name: "dispatches", unit: "a token", samples: [dispatches] });
    }
    return { layers: Number(planSynthetic(options).config.num_hidden_layers), figures };
  } finally {
    model.dispose();
  }
}

/** The shares of encoding, submitting and reading back, in runs of their own: the clock takes time too. */
async function divide(
  model: Model,
  prompt: readonly number[],
  { newTokens, repetitions }: HostOptions,
  clock: ReturnType<typeof callClock>,
): Promise<readonly Figure[]> {
  const samples: Readonly<Record<Part, number[]>> = { encode: [], submit: [], "read back": [] };
  for (let n = 0; n < repetitions; n++) {
    await timeRun(model, prompt, newTokens + 1, { onFirst: clock.start, onLast: clock.stop });
    for (const [part, list] of Object.entries(samples)) {
      list.push(((clock.totals.get(part as Part) ?? 0) * 1000) / newTokens);
    }
  }
  return Object.entries(samples).map(([part, list]) => ({ name: `  ${part}`, unit: "µs/token", samples: list }));
}
