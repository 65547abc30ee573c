/** How times grow: lines and rates that are known, found again. */
import { expect, test } from "vitest";
import { planSynthetic } from "../../bench/synthetic.ts";
import { decodeGrowth, fitTwo, prefillGrowth } from "../../bench/text.ts";
import { promptWork } from "../../bench/work.ts";
import { readConfig } from "../../engine/files/config.ts";
import { readArchitecture } from "../../engine/models/table.ts";

const bounds = { weightBytes: 1e9, kvBytesPerPosition: 2000, window: undefined, copyRate: async () => 1e10 };
const named = (figures: readonly { readonly name: string; readonly samples: readonly number[] }[]) =>
  figures.map(({ name, samples }) => [name.trim(), samples[0]] as const);

test("a straight line is found, and what lies off it", async () => {
  const line = [8, 520, 2056, 4104].map((positions) => ({ positions, ms: 50 + positions / 400 }));
  const [slope, explained, off] = named(await decodeGrowth(line, bounds));
  expect(slope?.[0]).toBe("growth of a token's time");
  expect(slope?.[1]).toBeCloseTo(2500, 6); // ms / 400 a position
  expect(explained?.[1]).toBeCloseTo(200, 9); // 2 MB of a thousand positions at 10 GB/s
  expect(off?.[1] ?? 0).toBeLessThan(1e-9);
  const bent = line.map(({ positions, ms }, i) => ({ positions, ms: i === 3 ? 1.2 * ms : ms }));
  const [, , bend] = named(await decodeGrowth(bent, bounds));
  expect(bend?.[1]).toBeGreaterThan(2);
  expect(bend?.[1]).toBeLessThan(20);
});

test("too few depths, a window that they all fill and a time that does not grow say nothing", async () => {
  const at = (positions: number, ms: number) => ({ positions, ms });
  expect(await decodeGrowth([at(8, 50), at(520, 60)], bounds)).toEqual([]);
  expect(await decodeGrowth([at(8, 50), at(100, 60), at(100, 61), at(100, 60)], bounds)).toEqual([]);
  expect(await decodeGrowth([at(8, 50), at(500, 50), at(1000, 49)], bounds)).toEqual([]);
});

test("the rates of a prompt's two parts are found", () => {
  const work = (tokens: number) => ({ linears: 2e8 * tokens, attention: 7e4 * tokens ** 2 });
  const times = [128, 512, 1024, 2048].map((tokens) => ({
    work: work(tokens),
    ms: work(tokens).linears / 40e6 + work(tokens).attention / 8e6, // 40 and 8 GFLOP/s
  }));
  const [linears, attention] = named(prefillGrowth(times));
  expect(linears?.[1]).toBeCloseTo(40, 6);
  expect(attention?.[1]).toBeCloseTo(8, 6);
  expect(prefillGrowth(times.slice(2))).toEqual([]);
});

test("a time counts as its own size does", () => {
  const { perA, deviation } = fitTwo([1, 10, 100].map((a) => ({ a, b: 1, ms: a * 3 + 0.5 })));
  expect(perA).toBeCloseTo(3, 9);
  expect(deviation).toBeLessThan(1e-9);
});

test("a prompt's operations, counted by hand", () => {
  const config = {
    hidden_size: 64,
    intermediate_size: 96,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    vocab_size: 1000,
  };
  const { config: whole } = planSynthetic({
    preset: "phi-3-mini-4k",
    layers: 2,
    config: { ...config, sliding_window: 5 },
  });
  const work = promptWork(readArchitecture(readConfig("config.json", new TextEncoder().encode(JSON.stringify(whole)))));
  const layer = 64 * 128 + 64 * 64 + 3 * 64 * 96; // qkv, o, gate, up and down
  const keys = 1 + 2 + 3 + 4 + 5 + 5 + 5; // of the window, by token
  expect(work(7)).toEqual({ linears: 2 * (7 * 2 * layer + 1000 * 64), attention: 2 * 4 * 16 * 4 * keys });
});
