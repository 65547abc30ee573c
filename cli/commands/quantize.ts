/** What `phi quantize` takes, and examples of it. */
import { type Command, Option } from "commander";
import { choiceOption, groupSizes, nameOption, numberChoiceOption } from "../options.ts";
import { withAdapter, withFolder } from "./shared.ts";

export function declare(command: Command, signal: AbortSignal): void {
  withAdapter(withFolder(command))
    .requiredOption("-o, --output <dir>", "a new folder, or an empty one", nameOption("--output"))
    .addOption(
      new Option("--quantize <type>", "type of the weights")
        .default("int4")
        .choices(["int4", "int8"])
        .argParser(choiceOption("--quantize", ["int4", "int8"])),
    )
    .addOption(
      new Option("--group-size <n>", "weights that share a scale and a zero")
        .choices(groupSizes.map(String))
        .default(32)
        .argParser(numberChoiceOption("--group-size", groupSizes)),
    )
    .option("--sym", "no zero points: the middle of the levels is zero")
    .action(async (options) => {
      const { quantize } = await import("../quantize.ts");
      await quantize(options, signal);
    });
}

export const examples = ["phi quantize -m ./phi-4 -o ./phi-4-int4"];
