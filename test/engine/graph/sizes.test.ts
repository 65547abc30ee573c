/** Sizes that were measured: what a store may hold, and that a plan takes them where they belong. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { readConfig } from "../../../engine/files/config.ts";
import { buildPlan } from "../../../engine/graph/build.ts";
import { Graph } from "../../../engine/graph/graph.ts";
import type { Family, Tuning } from "../../../engine/graph/sizes.ts";
import { candidatesFor, sizeText, soundSizes, tuningFor } from "../../../engine/graph/sizes.ts";
import { Weights } from "../../../engine/graph/weights.ts";
import { readArchitecture } from "../../../engine/models/table.ts";

const devices = [
  { isSoftware: true, subgroupSize: 8 },
  { isSoftware: true, subgroupSize: 4 },
  { isSoftware: true, subgroupSize: 1 },
  { isSoftware: false, subgroupSize: 32 },
  { isSoftware: false, subgroupSize: 1 },
];

describe("sizes from a store", () => {
  const candidates = candidatesFor({ isSoftware: true, subgroupSize: 8 });
  const sound = { matvec: { "matvec<f16,none> 960x576": { lanes: 1, groups: 16, subgroup: 8 } } };

  test("a candidate of the device is taken, whatever the order of its fields", () => {
    expect(soundSizes(sound, candidates)).toMatchObject(sound);
    expect(
      soundSizes({ matvec: { k: { subgroup: 8, groups: 16, lanes: 1 } }, normLanes: { k: 16 } }, candidates),
    ).toEqual({
      ...soundSizes({}, candidates),
      matvec: { k: { lanes: 1, groups: 16, subgroup: 8 } },
      normLanes: { k: 16 },
    });
  });

  const none = soundSizes({}, candidates);
  test.each<[string, unknown]>([
    ["nothing", undefined],
    ["null", null],
    ["a number", 3],
    ["a text", "matvec"],
    ["a list", [sound]],
    ["a family that does not exist", { constructor: { k: 1 }, warp: { k: 1 } }],
    ["no record in a family", { matvec: 7, matmul: null, normLanes: [1] }],
    ["sizes of the wrong type", { matvec: { k: "8", l: [1, 8, 8], m: null, n: true }, normLanes: { k: "16", l: {} } }],
    ["sizes of 0, below 0, fractions, no numbers", { normLanes: { a: 0, b: -8, c: 16.5, d: Number.NaN } }],
    ["sizes beyond the limits", { normLanes: { k: 512 }, matvec: { k: { lanes: 1, groups: 4096, subgroup: 8 } } }],
    ["a field too few or too many", { matvec: { a: { lanes: 1, groups: 16 }, b: { lanes: 1, groups: 16, subgroup: 8, x: 1 } } }], // biome-ignore format: one case
    ["the sizes of another device", { matvec: { k: { lanes: 1, groups: 16, subgroup: 4 } }, matmul: { k: { threads: 64, tokens: 8, subgroup: 1 } } }], // biome-ignore format: one case
  ])("%s counts for nothing", (_, tuned) => {
    expect(soundSizes(tuned, candidates)).toEqual(none);
  });
});

test.each(devices)("candidates of %o differ, and keep what their kernels ask for", (device) => {
  const candidates = candidatesFor(device);
  for (const [family, sizes] of Object.entries(candidates)) {
    expect(new Set(sizes.map(sizeText)).size, family).toBe(sizes.length);
  }
  for (const { lanes, groups, subgroup, subgroupSum } of candidates.matvec) {
    expect(lanes * groups).toBeLessThanOrEqual(256);
    expect(Math.log2(lanes) % 1).toBe(0);
    if (subgroup > 1) expect([lanes, groups % subgroup, subgroup]).toEqual([1, 0, device.subgroupSize]);
    if (subgroupSum) expect([groups, Math.max(lanes, device.subgroupSize)]).toEqual([1, device.subgroupSize]);
  }
  for (const { threads, subgroup } of [
    ...candidates.matmul,
    ...candidates.decodeAttention,
    ...candidates.prefillAttention,
  ]) {
    expect(threads).toBeLessThanOrEqual(256);
    if (subgroup > 1) expect([threads % subgroup, subgroup]).toEqual([0, device.subgroupSize]);
  }
  for (const lanes of [...candidates.normLanes, ...candidates.argmaxLanes, ...candidates.sampleThreads]) {
    expect(lanes).toBeLessThanOrEqual(256);
    expect(Math.log2(lanes) % 1).toBe(0);
  }
});

const fixture = new URL("../../fixtures/models/phi-3-mini-4k/config.json", import.meta.url);
const architecture = readArchitecture(readConfig("config.json", readFileSync(fixture)));

function plan(kind: "prefill" | "decode", tuning: Tuning) {
  const graph = new Graph(kind);
  const logits = architecture.forward(graph, new Weights());
  const { steps, choosers } = buildPlan(graph, logits, {
    maxSeq: kind === "decode" ? 1 : 16,
    packing: () => ({ layout: "f16" }),
    kv: "f16",
    rotary: architecture.rope.rotary,
    maxBindingBytes: 128 << 20,
    tuning,
  });
  return [...steps, ...Object.values(choosers)];
}

test.each(devices)("a size of %o that was measured reaches the kernels of its key and no others", (device) => {
  const base = tuningFor(device);
  for (const kind of ["prefill", "decode"] as const) {
    const before = plan(kind, base);
    const keys = new Map(before.flatMap(({ size }) => (size === undefined ? [] : [[size.key, size.family]])));
    expect(keys.size).toBeGreaterThan(5);
    for (const [key, family] of keys) {
      const other = candidatesFor(device)[family as Family].find((size) => sizeText(size) !== sizeText(base[family as Family])); // biome-ignore format: one search
      const after = plan(kind, tuningFor(device, { [family as Family]: { [key]: other } }));
      const changed = before.flatMap(({ kernel, size }, i) => {
        const { constants, tile } = after[i]?.kernel ?? {};
        const isSame = JSON.stringify([kernel.constants, kernel.tile]) === JSON.stringify([constants, tile]);
        return isSame ? [] : [size?.key];
      });
      expect(new Set(changed).has(key), `${key} ${sizeText(other)}`).toBe(true);
      // A linear behind attention joins as many parts as it has.
      if (family !== "decodeAttention") expect(new Set(changed)).toEqual(new Set([key]));
    }
  }
});
