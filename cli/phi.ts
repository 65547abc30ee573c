#!/usr/bin/env node
/**
 * The executable `phi`: its commands and what each does. What a command takes is declared by its file in cli/commands/,
 * which is imported when it is named, and what runs it is imported when it runs: help and usage errors come at once.
 */
import { Argument, Command, CommanderError } from "commander";
import { exitCodes, printable } from "../engine/errors.ts";
import { reportFailure, watchProcess } from "./process.ts";

interface ListedCommand {
  readonly name: string;
  readonly argument?: Argument;
  readonly does: string;
  /** Its file in cli/commands/. */
  readonly file: () => Promise<{
    declare(command: Command, signal: AbortSignal): void;
    readonly examples: readonly string[];
  }>;
}

/** The commands in the order of the help. */
const listed: readonly ListedCommand[] = [
  {
    name: "generate",
    argument: new Argument(
      "[prompt]",
      "the text to continue; read from stdin when there is none and stdin is no terminal",
    ),
    does: "continue a prompt (the default command)",
    file: () => import("./commands/generate.ts"),
  },
  { name: "chat", does: "talk with a model; /help in it lists its commands", file: () => import("./commands/chat.ts") },
  {
    name: "logits",
    does: "write the logits of every position as a safetensors file",
    file: () => import("./commands/logits.ts"),
  },
  {
    name: "eval",
    does: "perplexity of a text, and how far the model is from another one",
    file: () => import("./commands/eval.ts"),
  },
  {
    name: "info",
    does: "what a checkpoint is and what it takes, from its headers",
    file: () => import("./commands/info.ts"),
  },
  {
    name: "verify",
    does: "compare every layer with expected numbers; exit code 1 where one is beyond the tolerance",
    file: () => import("./commands/verify.ts"),
  },
  {
    name: "doctor",
    does: "check every kernel on this adapter, and print what a report of a fault needs; exit code 5 if one is wrong",
    file: () => import("./commands/doctor.ts"),
  },
  {
    name: "tune",
    does: "measure which sizes of a model's kernels are fastest on this adapter, and use them from now on",
    file: () => import("./commands/tune.ts"),
  },
  { name: "devices", does: "list the adapters of this machine", file: () => import("./commands/devices.ts") },
  {
    name: "pull",
    argument: new Argument("<name>", "organisation/name, with @ and a branch, tag or commit where it is not main"),
    does: "download a model from the Hugging Face hub, once its headers say that it runs here",
    file: () => import("./commands/pull.ts"),
  },
  { name: "models", does: "the published Phi models and what each takes", file: () => import("./commands/models.ts") },
  { name: "list", does: "the models in the Hugging Face cache", file: () => import("./commands/list.ts") },
  {
    name: "remove",
    argument: new Argument("<name>", "organisation/name, with @ and a revision to remove only that"),
    does: "remove a model from the Hugging Face cache; what its other revisions use stays",
    file: () => import("./commands/remove.ts"),
  },
  {
    name: "tokenize",
    does: "text on stdin to a JSON array of token ids",
    file: () => import("./commands/tokenize.ts"),
  },
  {
    name: "detokenize",
    does: "a JSON array of token ids on stdin to text",
    file: () => import("./commands/detokenize.ts"),
  },
  {
    name: "quantize",
    does: "write a checkpoint with its linear layers in 4 or 8 bits, in GPTQ's layout",
    file: () => import("./commands/quantize.ts"),
  },
  {
    name: "completion",
    argument: new Argument("<shell>").choices(["bash", "zsh", "fish"]),
    does: "a completion script for a shell",
    file: () => import("./commands/completion.ts"),
  },
];

const byDefault = "generate";

const exampleText = (lines: readonly string[]) => `\nExamples:\n${lines.map((line) => `  $ ${line}\n`).join("")}`;

/** A command in the list of all: each has options, which are not declared yet. */
function commandTerm(command: Command): string {
  const names = command.registeredArguments.map((argument) => {
    return argument.required ? `<${argument.name()}>` : `[${argument.name()}]`;
  });
  const isHelp = !listed.some(({ name }) => name === command.name());
  return [command.name(), ...(isHelp ? [] : ["[options]"]), ...names].join(" ");
}

async function program(signal: AbortSignal): Promise<Command> {
  const phi = new Command("phi")
    .description("Microsoft's Phi language models on WebGPU")
    .option("-V, --version", "versions of phi and of what it stands on, and the adapter it takes here")
    .helpCommand(true)
    .configureHelp({ subcommandTerm: commandTerm })
    .addHelpText("after", "\nA prompt alone is continued: phi generate --help lists the options of that.")
    .addHelpText("after", exampleText(['phi "Once upon a time"', "phi -m ./phi-2 -n 100 < prompt.txt"]));

  for (const { name, argument, does } of listed) {
    const command = phi.command(name, { isDefault: name === byDefault }).description(does);
    if (argument !== undefined) command.addArgument(argument);
  }
  const outputError = (text: string, write: (text: string) => void) =>
    write(`${text.trimEnd().split("\n").map(printable).join("\n")}\n`);
  for (const command of [phi, ...phi.commands]) command.exitOverride().configureOutput({ outputError });

  const declareAll = async (commands: readonly Command[]) => {
    for (const command of commands) {
      const { declare, examples } = (await listed.find(({ name }) => name === command.name())?.file()) ?? {};
      declare?.(command, signal);
      command.option("--debug", "a stack trace with every error");
      if (examples !== undefined) command.addHelpText("after", exampleText(examples));
    }
  };
  // `phi help NAME` prints a command's help without a hook; a completion script lists the options of all.
  if (process.argv.includes("help")) await declareAll(phi.commands);
  else {
    phi.hook("preSubcommand", (_, command) => declareAll(command.name() === "completion" ? phi.commands : [command]));
  }
  return phi;
}

async function main(): Promise<void> {
  const debug = process.argv.includes("--debug");
  const signal = watchProcess(debug);
  try {
    const [first, ...rest] = process.argv.slice(2);
    if (rest.length === 0 && (first === "-V" || first === "--version")) {
      const { adapterLine } = await import("./devices.ts");
      const { print } = await import("./output.ts");
      const { versionLine } = await import("./package.ts");
      await print(`${versionLine()}\n${await adapterLine()}\n`);
    } else await (await program(signal)).parseAsync();
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
