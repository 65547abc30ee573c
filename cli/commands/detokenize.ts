/** What `phi detokenize` takes, and examples of it. */
import type { Command } from "commander";
import { withFolder } from "./shared.ts";

export function declare(command: Command, signal: AbortSignal): void {
  withFolder(command)
    .option("--skip-special", "leave special tokens out")
    .action(async (options) => {
      const { detokenize } = await import("../tokenize.ts");
      await detokenize(options, signal);
    });
}

export const examples = ["echo '[593,592,260,349]' | phi detokenize"];
