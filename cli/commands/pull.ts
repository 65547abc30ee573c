/** What `phi pull` takes, and examples of it. */
import type { Command } from "commander";
import { withAdapter, withCache, withQuantize } from "./shared.ts";

export function declare(command: Command, signal: AbortSignal): void {
  withQuantize(withCache(withAdapter(command), "f16"))
    .option("--force", "download also what does not run here")
    .action(async (name: string, options) => {
      const { pull } = await import("../hub.ts");
      await pull(name, options, signal);
    });
}

export const examples = ["phi pull microsoft/phi-2", "phi pull microsoft/Phi-3.5-mini-instruct@main --context 16384"];
