/** Options that several commands take. */
import { type Command, Option } from "commander";
import type { KvFormat } from "../../engine/index.ts";
import {
  activationFormats,
  choiceOption,
  groupSizes,
  integerOption,
  kvFormats,
  logitBiasOption,
  nameOption,
  numberChoiceOption,
  numberOption,
  quantizeSchemes,
  ropePolicies,
  seedOption,
  weightTypes,
} from "../options.ts";

/** More tokens than any model has positions. */
export const mostTokens = 2 ** 31 - 1;

export function withFolder(command: Command): Command {
  return command
    .option(
      "-m, --model <dir>",
      "checkpoint folder, or a model's name on the Hugging Face hub (default: the bundled phi-tiny)",
    )
    .option("--allow-symlinks", "follow links that lead out of the folder; a Hugging Face cache needs no permission");
}

export function withAdapter(command: Command): Command {
  return command
    .option(
      "--adapter <name>",
      "a part of an adapter's name, swiftshader, or null (also PHI_ADAPTER)",
      nameOption("--adapter"),
    )
    .option("--no-features", "use no optional feature of WebGPU (also PHI_FEATURES=none)");
}

export function withCache(command: Command, kv: KvFormat): Command {
  return command
    .addOption(
      new Option("--kv <type>", "type of the key-value cache")
        .default(kv)
        .choices(kvFormats)
        .argParser(choiceOption("--kv", kvFormats)),
    )
    .option("--context <n>", "positions the cache holds", integerOption("--context", 1, mostTokens));
}

export function withQuantize(command: Command): Command {
  const choice = <Value extends string>(flag: string, description: string, choices: readonly Value[]) => {
    const [name = ""] = flag.split(" ");
    return new Option(flag, description).choices(choices).argParser(choiceOption(name, choices));
  };
  return command
    .addOption(
      choice("--quantize <type>", "what float weights become while they are loaded", weightTypes).default("none"),
    )
    .addOption(
      choice("--quantize-head <type>", "the same of head and embedding (default: int8 if the others are)", weightTypes),
    )
    .addOption(
      new Option("--group-size <n>", "weights that share a scale and a zero")
        .choices(groupSizes.map(String))
        .default(32)
        .argParser(numberChoiceOption("--group-size", groupSizes)),
    )
    .addOption(
      choice(
        "--quantize-scheme <name>",
        "which zeros: any, the middle, or integers as in GPTQ files",
        quantizeSchemes,
      ).default("asymmetric"),
    );
}

export function withRun(command: Command, kv: KvFormat): Command {
  return withQuantize(withCache(withAdapter(withFolder(command)), kv)).addOption(
    new Option("--activations <type>", "what linears on integer weights make of their input")
      .default("f32")
      .choices(activationFormats)
      .argParser(choiceOption("--activations", activationFormats)),
  );
}

export function withWeights(command: Command, kv: KvFormat): Command {
  return withRun(command, kv)
    .addOption(
      new Option(
        "--rope <policy>",
        "longrope's factors: by the sequence's length as in transformers, or always the same",
      )
        .default("hf-exact")
        .choices(ropePolicies)
        .argParser(choiceOption("--rope", ropePolicies)),
    )
    .option("--allow-nan-weights", "load weights that are NaN or infinite");
}

export function withSampling(command: Command): Command {
  return command
    .option(
      "--temperature <t>",
      "0 takes the likeliest token (default: generation_config.json, else 0)",
      numberOption("--temperature", { from: 0 }),
    )
    .option("--top-k <k>", "draw from the k likeliest tokens; 0 is off", integerOption("--top-k", 0, mostTokens))
    .option(
      "--top-p <p>",
      "draw from the likeliest tokens that make up p; 0 keeps one",
      numberOption("--top-p", { from: 0, to: 1 }),
    )
    .option("--min-p <p>", "drop tokens below p times the likeliest one's", numberOption("--min-p", { from: 0, to: 1 }))
    .option(
      "--repeat-penalty <r>",
      "divide what was said already by r; 1 is off",
      numberOption("--repeat-penalty", { from: 0, above: true }),
    )
    .option(
      "--presence-penalty <a>",
      "subtract a from the logits of new tokens said already",
      numberOption("--presence-penalty", { from: Number.NEGATIVE_INFINITY }),
    )
    .option(
      "--frequency-penalty <a>",
      "subtract a for each time that they were said",
      numberOption("--frequency-penalty", { from: Number.NEGATIVE_INFINITY }),
    )
    .option(
      "--logit-bias <id=value>",
      "add to a token's logit (repeatable)",
      logitBiasOption,
      new Map<number, number>(),
    )
    .option("--seed <n>", "of the random draws; printed on stderr when chosen for you", seedOption);
}
