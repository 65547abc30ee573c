/** What `phi models` takes, and examples of it. */
import type { Command } from "commander";

export function declare(command: Command): void {
  command.option("--json", "print a JSON array").action(async (options) => {
    const { models } = await import("../models.ts");
    await models(options);
  });
}

export const examples = ["phi models"];
