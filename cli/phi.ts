#!/usr/bin/env node
/** The executable `phi`. Commands are imported when they run, so that help and usage errors come at once. */
import { Argument, Command, CommanderError, Option } from "commander";
import { exitCodes, printable } from "../engine/errors.ts";
import type { KvFormat } from "../engine/index.ts";
import type { CompletedCommand, Shell } from "./completion.ts";
import {
  activationFormats,
  chatForms,
  choiceOption,
  escapedStopOption,
  groupSizes,
  idsOption,
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
} from "./options.ts";
import { print } from "./output.ts";
import { versionLine } from "./package.ts";
import { reportFailure, watchProcess } from "./process.ts";

const mostTokens = 2 ** 31 - 1;

function withFolder(command: Command): Command {
  return command
    .option(
      "-m, --model <dir>",
      "checkpoint folder, or a model's name on the Hugging Face hub (default: the bundled phi-tiny)",
    )
    .option("--allow-symlinks", "follow links that lead out of the folder; a Hugging Face cache needs no permission");
}

function withAdapter(command: Command): Command {
  return command
    .option(
      "--adapter <name>",
      "a part of an adapter's name, swiftshader, or null (also PHI_ADAPTER)",
      nameOption("--adapter"),
    )
    .option("--no-features", "use no optional feature of WebGPU (also PHI_FEATURES=none)");
}

function withCache(command: Command, kv: KvFormat): Command {
  return command
    .addOption(
      new Option("--kv <type>", "type of the key-value cache")
        .default(kv)
        .choices(kvFormats)
        .argParser(choiceOption("--kv", kvFormats)),
    )
    .option("--context <n>", "positions the cache holds", integerOption("--context", 1, mostTokens));
}

function withQuantize(command: Command): Command {
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

function withRun(command: Command, kv: KvFormat): Command {
  return withQuantize(withCache(withAdapter(withFolder(command)), kv)).addOption(
    new Option("--activations <type>", "what linears on integer weights make of their input")
      .default("f32")
      .choices(activationFormats)
      .argParser(choiceOption("--activations", activationFormats)),
  );
}

function withWeights(command: Command, kv: KvFormat): Command {
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

function withSampling(command: Command): Command {
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

function examples(command: Command, lines: readonly string[]): Command {
  return command.addHelpText("after", `\nExamples:\n${lines.map((line) => `  $ ${line}\n`).join("")}`);
}

function program(signal: AbortSignal): Command {
  const phi = new Command("phi")
    .description("Microsoft's Phi language models on WebGPU")
    .option("-V, --version", "versions of phi and of what it stands on, and the adapter it takes here")
    .helpCommand(true)
    .addHelpText("after", "\nA prompt alone is continued: phi generate --help lists the options of that.");

  examples(phi, ['phi "Once upon a time"', "phi -m ./phi-2 -n 100 < prompt.txt"]);

  const generate = withSampling(withWeights(phi.command("generate", { isDefault: true }), "f16"))
    .description("continue a prompt (the default command)")
    .argument("[prompt]", "the text to continue; read from stdin when there is none and stdin is no terminal")
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
      "many prompts, a JSON object a line (README); the results go to -o",
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
    .option("--debug", "a stack trace with every error")
    .action(async (prompt: string | undefined, options) => {
      if (options.prompts !== undefined) {
        const { generatePrompts } = await import("./prompts.ts");
        return generatePrompts(prompt, options, signal);
      }
      const { generate } = await import("./generate.ts");
      await generate(prompt, options, signal);
    });
  examples(generate, [
    'phi "Once upon a time"',
    'phi -m ./phi-4 --chat -n 200 --temperature 0.7 --seed 1 "Why is the sky blue?"',
    "phi -m ./phi-2 --stop '\\n\\n' < prompt.txt",
    "phi --ids 593,592,260,349 --json",
    "phi -m ./phi-4 --prompts prompts.jsonl -o results.jsonl -n 200",
  ]);

  const chat = withSampling(withWeights(phi.command("chat"), "f16"))
    .description("talk with a model; /help in it lists its commands")
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
    .option("--debug", "a stack trace with every error")
    .action(async (options) => {
      const { chat } = await import("./chat.ts");
      await chat(options, signal);
    });
  examples(chat, [
    "phi chat -m ./phi-4",
    'phi chat -m microsoft/Phi-4-mini-instruct --system "Answer briefly." --temperature 0.7 --stats',
    "printf 'What is 3 + 4?\\nAnd 5 more?\\n' | phi chat",
  ]);

  const logits = withWeights(phi.command("logits"), "f32")
    .description("write the logits of every position as a safetensors file")
    .requiredOption("--ids <ids>", "the input: token ids 1,2,3", idsOption)
    .requiredOption(
      "-o, --output <file>",
      "where to write: tensor logits, F32 [tokens, vocabulary]",
      nameOption("--output"),
    )
    .option("--debug", "a stack trace with every error")
    .action(async (options) => {
      const { logits } = await import("./logits.ts");
      await logits(options, signal);
    });
  examples(logits, ["phi logits --ids 593,592,260 -o logits.safetensors"]);

  const evaluate = withWeights(phi.command("eval"), "f16")
    .description("perplexity of a text, and how far the model is from another one")
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
    .option("--debug", "a stack trace with every error")
    .addHelpText("after", "\nThe context is the length of a window: 1024, where the model has that many positions.")
    .action(async (options) => {
      const { evaluateText } = await import("./eval.ts");
      await evaluateText(options, signal);
    });
  examples(evaluate, [
    "phi eval --text story.txt",
    "phi eval -m ./phi-2 --text wiki.txt --kv int8 --against none --json",
  ]);

  const info = withRun(phi.command("info"), "f16")
    .description("what a checkpoint is and what it takes, from its headers")
    .option("--json", "print one JSON object")
    .option("--debug", "a stack trace with every error")
    .action(async (options) => {
      const { info } = await import("./info.ts");
      await info(options);
    });
  examples(info, ["phi info", "phi info -m ./phi-4 --context 16384 --json"]);

  const verify = withWeights(phi.command("verify"), "f32")
    .description("compare every layer with expected numbers; exit code 1 where one is beyond the tolerance")
    .option(
      "--reference <file>",
      "F32 tensors hidden.* and logits.*, its .json beside it (default: reference.safetensors of the model)",
      nameOption("--reference"),
    )
    .option("--tolerance <t>", "largest absolute difference", numberOption("--tolerance", { from: 0 }), 5e-4)
    .option("--debug", "a stack trace with every error")
    .action(async (options) => {
      const { verify } = await import("./verify.ts");
      await verify(options, signal);
    });
  examples(verify, [
    "phi verify",
    "phi verify --adapter swiftshader",
    "phi verify -m ./phi-2 --reference phi-2.safetensors",
  ]);

  const doctor = withRun(phi.command("doctor"), "f16")
    .description(
      "check every kernel on this adapter, and print what a report of a fault needs; exit code 5 if one is wrong",
    )
    .option("--json", "print one JSON object")
    .option("--debug", "a stack trace with every error")
    .action(async (options) => {
      const { doctor } = await import("./doctor.ts");
      await doctor(options);
    });
  examples(doctor, ["phi doctor", "phi doctor -m ./phi-2 --adapter swiftshader --json"]);

  const tune = withRun(phi.command("tune"), "f16")
    .description("measure which sizes of a model's kernels are fastest on this adapter, and use them from now on")
    .option(
      "--seconds <n>",
      "measure no longer than this, loading not counted",
      integerOption("--seconds", 1, 86_400),
      120,
    )
    .option("--only <text>", "measure only kernels whose name holds this, such as matvec")
    .option("--clear", "forget what was measured, on every adapter")
    .option("--json", "print one JSON object")
    .option("--debug", "a stack trace with every error")
    .action(async (options) => {
      const { tune } = await import("./tune.ts");
      await tune(options, signal);
    });
  examples(tune, ["phi tune -m ./phi-2 --quantize int4", "phi tune --clear"]);

  const devices = phi
    .command("devices")
    .description("list the adapters of this machine")
    .option("--json", "print a JSON array")
    .option("--debug", "a stack trace with every error")
    .action(async (options) => {
      const { devices } = await import("./devices.ts");
      await devices(options);
    });
  examples(devices, ["phi devices", 'phi --adapter nvidia "Once upon a time"']);

  const pull = withQuantize(withCache(withAdapter(phi.command("pull")), "f16"))
    .description("download a model from the Hugging Face hub, once its headers say that it runs here")
    .argument("<name>", "organisation/name, with @ and a branch, tag or commit where it is not main")
    .option("--force", "download also what does not run here")
    .option("--debug", "a stack trace with every error")
    .action(async (name: string, options) => {
      const { pull } = await import("./hub.ts");
      await pull(name, options, signal);
    });
  examples(pull, ["phi pull microsoft/phi-2", "phi pull microsoft/Phi-3.5-mini-instruct@main --context 16384"]);

  const models = phi
    .command("models")
    .description("the published Phi models and what each takes")
    .option("--json", "print a JSON array")
    .option("--debug", "a stack trace with every error")
    .action(async (options) => {
      const { models } = await import("./models.ts");
      await models(options);
    });
  examples(models, ["phi models"]);

  const list = phi
    .command("list")
    .description("the models in the Hugging Face cache")
    .option("--json", "print a JSON array")
    .option("--debug", "a stack trace with every error")
    .action(async (options) => {
      const { list } = await import("./hub.ts");
      await list(options);
    });
  examples(list, ["phi list"]);

  const remove = phi
    .command("remove")
    .description("remove a model from the Hugging Face cache; what its other revisions use stays")
    .argument("<name>", "organisation/name, with @ and a revision to remove only that")
    .option("--yes", "do not ask")
    .option("--debug", "a stack trace with every error")
    .action(async (name: string, options) => {
      const { remove } = await import("./hub.ts");
      await remove(name, options, signal);
    });
  examples(remove, ["phi remove microsoft/phi-2", "phi remove microsoft/phi-2@main --yes"]);

  const tokenize = withFolder(phi.command("tokenize"))
    .description("text on stdin to a JSON array of token ids")
    .option("--special", "add the special tokens that the tokenizer puts around a text")
    .option("--chat", "stdin is a JSON array of messages { role, content }; their template is rendered first")
    .option("--no-generation-prompt", "with --chat: do not open the assistant's answer")
    .option("--special-in-content", "with --chat: control tokens written in a message's text count as such")
    .option("--lossy", "replace invalid UTF-8 on stdin")
    .option("--debug", "a stack trace with every error")
    .action(async (options) => {
      const { tokenize } = await import("./tokenize.ts");
      await tokenize(options, signal);
    });
  examples(tokenize, ["echo -n 'Once upon a time' | phi tokenize"]);

  const detokenize = withFolder(phi.command("detokenize"))
    .description("a JSON array of token ids on stdin to text")
    .option("--skip-special", "leave special tokens out")
    .option("--debug", "a stack trace with every error")
    .action(async (options) => {
      const { detokenize } = await import("./tokenize.ts");
      await detokenize(options, signal);
    });
  examples(detokenize, ["echo '[593,592,260,349]' | phi detokenize"]);

  const quantize = withAdapter(withFolder(phi.command("quantize")))
    .description("write a checkpoint with its linear layers in 4 or 8 bits, in GPTQ's layout")
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
    .option("--debug", "a stack trace with every error")
    .action(async (options) => {
      const { quantize } = await import("./quantize.ts");
      await quantize(options, signal);
    });
  examples(quantize, ["phi quantize -m ./phi-4 -o ./phi-4-int4"]);

  const completion = phi
    .command("completion")
    .description("a completion script for a shell")
    .addArgument(new Argument("<shell>").choices(["bash", "zsh", "fish"]))
    .option("--debug", "a stack trace with every error")
    .action(async (shell: Shell) => {
      const { completionScript } = await import("./completion.ts");
      await print(completionScript(shell, completedCommands(phi), "generate"));
    });
  examples(completion, ['eval "$(phi completion bash)"', "phi completion fish | source"]);

  const outputError = (text: string, write: (text: string) => void) =>
    write(`${text.trimEnd().split("\n").map(printable).join("\n")}\n`);
  for (const command of [phi, ...phi.commands]) command.exitOverride().configureOutput({ outputError });
  return phi;
}

/** What each option's placeholder says of its value. */
const valueKinds: Readonly<Record<string, "folder" | "file">> = { "<dir>": "folder", "<file>": "file" };

/** The commands as the completion scripts need them. */
function completedCommands(phi: Command): readonly CompletedCommand[] {
  return phi.commands.map((command) => ({
    name: command.name(),
    description: command.description(),
    words: command.registeredArguments.flatMap(({ argChoices }) => argChoices ?? []),
    options: [...command.options, new Option("-h, --help", "display help for command")].map((option) => ({
      long: option.long ?? "",
      short: option.short,
      description: option.description,
      value:
        option.argChoices ??
        (option.required ? (valueKinds[/<.*>/.exec(option.flags)?.[0] ?? ""] ?? "text") : undefined),
    })),
  }));
}

async function main(): Promise<void> {
  const debug = process.argv.includes("--debug");
  const signal = watchProcess(debug);
  try {
    const [first, ...rest] = process.argv.slice(2);
    if (rest.length === 0 && (first === "-V" || first === "--version")) {
      const { adapterLine } = await import("./devices.ts");
      await print(`${versionLine()}\n${await adapterLine()}\n`);
    } else await program(signal).parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : exitCodes.usage;
    // After a signal the failure is only its echo, and the exit code is set.
    else if (!signal.aborted) process.exitCode = reportFailure(error, debug);
  }
  // All text is out before the process ends, whatever Dawn's threads still hold.
  await new Promise((resolve) => process.stdout.write("", resolve));
  process.exit();
}

await main();
