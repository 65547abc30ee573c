/** `phi eval`: perplexity of a text, and the distance from the model without quantization or from another one. */
import { createReadStream } from "node:fs";
import { type Evaluation, evaluate, PhiError, printable } from "../engine/index.ts";
import { loadTokenizer } from "../library/index.ts";
import { openAdapterOrRestart } from "./adapter.ts";
import { jsonLine } from "./format.ts";
import { readText } from "./input.ts";
import { checkMemory, describeModel, type OpenedModel, openModel, openModelFolder } from "./model.ts";
import { print } from "./output.ts";
import type { RunOptions } from "./run.ts";

/** Options of `phi eval`; `context` is the length of a window. */
export interface EvalOptions extends RunOptions {
  readonly text: string;
  readonly stride?: number;
  readonly windows?: number;
  /** `none`, or a folder. */
  readonly against?: string;
  readonly lossy?: boolean;
  readonly json?: boolean;
}

const defaultWindow = 1024;

/** Prints the figures. What can be refused is before an adapter is looked for. */
export async function evaluateText(options: EvalOptions, signal: AbortSignal): Promise<void> {
  const folder = await openModelFolder(options.model, options.allowSymlinks, { ...options, signal });
  const described = await describeModel(folder, options);
  const { vocabulary } = described;
  const context = options.context ?? Math.min(defaultWindow, described.maxPositions);
  if (options.stride !== undefined && options.stride > context) {
    throw new PhiError("usage", `--stride: expected at most the context of ${context}, got ${options.stride}`);
  }
  // The base has the weights as they are stored, and the most exact cache and activations.
  const base = { ...options, context, kv: "f32", activations: "f32", quantize: "none", quantizeHead: "none" } as const;
  const baseFolder =
    options.against === undefined || options.against === "none"
      ? folder
      : await openModelFolder(options.against, options.allowSymlinks, { ...options, signal });
  if (baseFolder !== folder) {
    const other = await describeModel(baseFolder, base);
    if (other.vocabulary !== vocabulary) {
      const expected = `a model with the same vocabulary of ${vocabulary}`;
      throw new PhiError("usage", `--against: expected ${expected}, got ${other.vocabulary}`);
    }
  }
  const tokenizer = await loadTokenizer(folder);
  const ids = tokenizer.encode(await readTextFile(options.text, options.lossy ?? false, signal), {
    addSpecialTokens: true,
  });
  if (ids.length < 2) {
    const got = `${ids.length === 0 ? "none" : ids.length} in ${printable(options.text)}`;
    throw new PhiError("usage", `--text: expected a text of at least 2 tokens, got ${got}`);
  }

  const adapter = await openAdapterOrRestart(options.adapter);
  if (adapter === undefined) return;
  checkMemory({ ...described, context }, adapter.adapter);
  const opened: OpenedModel[] = [];
  try {
    const own = await openModel(folder, adapter, { ...options, context }, "none", signal);
    opened.push(own);
    if (options.against !== undefined) {
      // An adapter serves one model.
      const another = await openAdapterOrRestart(options.adapter);
      if (another === undefined) return;
      opened.push(await openModel(baseFolder, another, base, "none", signal));
    }
    const progress = await progressBar();
    const evaluation = await evaluate(own.model, ids, {
      window: context,
      ...(options.stride !== undefined && { stride: options.stride }),
      ...(options.windows !== undefined && { maxWindows: options.windows }),
      ...(opened[1] !== undefined && { against: opened[1].model }),
      signal,
      onProgress: progress.update,
    }).finally(progress.stop);
    await print(options.json ? jsonLine(report(evaluation)) : table(evaluation, ids.length));
  } finally {
    for (const one of opened) one.dispose();
  }
}

async function readTextFile(path: string, lossy: boolean, signal: AbortSignal): Promise<string> {
  try {
    return await readText(createReadStream(path), lossy, signal, printable(path));
  } catch (error) {
    if (error instanceof PhiError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new PhiError("io", `--text: ${printable(path)}: cannot be read: ${printable(reason)}`);
  }
}

function report(evaluation: Evaluation) {
  const { tokens, windows, window, stride, meanNll, perplexity, against } = evaluation;
  return {
    tokens,
    windows,
    context: window,
    stride,
    mean_nll: meanNll,
    perplexity,
    ...(against && {
      mean_kl: against.meanKl,
      max_kl: against.maxKl,
      top1_agreement: against.top1Agreement,
      against: { mean_nll: against.meanNll, perplexity: against.perplexity },
    }),
  };
}

function table(evaluation: Evaluation, textTokens: number): string {
  const { tokens, windows, window, stride, meanNll, perplexity, against } = evaluation;
  const rows: [string, string][] = [
    ["tokens", `${tokens} of the text's ${textTokens}: windows of ${window}: ${windows}, ${stride} apart`],
    ["mean nll", `${meanNll.toFixed(6)} nats`],
    ["perplexity", perplexity.toFixed(4)],
  ];
  if (against !== undefined) {
    rows.push(
      ["base nll", `${against.meanNll.toFixed(6)} nats`],
      ["base perplexity", `${against.perplexity.toFixed(4)}, ${percent(perplexity / against.perplexity - 1)} to this`],
      ["mean kl", `${against.meanKl.toExponential(3)} nats, base || this`],
      ["max kl", `${against.maxKl.toExponential(3)} nats`],
      ["top-1 agreement", `${(100 * against.top1Agreement).toFixed(2)} %`],
    );
  }
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}\n`).join("");
}

/** Scored tokens on stderr, where that is a terminal. */
async function progressBar() {
  if (!process.stderr.isTTY) return { update() {}, stop() {} };
  const { SingleBar } = await import("cli-progress");
  const bar = new SingleBar({
    format: "eval [{bar}] {value}/{total} tokens, {eta_formatted} left",
    stream: process.stderr,
    clearOnComplete: true,
    hideCursor: false,
  });
  let started = false;
  return {
    update(doneTokens: number, totalTokens: number) {
      if (!started) bar.start(totalTokens, doneTokens);
      else bar.update(doneTokens);
      started = true;
    },
    stop: () => bar.stop(),
  };
}

function percent(change: number): string {
  return `${change < 0 ? "" : "+"}${(100 * change).toFixed(2)} %`;
}
