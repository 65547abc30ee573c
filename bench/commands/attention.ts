/** `bench attention`: options, and what is opened, measured and reported. */
import type { Command } from "commander";
import { integerOption } from "../../cli/options.ts";
import { benchAttention } from "../attention.ts";
import { environmentOf } from "../report.ts";
import { integersOption, onProgress, openWorkingAdapter, report } from "./shared.ts";

interface AttentionCommandOptions {
  readonly adapter?: string;
  readonly positions: readonly number[];
  readonly tokens: readonly number[];
  readonly repetitions: number;
  readonly json?: string;
}

async function attention(options: AttentionCommandOptions): Promise<void> {
  const opened = await openWorkingAdapter(options.adapter);
  if (opened === undefined) return;
  try {
    const environment = environmentOf(opened);
    const figures = await benchAttention(opened.adapter, { ...options, onProgress });
    const settings = "f16 cache, random keys and values";
    await report(
      [{ command: "attention", model: "phi-3-small, a layer", settings, figures }],
      environment,
      options.json,
    );
  } finally {
    opened.release();
  }
}

/** Declares `bench attention`. */
export function declareAttention(command: Command): void {
  command
    .description("phi-3-small's block-sparse layers against its dense ones: time of a layer's attention")
    .option("-n, --repetitions <n>", "timed runs", integerOption("--repetitions", 1, 1000), 5)
    .option("-p, --positions <n,…>", "length of the sequence", integersOption("--positions", 1), [4096, 8192])
    .option("-t, --tokens <n,…>", "tokens of a call, its last ones", integersOption("--tokens", 1), [1, 16])
    .option("--adapter <name>", "a part of an adapter's name or swiftshader (also PHI_ADAPTER)")
    .option("--json <file>", "write every sample there too")
    .action(attention);
}
