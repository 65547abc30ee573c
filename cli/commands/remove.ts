/** What `phi remove` takes, and examples of it. */
import type { Command } from "commander";

export function declare(command: Command, signal: AbortSignal): void {
  command.option("--yes", "do not ask").action(async (name: string, options) => {
    const { remove } = await import("../hub.ts");
    await remove(name, options, signal);
  });
}

export const examples = ["phi remove microsoft/phi-2", "phi remove microsoft/phi-2@main --yes"];
