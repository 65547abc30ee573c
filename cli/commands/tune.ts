/** What `phi tune` takes, and examples of it. */
import type { Command } from "commander";
import { integerOption } from "../options.ts";
import { withRun } from "./shared.ts";

export function declare(command: Command, signal: AbortSignal): void {
  withRun(command, "f16")
    .option(
      "--seconds <n>",
      "measure no longer than this, loading not counted",
      integerOption("--seconds", 1, 86_400),
      120,
    )
    .option("--only <text>", "measure only kernels whose name holds this, such as matvec")
    .option("--clear", "forget what was measured, on every adapter")
    .option("--json", "print one JSON object")
    .action(async (options) => {
      const { tune } = await import("../tune.ts");
      await tune(options, signal);
    });
}

export const examples = ["phi tune -m ./phi-2 --quantize int4", "phi tune --clear"];
