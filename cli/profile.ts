/** `phi generate --profile`: GPU time by dispatch as a Chrome trace, and by kernel as a table. */
import type { ProfiledDispatch } from "../engine/index.ts";

interface TraceEvent {
  readonly name: string;
  readonly ph: "X" | "M";
  readonly pid: 1;
  readonly tid: number;
  /** Microseconds. */
  readonly ts?: number;
  readonly dur?: number;
  readonly args?: Readonly<Record<string, string | number>>;
}

/** The rows of the trace, one above the other. */
const rows = ["submits", "layers", "kernels"] as const;

/** A label's parts: `layer.12/self_attn.o_proj matvec<bf16,bias>` is of layer.12 and of kernel matvec<bf16,bias>. */
function partsOf(label: string): { readonly layer: string; readonly leaf: string; readonly kernel: string } {
  const space = label.lastIndexOf(" ");
  const path = label.slice(0, space);
  const slash = path.indexOf("/");
  return {
    layer: slash < 0 ? path : path.slice(0, slash),
    leaf: path.slice(slash + 1),
    kernel: label.slice(space + 1),
  };
}

/** The trace in Chrome's JSON format, for chrome://tracing or ui.perfetto.dev: submits, layers, kernels. */
export function chromeTrace(dispatches: readonly ProfiledDispatch[]): string {
  const originNs = dispatches[0]?.startNs ?? 0;
  const events: TraceEvent[] = rows.map((name, tid) => ({ name: "thread_name", ph: "M", pid: 1, tid, args: { name } }));
  const span = (
    row: (typeof rows)[number],
    name: string,
    startNs: number,
    endNs: number,
    args?: TraceEvent["args"],
  ) => {
    const times = { ts: (startNs - originNs) / 1000, dur: (endNs - startNs) / 1000 };
    events.push({ name, ph: "X", pid: 1, tid: rows.indexOf(row), ...times, ...(args && { args }) });
  };
  /** Spans of neighbours that share what `key` says. */
  const grouped = (row: "submits" | "layers", key: (dispatch: ProfiledDispatch) => string) => {
    let group: { key: string; name: string; startNs: number; endNs: number } | undefined;
    const close = () => group && span(row, group.name, group.startNs, group.endNs);
    for (const dispatch of dispatches) {
      const name = key(dispatch);
      const id = `${dispatch.submit} ${name}`;
      if (group?.key !== id) {
        close();
        group = { key: id, name, startNs: dispatch.startNs, endNs: dispatch.endNs };
      } else group.endNs = dispatch.endNs;
    }
    close();
  };
  grouped("submits", ({ plan, submit }) => `${plan} #${submit}`);
  grouped("layers", ({ label }) => partsOf(label).layer);
  for (const { label, startNs, endNs, readBytes, flops } of dispatches) {
    const { leaf, kernel } = partsOf(label);
    const ns = endNs - startNs;
    span("kernels", `${leaf} ${kernel}`, startNs, endNs, {
      label,
      ...(readBytes > 0 && ns > 0 && { GBps: readBytes / ns }),
      ...(flops > 0 && ns > 0 && { GFLOPps: flops / ns }),
    });
  }
  return `${JSON.stringify({ displayTimeUnit: "ms", traceEvents: events })}\n`;
}

/**
 * A table of kernels by plan: share of the plan's GPU time, time, dispatches, bytes of weights, keys and values read and
 * operations of linears per second.
 */
export function profileSummary(dispatches: readonly ProfiledDispatch[]): string {
  const lines: string[] = [];
  for (const plan of new Set(dispatches.map((dispatch) => dispatch.plan))) {
    const sums = new Map<string, { ns: number; count: number; readBytes: number; flops: number }>();
    let total = 0;
    for (const { label, startNs, endNs, readBytes, flops } of dispatches.filter((dispatch) => dispatch.plan === plan)) {
      const { kernel } = partsOf(label);
      const sum = sums.get(kernel) ?? { ns: 0, count: 0, readBytes: 0, flops: 0 };
      sum.ns += endNs - startNs;
      sum.count++;
      sum.readBytes += readBytes;
      sum.flops += flops;
      sums.set(kernel, sum);
      total += endNs - startNs;
    }
    const cells = [...sums]
      .sort(([, a], [, b]) => b.ns - a.ns)
      .map(([kernel, { ns, count, readBytes, flops }]) => [
        kernel,
        `${((100 * ns) / (total || 1)).toFixed(1)} %`,
        `${(ns / 1e6).toFixed(2)} ms`,
        `${count} ×`,
        readBytes > 0 && ns > 0 ? `${(readBytes / ns).toFixed(2)} GB/s` : "",
        flops > 0 && ns > 0 ? `${(flops / ns).toFixed(2)} GFLOP/s` : "",
      ]);
    const widths = [0, 1, 2, 3, 4, 5].map((column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
    lines.push(`${plan}: ${(total / 1e6).toFixed(2)} ms of GPU time`);
    for (const row of cells) {
      const padded = row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)));
      lines.push(`  ${padded.join("  ").trimEnd()}`);
    }
  }
  return `${lines.join("\n")}\n`;
}
