/** `bench quantization`: options, and what is opened, measured and reported. */
import { createReadStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import { basename } from "node:path";
import type { Command } from "commander";
import { readText } from "../../cli/input.ts";
import { openModelFolder } from "../../cli/model.ts";
import { choiceOption, integerOption } from "../../cli/options.ts";
import { print } from "../../cli/output.ts";
import { loadModel } from "../../engine/index.ts";
import { loadTokenizer } from "../../library/index.ts";
import {
  benchQuantization,
  type ConfigurationName,
  configurationNames,
  quantizationFigures,
  quantizationTable,
} from "../quantization.ts";
import { environmentLines, environmentOf, tableJson } from "../report.ts";
import { anotherAdapter, modelName, mostTokens, onProgress, openWorkingAdapter } from "./shared.ts";

interface QuantizationCommandOptions {
  readonly model?: string;
  readonly adapter?: string;
  readonly text: string;
  readonly context?: number;
  readonly windows?: number;
  readonly json?: string;
}

async function quantization(
  names: readonly ConfigurationName[],
  options: QuantizationCommandOptions,
  signal: AbortSignal,
): Promise<void> {
  const folder = await openModelFolder(options.model);
  const tokenizer = await loadTokenizer(folder);
  const text = await readText(createReadStream(options.text), false, signal, options.text);
  const ids = tokenizer.encode(text, { addSpecialTokens: true });
  const opened = await openWorkingAdapter(options.adapter);
  if (opened === undefined) return;
  try {
    const environment = environmentOf(opened);
    const rows = await benchQuantization({
      names,
      async open(configuration) {
        const adapter = await anotherAdapter(opened);
        const { context } = options;
        return loadModel({ folder, adapter, ...configuration, signal, ...(context !== undefined && { context }) });
      },
      ids,
      window: options.context,
      maxWindows: options.windows,
      signal,
      onProgress,
    });
    const [base] = rows;
    if (base === undefined) return;
    const { tokens, windows, window } = base.evaluation;
    const settings = `${tokens} tokens of ${basename(options.text)}, windows of ${window}: ${windows}`;
    const model = modelName(folder.name);
    const tables = rows.map((row) => ({
      command: "quantization",
      model: `${model}, ${row.name}`,
      settings,
      figures: quantizationFigures(row),
    }));
    if (options.json !== undefined) await writeFile(options.json, tableJson(tables, environment));
    await print(`${environmentLines(environment).join("\n")}\n\n${model}; ${settings}\n\n${quantizationTable(rows)}`);
  } finally {
    opened.release();
  }
}

function configurationArgument(text: string, previous: readonly ConfigurationName[] | undefined) {
  return [...(previous ?? []), choiceOption("configuration", configurationNames)(text)];
}

/** Declares `bench quantization`. */
export function declareQuantization(command: Command, signal: AbortSignal): void {
  command
    .description(
      "perplexity, divergence and bytes of the quantized forms of a model, against the model as it is stored",
    )
    .argument("[configurations...]", `of ${configurationNames.join(", ")} (default: all)`, configurationArgument)
    .requiredOption("--text <file>", "the text, UTF-8")
    .option("-m, --model <dir>", "checkpoint folder (default: the bundled phi-tiny)")
    .option("--adapter <name>", "a part of an adapter's name, or swiftshader (also PHI_ADAPTER)")
    .option("--context <n>", "tokens of a window", integerOption("--context", 1, mostTokens))
    .option("--windows <n>", "at most this many windows", integerOption("--windows", 1, mostTokens))
    .option("--json <file>", "write the figures there too")
    .action(async (names: readonly ConfigurationName[] | undefined, options: QuantizationCommandOptions) => {
      await quantization(names?.length ? names : configurationNames, options, signal);
    });
}
