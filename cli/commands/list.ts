/** What `phi list` takes, and examples of it. */
import type { Command } from "commander";

export function declare(command: Command): void {
  command.option("--json", "print a JSON array").action(async (options) => {
    const { list } = await import("../hub.ts");
    await list(options);
  });
}

export const examples = ["phi list"];
