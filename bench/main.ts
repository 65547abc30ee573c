/** `npm run bench -- COMMAND`: measures this engine on this machine. Tables on stdout, progress on stderr. */
import { Command, CommanderError } from "commander";
import { reportFailure, watchProcess } from "../cli/process.ts";
import { exitCodes, printable } from "../engine/index.ts";
import { declareAttention } from "./commands/attention.ts";
import { declareDecode } from "./commands/decode.ts";
import { declareGeometry } from "./commands/geometry.ts";
import { declareHost } from "./commands/host.ts";
import { declareKernels } from "./commands/kernels.ts";
import { declareLoad } from "./commands/load.ts";
import { declarePeers } from "./commands/peers.ts";
import { declarePrefill } from "./commands/prefill.ts";
import { declareQuantization } from "./commands/quantization.ts";
import { declareSoak } from "./commands/soak.ts";

function program(signal: AbortSignal, startBytes: number): Command {
  const bench = new Command("bench").description("measures this engine on this machine").helpCommand(true);

  declareDecode(bench.command("decode"), signal);
  declarePrefill(bench.command("prefill"), signal);
  declareLoad(bench.command("load"), startBytes);
  declareSoak(bench.command("soak"));
  declareKernels(bench.command("kernels"));
  declareAttention(bench.command("attention"));
  declareHost(bench.command("host"));
  declareGeometry(bench.command("geometry"), signal);
  declareQuantization(bench.command("quantization"), signal);
  declarePeers(bench.command("peers"), signal);

  const outputError = (text: string, write: (text: string) => void) =>
    write(`${text.trimEnd().split("\n").map(printable).join("\n")}\n`);
  for (const command of [bench, ...bench.commands]) {
    if (command !== bench) command.option("--debug", "a stack trace with every error");
    command.exitOverride().configureOutput({ outputError });
  }
  return bench;
}

async function main(): Promise<void> {
  const startBytes = process.memoryUsage.rss();
  const debug = process.argv.includes("--debug");
  const signal = watchProcess(debug);
  try {
    await program(signal, startBytes).parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : exitCodes.usage;
    else if (!signal.aborted) process.exitCode = reportFailure(error, debug);
  }
  // All text is out before the process ends, whatever Dawn's threads still hold.
  await new Promise((resolve) => process.stdout.write("", resolve));
  process.exit();
}

await main();
