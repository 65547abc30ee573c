/** What a bench measured, on what: checked, then as a table and as JSON. */
import { execFileSync } from "node:child_process";
import { cpus, loadavg } from "node:os";
import { versionLine } from "../cli/package.ts";
import { PhiError } from "../engine/errors.ts";
import type { OpenedAdapter } from "../library/adapter.ts";

/** One quantity, measured once or several times. */
export interface Figure {
  readonly name: string;
  /** e.g. `tokens/s`, `µs/token`, `MiB`. */
  readonly unit: string;
  readonly samples: readonly number[];
}

/** What the figures belong to. */
export interface Subject {
  readonly command: string;
  /** e.g. `phi-2, 32 layers` or a folder's name and its architecture. */
  readonly model: string;
  /** The settings that count, such as `f16 cache`. */
  readonly settings: string;
}

export interface BenchTable extends Subject {
  readonly figures: readonly Figure[];
}

/** Where the figures were taken. */
export interface Environment {
  readonly adapter: string;
  readonly backend: string;
  readonly driver: string;
  /** Whether the adapter computes on the CPU. */
  readonly software: boolean;
  /** Of this repository; `+` where files differ from it. */
  readonly commit: string;
  /** ISO 8601, UTC. */
  readonly date: string;
  readonly versions: string;
  readonly processor: string;
  /** Of the minute before the first measurement. */
  readonly loadAverage: number;
}

/** Asked before the measurements, so that `loadAverage` is that of others. */
export function environmentOf({ adapter, name, backend, isSoftware }: OpenedAdapter): Environment {
  const processors = cpus();
  return {
    adapter: name || backend,
    backend,
    driver: adapter.info.description,
    software: isSoftware,
    commit: commit(),
    date: new Date().toISOString(),
    versions: versionLine(),
    processor: `${processors.length} × ${processors[0]?.model ?? "unknown"}`,
    loadAverage: loadavg()[0] ?? 0,
  };
}

function commit(): string {
  const git = (...args: string[]) =>
    execFileSync("git", args, { cwd: import.meta.dirname, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  try {
    const changed = git("status", "--porcelain", "--untracked-files=no", ":/") !== "";
    return git("rev-parse", "--short=12", "HEAD").trim() + (changed ? "+" : "");
  } catch {
    return "unknown";
  }
}

/** The middle sample (of an even number the mean of the middle two) and the extremes. */
export function spread(samples: readonly number[]): { median: number; min: number; max: number } {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (index: number) => sorted[index] ?? Number.NaN;
  const half = (sorted.length - 1) / 2;
  return { median: (at(Math.floor(half)) + at(Math.ceil(half))) / 2, min: at(0), max: at(sorted.length - 1) };
}

/** Throws a PhiError "internal" for a figure that cannot be: none, not finite, not above 0, above 100 %. */
export function refuseImpossible(figures: readonly Figure[]): void {
  for (const { name, unit, samples } of figures) {
    const most = unit === "%" ? 100 : Number.MAX_VALUE;
    const impossible = samples.length === 0 ? "none" : samples.find((value) => !(value > 0 && value <= most));
    if (impossible === undefined) continue;
    const expected = unit === "%" ? "above 0 and at most 100 %" : `a finite number of ${unit} above 0`;
    throw new PhiError("internal", `${name}: expected ${expected}, got ${impossible}`, [
      "No figure of this run is to be trusted.",
    ]);
  }
}

/** Three or more digits that count, never in powers of ten. */
export function digits(value: number): string {
  return value.toFixed(value >= 1000 ? 0 : value >= 100 ? 1 : value >= 10 ? 2 : 3);
}

/** What stands above a table. */
export function environmentLines(environment: Environment): readonly string[] {
  const { adapter, backend, driver, commit, date, versions, processor } = environment;
  return [
    `adapter ${adapter} (${[backend, driver].filter((part) => part !== "").join(", ")})`,
    `${versions}, commit ${commit}, ${processor}, ${date}`,
  ];
}

/** The tables as text, one below the other. Throws as `refuseImpossible`. */
export function tableText(tables: readonly BenchTable[], environment: Environment): string {
  const lines = [...environmentLines(environment)];
  for (const { command, model, settings, figures } of tables) {
    refuseImpossible(figures);
    const rows = figures.map(({ name, unit, samples }) => {
      const { median, min, max } = spread(samples);
      const range = min < max ? `${digits(min)}–${digits(max)}` : "";
      return [name, Number.isInteger(median) ? String(median) : digits(median), range, unit] as const;
    });
    const width = (column: 0 | 1 | 2) => Math.max(...rows.map((row) => row[column].length));
    const [names, medians, ranges] = [width(0), width(1), width(2)];
    lines.push("", `${command}: ${model}; ${settings}`);
    for (const [name, median, range, unit] of rows) {
      lines.push(`  ${name.padEnd(names)}  ${median.padStart(medians)}  ${range.padEnd(ranges)}  ${unit}`);
    }
  }
  return `${lines.join("\n")}\n`;
}

/** The same as JSON, with every sample. Throws as `refuseImpossible`. */
export function tableJson(tables: readonly BenchTable[], environment: Environment): string {
  const results = tables.map(({ figures, ...subject }) => {
    refuseImpossible(figures);
    return { ...subject, figures: figures.map((figure) => ({ ...figure, ...spread(figure.samples) })) };
  });
  return `${JSON.stringify({ ...environment, results }, undefined, 2)}\n`;
}
