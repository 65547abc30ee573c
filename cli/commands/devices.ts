/** What `phi devices` takes, and examples of it. */
import type { Command } from "commander";

export function declare(command: Command): void {
  command.option("--json", "print a JSON array").action(async (options) => {
    const { devices } = await import("../devices.ts");
    await devices(options);
  });
}

export const examples = ["phi devices", 'phi --adapter nvidia "Once upon a time"'];
