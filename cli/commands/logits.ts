/** What `phi logits` takes, and examples of it. */
import type { Command } from "commander";
import { idsOption, nameOption } from "../options.ts";
import { withWeights } from "./shared.ts";

export function declare(command: Command, signal: AbortSignal): void {
  withWeights(command, "f32")
    .requiredOption("--ids <ids>", "the input: token ids 1,2,3", idsOption)
    .requiredOption(
      "-o, --output <file>",
      "where to write: tensor logits, F32 [tokens, vocabulary]",
      nameOption("--output"),
    )
    .action(async (options) => {
      const { logits } = await import("../logits.ts");
      await logits(options, signal);
    });
}

export const examples = ["phi logits --ids 593,592,260 -o logits.safetensors"];
