/** What `phi generate` takes, and examples of it. */
import { type Command, Option } from "commander";
import { escapedStopOption, idsOption, integerOption, nameOption } from "../options.ts";
import { mostTokens, withSampling, withWeights } from "./shared.ts";

export function declare(command: Command, signal: AbortSignal): void {
  withSampling(withWeights(command, "f16"))
    .option("-n, --max-tokens <n>", "at most this many new tokens", integerOption("--max-tokens", 0, mostTokens), 256)
    .option("--stop <text>", "end before this text; \\n, \\t, \\\\ as in C (repeatable)", escapedStopOption, [])
    .option("--ids <ids>", "token ids 1,2,3 in place of the prompt; needs no tokenizer", idsOption)
    .option("--ignore-eos", "go on after an end-of-sequence token")
    .addOption(new Option("--raw", "the prompt is plain text (the default)").conflicts("chat"))
    .option("--chat", "the prompt is a user's message in the model's chat template")
    .option("--lossy", "replace invalid UTF-8 on stdin")
    .option("--raw-output", "control characters go to the terminal as they are")
    .option("--stats", "times, rates and memory on stderr")
    .option("--json", "print { text, token_ids, finish_reason, stats } in place of the text")
    .option(
      "--prompts <file>",
      "many prompts, a JSON object a line (docs/command-line.md); the results go to -o",
      nameOption("--prompts"),
    )
    .option(
      "-o, --output <file>",
      "with --prompts: a result a line; those that are there already are not made again",
      nameOption("--output"),
    )
    .option("--explain", "print the plan of dispatches and stop")
    .addOption(
      new Option("--profile <file>", "write a Chrome trace of the GPU's time there, and a table of kernels on stderr")
        .argParser(nameOption("--profile"))
        .conflicts("prompts"),
    )
    .action(async (prompt: string | undefined, options) => {
      if (options.prompts !== undefined) {
        const { generatePrompts } = await import("../prompts.ts");
        return generatePrompts(prompt, options, signal);
      }
      const { generate } = await import("../generate.ts");
      await generate(prompt, options, signal);
    });
}

export const examples = [
  'phi "Once upon a time"',
  'phi -m ./phi-4 --chat -n 200 --temperature 0.7 --seed 1 "Why is the sky blue?"',
  "phi -m ./phi-2 --stop '\\n\\n' < prompt.txt",
  "phi --ids 593,592,260,349 --json",
  "phi -m ./phi-4 --prompts prompts.jsonl -o results.jsonl -n 200",
];
