/** What `phi info` takes, and examples of it. */
import type { Command } from "commander";
import { withRun } from "./shared.ts";

export function declare(command: Command): void {
  withRun(command, "f16")
    .option("--json", "print one JSON object")
    .action(async (options) => {
      const { info } = await import("../info.ts");
      await info(options);
    });
}

export const examples = ["phi info", "phi info -m ./phi-4 --context 16384 --json"];
