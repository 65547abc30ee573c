/** What `phi verify` takes, and examples of it. */
import type { Command } from "commander";
import { nameOption, numberOption } from "../options.ts";
import { withWeights } from "./shared.ts";

export function declare(command: Command, signal: AbortSignal): void {
  withWeights(command, "f32")
    .option(
      "--reference <file>",
      "F32 tensors hidden.* and logits.*, its .json beside it (default: reference.safetensors of the model)",
      nameOption("--reference"),
    )
    .option("--tolerance <t>", "largest absolute difference", numberOption("--tolerance", { from: 0 }), 5e-4)
    .action(async (options) => {
      const { verify } = await import("../verify.ts");
      await verify(options, signal);
    });
}

export const examples = [
  "phi verify",
  "phi verify --adapter swiftshader",
  "phi verify -m ./phi-2 --reference phi-2.safetensors",
];
