/** `phi devices`: what adapters there are, and what matters of them to this engine. */
import { execFile } from "node:child_process";
import { rm } from "node:fs/promises";
import { promisify } from "node:util";
import { PhiError } from "../engine/errors.ts";
import { installAdvice, listAdapters, openListed } from "../library/adapter.ts";
import { openAdapter } from "./adapter.ts";
import { formatBytes, jsonLine } from "./format.ts";
import { print } from "./output.ts";
import {
  findBundle,
  hasSwiftShaderEnvironment,
  hasVulkanManifest,
  swiftShaderEnvironment,
  unpackSwiftShader,
} from "./swiftshader.ts";

const limitNames = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupsPerDimension",
] as const;

/** An adapter as `phi devices --json` prints it. Sizes in bytes. */
export interface DeviceReport {
  readonly name: string;
  readonly backend: string;
  readonly vendor: string;
  readonly architecture: string;
  readonly driver: string;
  readonly software: boolean;
  /** The least and greatest number of invocations that a subgroup can have. */
  readonly subgroupSizes: readonly [number, number];
  readonly features: readonly string[];
  readonly limits: Readonly<Record<(typeof limitNames)[number], number>>;
}

/** The adapters that this process's drivers offer. */
async function reportsHere(): Promise<readonly DeviceReport[]> {
  const reports: DeviceReport[] = [];
  for (const listed of await listAdapters()) {
    const opened = await openListed(listed);
    if (opened === undefined) continue;
    const { adapter, isSoftware } = opened;
    const { info, limits } = adapter;
    reports.push({
      ...listed,
      vendor: info.vendor,
      architecture: info.architecture,
      driver: info.description,
      software: isSoftware,
      subgroupSizes: [info.subgroupMinSize, info.subgroupMaxSize],
      features: [...adapter.features].sort(),
      limits: Object.fromEntries(limitNames.map((limit) => [limit, limits[limit]])) as DeviceReport["limits"],
    });
    opened.release();
  }
  return reports;
}

/** What the bundled software driver offers: another process must look, for drivers are chosen at its start. */
async function bundledReports(): Promise<readonly DeviceReport[]> {
  const bundle = hasSwiftShaderEnvironment() ? undefined : findBundle();
  if (bundle === undefined) return [];
  const { folder, temporary } = unpackSwiftShader(bundle);
  const [, script = ""] = process.argv;
  const { stdout } = await promisify(execFile)(process.execPath, [script, "devices", "--json"], {
    env: { ...process.env, ...swiftShaderEnvironment(folder) },
  });
  if (temporary) await rm(folder, { recursive: true, force: true });
  return JSON.parse(stdout) as readonly DeviceReport[];
}

/** Prints every adapter that `--adapter` accepts. */
export async function devices(options: { readonly json?: boolean }): Promise<void> {
  const found = hasVulkanManifest() || process.platform !== "linux" ? await reportsHere() : [];
  const reports = [...found, ...(await bundledReports())];
  if (options.json) return print(jsonLine(reports));
  if (reports.length === 0) throw new PhiError("machine", "no WebGPU adapter on this machine", installAdvice());
  await print(reports.map(block).join("\n"));
}

function block(report: DeviceReport): string {
  const { limits, features } = report;
  const has = (feature: string) => features.includes(feature);
  const [fewest, most] = report.subgroupSizes;
  const subgroups = fewest === most ? `subgroups of ${most}` : `subgroups of ${fewest} to ${most}`;
  const rows = [
    ["driver", report.driver || "unknown"],
    ["backend", `${report.backend}${report.software ? ", computes on the CPU" : ""}`],
    ["used here", [has("shader-f16") ? "f16" : "no f16", has("subgroups") ? subgroups : "no subgroups"].join(", ")],
    [
      "buffers",
      `${formatBytes(limits.maxBufferSize)}, bound ${formatBytes(limits.maxStorageBufferBindingSize)} at once`,
    ],
    ["stage", `${limits.maxStorageBuffersPerShaderStage} storage buffers`],
    [
      "workgroup",
      `${limits.maxComputeInvocationsPerWorkgroup} invocations, ${formatBytes(limits.maxComputeWorkgroupStorageSize)} of memory`,
    ],
    ["features", features.join(" ")],
  ];
  return `${report.name}\n${rows.map(([key = "", value]) => `  ${key.padEnd(10)} ${value}\n`).join("")}`;
}

/** One line for `--version`: the adapter that a plain start takes here. */
export async function adapterLine(): Promise<string> {
  const bundled = findBundle() === undefined ? "none" : "swiftshader (bundled)";
  if (process.platform === "linux" && !hasVulkanManifest()) return `adapter: ${bundled}`;
  try {
    const { adapter, name, backend, release } = await openAdapter();
    const driver = adapter.info.description;
    release();
    return `adapter: ${name} (${[backend, driver].filter((part) => part !== "").join(", ")})`;
  } catch (error) {
    if (!(error instanceof PhiError)) throw error;
    return `adapter: ${bundled}`;
  }
}
