/** `bench peers`: options, and what is opened, measured and reported. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { integerOption } from "../../cli/options.ts";
import { note, print } from "../../cli/output.ts";
import { cacheFolder } from "../../cli/package.ts";
import { benchPeers, peersText } from "../peers/compare.ts";
import { peerFolders, setUp } from "../peers/setup.ts";
import { environmentOf, tableJson } from "../report.ts";
import { mostTokens, onProgress, openWorkingAdapter } from "./shared.ts";

interface PeersCommandOptions {
  readonly model: string;
  readonly peers: string;
  readonly setup?: boolean;
  readonly only: readonly string[];
  readonly rounds: number;
  readonly newTokens: number;
  readonly promptTokens: number;
  readonly timeout: number;
  readonly json?: string;
}

async function peers(options: PeersCommandOptions, signal: AbortSignal): Promise<void> {
  const { model: checkpoint, peers: root } = options;
  if (options.setup) {
    const failures = await setUp({ peers: peerFolders, root, checkpoint, signal, onProgress });
    for (const failure of failures) note(failure);
    return;
  }
  const opened = await openWorkingAdapter(undefined);
  if (opened === undefined) return;
  try {
    const environment = environmentOf(opened);
    const { rounds, newTokens, promptTokens, timeout, only } = options;
    const amounts = { rounds, newTokens, promptTokens, timeoutS: timeout };
    const { adapter } = opened;
    const messages = { onProgress, onNote: note };
    const compared = await benchPeers({
      ...amounts,
      ...messages,
      checkpoint,
      root,
      only,
      adapter,
      environment,
      signal,
    });
    if (options.json !== undefined) {
      await writeFile(options.json, tableJson([...compared.engines, ...compared.ratios], environment));
    }
    await print(peersText(compared, environment));
  } finally {
    opened.release();
  }
}

/** Declares `bench peers`. */
export function declarePeers(command: Command, signal: AbortSignal): void {
  command
    .description(
      "other engines beside ours, in turn, on this adapter and the same weights; --setup installs them first",
    )
    .requiredOption("-m, --model <dir>", "folder of SmolLM2 as a Phi-3 checkpoint")
    .option("--peers <dir>", "where the peers are installed", join(cacheFolder(), "peers"))
    .option("--setup", "install what is missing there from the package registries, and measure nothing")
    .option("--only <name,…>", "engines whose names hold one of these", (text) => text.split(","), [""])
    .option("-n, --rounds <n>", "in which each engine runs once", integerOption("--rounds", 1, 1000), 3)
    .option("-g, --new-tokens <n>", "tokens of a run", integerOption("--new-tokens", 1, mostTokens), 16)
    .option("-p, --prompt-tokens <n>", "tokens of the prompt", integerOption("--prompt-tokens", 1, mostTokens), 512)
    .option("--timeout <s>", "seconds that a run may take", integerOption("--timeout", 1, 100_000), 900)
    .option("--json <file>", "write every sample there too")
    .action(async (options: PeersCommandOptions) => peers(options, signal));
}
