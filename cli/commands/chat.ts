/** What `phi chat` takes, and examples of it. */
import { type Command, Option } from "commander";
import { chatForms, choiceOption, escapedStopOption, integerOption } from "../options.ts";
import { mostTokens, withSampling, withWeights } from "./shared.ts";

export function declare(command: Command, signal: AbortSignal): void {
  withSampling(withWeights(command, "f16"))
    .option(
      "-n, --max-tokens <n>",
      "an answer has at most this many",
      integerOption("--max-tokens", 1, mostTokens),
      512,
    )
    .option("--system <text>", "the system prompt")
    .addOption(
      new Option("--form <name>", "how the conversation is written (default: the model's template, or its card's form)")
        .choices(chatForms)
        .argParser(choiceOption("--form", chatForms)),
    )
    .option(
      "--stop <text>",
      "an answer ends before this text; \\n, \\t, \\\\ as in C (repeatable)",
      escapedStopOption,
      [],
    )
    .option("--raw-output", "control characters go to the terminal as they are")
    .option("--stats", "after each answer: tokens that were cached and run, rates, how full the context is")
    .action(async (options) => {
      const { chat } = await import("../chat.ts");
      await chat(options, signal);
    });
}

export const examples = [
  "phi chat -m ./phi-4",
  'phi chat -m microsoft/Phi-4-mini-instruct --system "Answer briefly." --temperature 0.7 --stats',
  "printf 'What is 3 + 4?\\nAnd 5 more?\\n' | phi chat",
];
