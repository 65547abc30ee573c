/** What `phi completion` takes, and examples of it. */
import { type Command, Option } from "commander";
import type { CompletedCommand, Shell } from "../completion.ts";

export function declare(command: Command): void {
  command.action(async (shell: Shell) => {
    const { completionScript } = await import("../completion.ts");
    const { print } = await import("../output.ts");
    await print(completionScript(shell, completedCommands(command.parent?.commands ?? []), "generate"));
  });
}

export const examples = ['eval "$(phi completion bash)"', "phi completion fish | source"];

/** What each option's placeholder says of its value. */
const valueKinds: Readonly<Record<string, "folder" | "file">> = { "<dir>": "folder", "<file>": "file" };

/** The commands as the completion scripts need them. */
function completedCommands(commands: readonly Command[]): readonly CompletedCommand[] {
  return commands.map((command) => ({
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
