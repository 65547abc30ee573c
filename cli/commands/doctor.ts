/** What `phi doctor` takes, and examples of it. */
import type { Command } from "commander";
import { withRun } from "./shared.ts";

export function declare(command: Command): void {
  withRun(command, "f16")
    .option("--json", "print one JSON object")
    .action(async (options) => {
      const { doctor } = await import("../doctor.ts");
      await doctor(options);
    });
}

export const examples = ["phi doctor", "phi doctor -m ./phi-2 --adapter swiftshader --json"];
