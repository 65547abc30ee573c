/** The trace and the table of a profile, from times made up by hand. */
import { expect, test } from "vitest";
import { chromeTrace, profileSummary } from "../../cli/profile.ts";
import type { ProfiledDispatch } from "../../engine/index.ts";

const dispatch = (plan: string, submit: number, label: string, startUs: number, us: number, reads = 0, flops = 0) =>
  ({
    ...{ plan, submit, label, startNs: startUs * 1000, endNs: (startUs + us) * 1000 },
    ...{ readBytes: reads, flops },
  }) satisfies ProfiledDispatch;

const dispatches = [
  dispatch("prefill", 4, "model.embed_tokens embed<f16>", 100, 5),
  dispatch("prefill", 4, "layer.0/self_attn.qkv_proj matmul<f16,bias>", 110, 30, 60_000, 90_000),
  dispatch("prefill", 4, "layer.0/mlp.fc1 matmul<f16,bias>", 150, 10, 20_000, 30_000),
  dispatch("prefill", 4, "layer.1/mlp.fc1 matmul<f16,bias_gelu>", 160, 5, 10_000, 5_000),
  dispatch("decode", 5, "layer.1/mlp.fc1 matvec<f16,bias_gelu>", 200, 50, 100_000, 200_000),
  dispatch("decode", 6, "next argmax", 260, 0),
];

test("a trace has a row of submits, of layers and of kernels, from 0 on", () => {
  const { traceEvents } = JSON.parse(chromeTrace(dispatches)) as {
    traceEvents: { name: string; ph: string; tid: number; ts: number; dur: number; args?: Record<string, number> }[];
  };
  const spans = (tid: number) =>
    traceEvents.filter((event) => event.ph === "X" && event.tid === tid).map(({ name, ts, dur }) => [name, ts, dur]);
  expect(traceEvents.filter(({ ph }) => ph === "M").map(({ args }) => args?.name)).toEqual([
    "submits",
    "layers",
    "kernels",
  ]);
  expect(spans(0)).toEqual([
    ["prefill #4", 0, 65],
    ["decode #5", 100, 50],
    ["decode #6", 160, 0],
  ]);
  expect(spans(1)).toEqual([
    ["model.embed_tokens", 0, 5],
    ["layer.0", 10, 50],
    ["layer.1", 60, 5],
    ["layer.1", 100, 50],
    ["next", 160, 0],
  ]);
  expect(spans(2).map(([name]) => name)).toEqual([
    "model.embed_tokens embed<f16>",
    "self_attn.qkv_proj matmul<f16,bias>",
    "mlp.fc1 matmul<f16,bias>",
    "mlp.fc1 matmul<f16,bias_gelu>",
    "mlp.fc1 matvec<f16,bias_gelu>",
    "next argmax",
  ]);
  const [, qkv] = traceEvents.filter((event) => event.ph === "X" && event.tid === 2);
  expect(qkv?.args).toEqual({ label: dispatches[1]?.label, GBps: 2, GFLOPps: 3 });
});

test("the table has shares of a plan's time, and rates where there is something to read or to compute", () => {
  expect(profileSummary(dispatches)).toBe(
    [
      "prefill: 0.05 ms of GPU time",
      "  matmul<f16,bias>       80.0 %  0.04 ms  2 ×  2.00 GB/s  3.00 GFLOP/s",
      "  embed<f16>             10.0 %  0.01 ms  1 ×",
      "  matmul<f16,bias_gelu>  10.0 %  0.01 ms  1 ×  2.00 GB/s  1.00 GFLOP/s",
      "decode: 0.05 ms of GPU time",
      "  matvec<f16,bias_gelu>  100.0 %  0.05 ms  1 ×  2.00 GB/s  4.00 GFLOP/s",
      "  argmax                   0.0 %  0.00 ms  1 ×",
      "",
    ].join("\n"),
  );
});
