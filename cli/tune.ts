/** `phi tune`: measures the sizes of a model's kernels on this machine's adapter, and keeps the best ones. */
import { PhiError, printable, type TunedKernel, type TuneReport, tuneModel } from "../engine/index.ts";
import { openAdapterOrRestart } from "./adapter.ts";
import { jsonLine } from "./format.ts";
import { checkMemory, describeModel, loadProgress, openModelFolder } from "./model.ts";
import { note, print, writing } from "./output.ts";
import { cacheFolder } from "./package.ts";
import { checkedKernels, forgetTuned, tunedStore } from "./remembered.ts";
import { loadOptions, type RunOptions, usedFeatures } from "./run.ts";

/** Options of `phi tune`. */
export interface TuneCommandOptions extends RunOptions {
  readonly seconds: number;
  readonly only?: string;
  readonly clear?: boolean;
  readonly json?: boolean;
}

/** Runs the command. What was found is written when all is measured, and not at all where it is stopped. */
export async function tune(options: TuneCommandOptions, signal: AbortSignal): Promise<void> {
  if (options.clear) {
    const count = await writing(cacheFolder(), async () => forgetTuned());
    note(`${cacheFolder()}: ${count === 1 ? "1 file" : `${count} files`} of sizes removed`);
    return;
  }
  const folder = await openModelFolder(options.model, options.allowSymlinks, { ...options, signal });
  const description = await describeModel(folder, options);
  const opened = await openAdapterOrRestart(options.adapter);
  if (opened === undefined) return;
  const progress = await loadProgress();
  try {
    const { adapter, backend } = opened;
    if (backend === "null") throw new PhiError("usage", "--adapter: expected one that computes, got null");
    checkMemory(description, adapter);
    const features = usedFeatures(options);
    const report = await tuneModel({
      folder,
      adapter,
      ...loadOptions(options),
      device: { features },
      checked: checkedKernels(adapter),
      seconds: options.seconds,
      ...(options.only !== undefined && { only: options.only }),
      signal,
      onProgress: progress.update,
      onKernel({ kernel, candidates, secondsLeft }) {
        progress.stop();
        process.stderr.write(`${kernel}: ${candidates} sizes, ${Math.ceil(secondsLeft)} s left\n`);
      },
    });
    for (const line of report.notes) note(line);
    for (const { kernel, tried } of report.kernels) {
      for (const { size, result, message } of tried) {
        if (result !== "ran") note(`${kernel}, ${size}: ${message ?? result}`);
      }
    }
    const store = tunedStore(adapter, features);
    await writing(store.file, async () => store.write(report.sizes, report.keys));
    await print(options.json ? jsonLine({ ...report, file: store.file }) : tuneText(report));
    note(`${store.file} is used from now on; phi tune --clear removes it`);
  } finally {
    progress.stop();
    opened.release();
  }
}

const percent = (share: number) => `${(100 * share).toFixed(0)} %`;

/** A table of the kernels, the largest share first, and the whole calls below it. */
export function tuneText({ adapterName, kernels, whole, seconds }: TuneReport): string {
  const rows = [...kernels]
    .sort((a, b) => (a.plan === b.plan ? b.share - a.share : a.plan < b.plan ? -1 : 1))
    .map((kernel) => [
      kernel.kernel,
      kernel.shapes.map(({ shape, count }) => `${count} × ${shape}`).join(", "),
      `${percent(kernel.share)} of ${kernel.plan}`,
      kernel.defaultSize,
      outcomeText(kernel),
    ]);
  const table = [["kernel", "shapes", "share", "default", "chosen"], ...rows];
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(...table.map((row) => row[column]?.length ?? 0)));
  return [
    printable(adapterName),
    ...table.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ").trimEnd()), // biome-ignore format: one table
    ...whole.map(({ plan, tokens, defaultMs, chosenMs }) => {
      const change = `${percent(Math.abs(1 - chosenMs / defaultMs))} ${chosenMs > defaultMs ? "more" : "less"}`;
      return `${plan} of ${tokens} tokens: ${defaultMs.toFixed(1)} ms, then ${chosenMs.toFixed(1)} ms, ${change}`;
    }),
    `${kernels.filter(({ chosenSize, defaultSize }) => chosenSize !== defaultSize).length} of ${kernels.length} kernels have another size; ${seconds.toFixed(0)} s`,
    "",
  ].join("\n");
}

function outcomeText({ chosenSize, defaultSize, ratio, skipped }: TunedKernel): string {
  if (skipped !== undefined) return `default: ${skipped}`;
  return chosenSize === defaultSize ? "default" : `${chosenSize}: ${percent(1 - ratio)} less time`;
}
