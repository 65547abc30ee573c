/** `phi doctor`: checks every kernel of a model on this machine's adapter, and prints what a report of a fault needs. */
import { arch, cpus, freemem, release, totalmem } from "node:os";
import { checkKernels, exitCodes, type KernelReport, PhiError } from "../engine/index.ts";
import { openAdapterOrRestart } from "./adapter.ts";
import { formatBytes, jsonLine, tuningText } from "./format.ts";
import { openModelFolder } from "./model.ts";
import { print } from "./output.ts";
import { versionLine } from "./package.ts";
import { checkedKernels, tunedStore } from "./remembered.ts";
import { loadOptions, type RunOptions, usedFeatures } from "./run.ts";

/** Options of `phi doctor`. */
export interface DoctorOptions extends RunOptions {
  readonly json?: boolean;
}

/** Variables that change which driver is used and how. */
const variables = ["PHI_ADAPTER", "PHI_FEATURES", "VK_ICD_FILENAMES", "VK_DRIVER_FILES", "LD_LIBRARY_PATH"] as const;

/** Runs the command: exit code 5 where a kernel computes wrong numbers. */
export async function doctor(options: DoctorOptions): Promise<void> {
  const folder = await openModelFolder(options.model, options.allowSymlinks, { need: "headers" });
  const opened = await openAdapterOrRestart(options.adapter);
  if (opened === undefined) return;
  try {
    const { adapter, backend } = opened;
    if (backend === "null") throw new PhiError("usage", "--adapter: expected one that computes, got null");
    const { info, limits } = adapter;
    const began = performance.now();
    const features = usedFeatures(options);
    const { context: _, ...load } = loadOptions(options);
    const report = await checkKernels({
      folder,
      adapter,
      ...load,
      checked: checkedKernels(adapter),
      tuned: tunedStore(adapter, features).read(),
      device: { features },
    });
    const ms = performance.now() - began;
    const facts = {
      versions: versionLine(),
      system: `${process.platform} ${release()} ${arch()}, ${cpus().length} × ${cpus()[0]?.model.trim() ?? "unknown"}`,
      memory: `${formatBytes(totalmem())}, free ${formatBytes(freemem())}`,
      adapter: `${report.adapterName} (${backend})`,
      driver: info.description || "unknown",
      features: [...adapter.features].sort().join(" "),
      buffers: `${formatBytes(limits.maxBufferSize)}, bound ${formatBytes(limits.maxStorageBufferBindingSize)} at once`,
      variables: variables.flatMap((name) => (process.env[name] ? [`${name}=${process.env[name]}`] : [])).join(" "),
      model: folder.name,
      tuning: tuningText(report.tuned),
    };
    const wrong = report.checks.filter(({ error }) => !(error <= 1));
    await print(options.json ? jsonLine({ ...facts, ms, ...report }) : text(facts, report, ms));
    if (wrong.length > 0) {
      const names = wrong.map(({ kernel }) => kernel).join(", ");
      process.stderr.write(`error: wrong numbers on this adapter: ${names}\n  Update the driver, or choose another adapter (phi devices).\n`); // biome-ignore format: one message
      process.exitCode = exitCodes.gpu;
    }
  } finally {
    opened.release();
  }
}

function text(facts: Readonly<Record<string, string>>, { checks, unchecked }: KernelReport, ms: number): string {
  const width = Math.max(...checks.map(({ kernel }) => kernel.length));
  const rows = checks.map(({ kernel, error, ms: own }) => {
    const verdict = error <= 1 ? "right" : "WRONG";
    return `${kernel.padEnd(width)}  ${verdict}  ${error.toPrecision(2).padStart(8)} of its tolerance  ${own.toFixed(0).padStart(6)} ms`;
  });
  return [
    ...Object.entries(facts).map(([name, value]) => `${name.padEnd(10)} ${value}`),
    "",
    ...rows,
    ...(unchecked.length > 0 ? [`without a reference: ${[...new Set(unchecked)].join(", ")}`] : []),
    `${checks.length} kernels in ${(ms / 1000).toFixed(1)} s, compiling included`,
    "",
  ].join("\n");
}
