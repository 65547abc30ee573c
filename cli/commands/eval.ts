/** What `phi eval` takes, and examples of it. */
import type { Command } from "commander";
import { integerOption, nameOption } from "../options.ts";
import { mostTokens, withWeights } from "./shared.ts";

export function declare(command: Command, signal: AbortSignal): void {
  withWeights(command, "f16")
    .requiredOption("--text <file>", "the text, UTF-8", nameOption("--text"))
    .option(
      "--stride <n>",
      "tokens from window to window (default: the context)",
      integerOption("--stride", 1, mostTokens),
    )
    .option("--windows <n>", "at most this many windows", integerOption("--windows", 1, mostTokens))
    .option("--against <dir>", "divergence from this model; none: from the same one as it is stored, with an f32 cache")
    .option("--lossy", "replace invalid UTF-8 in the text")
    .option("--json", "print one JSON object")
    .addHelpText("after", "\nThe context is the length of a window: 1024, where the model has that many positions.")
    .action(async (options) => {
      const { evaluateText } = await import("../eval.ts");
      await evaluateText(options, signal);
    });
}

export const examples = [
  "phi eval --text story.txt",
  "phi eval -m ./phi-2 --text wiki.txt --kv int8 --against none --json",
];
