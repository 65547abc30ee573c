/** What `phi tokenize` takes, and examples of it. */
import type { Command } from "commander";
import { withFolder } from "./shared.ts";

export function declare(command: Command, signal: AbortSignal): void {
  withFolder(command)
    .option("--special", "add the special tokens that the tokenizer puts around a text")
    .option("--chat", "stdin is a JSON array of messages { role, content }; their template is rendered first")
    .option("--no-generation-prompt", "with --chat: do not open the assistant's answer")
    .option(
      "--special-in-content",
      "with --chat: control tokens in any message's text count as such, as in an assistant's",
    )
    .option("--lossy", "replace invalid UTF-8 on stdin")
    .action(async (options) => {
      const { tokenize } = await import("../tokenize.ts");
      await tokenize(options, signal);
    });
}

export const examples = ["echo -n 'Once upon a time' | phi tokenize"];
