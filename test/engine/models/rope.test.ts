import { describe, expect, test } from "vitest";
import { readConfig } from "../../../engine/files/config.ts";
import {
  type RopePolicy,
  type RopeRules,
  type RopeSpec,
  readRope,
  ropeRegime,
  ropeTable,
  withRopePolicy,
} from "../../../engine/models/rope.ts";
import { expectClose } from "../../reference/compare.ts";
import * as reference from "../../reference/ops.ts";
import { failure } from "../../tempFolder.ts";

const headDim = 16;

const rules: RopeRules = {
  theta: 10000,
  partial: 1,
  types: { default: "default", longrope: "longrope", su: "longrope" },
  original: { first: "outside" },
};

function readNoted(config: object, own: Partial<RopeRules> = {}) {
  const reader = readConfig("config.json", new TextEncoder().encode(JSON.stringify(config)));
  return { spec: readRope(reader, headDim, { ...rules, ...own }), notes: reader.notes };
}

function read(config: object, own: Partial<RopeRules> = {}): RopeSpec {
  return readNoted(config, own).spec;
}

const short = [1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75];
const long = [1.5, 2, 4, 8, 16, 24, 32, 64];
const longrope = {
  rope_theta: 10000,
  max_position_embeddings: 131072,
  original_max_position_embeddings: 4096,
  rope_scaling: { type: "longrope", short_factor: short, long_factor: long },
};

describe("readRope", () => {
  test("the old keys", () => {
    const plain = { rotary: 16, theta: 250000, positionScale: 1, longrope: undefined };
    expect(read({ rope_theta: 250000, rope_scaling: null })).toEqual(plain);
    expect(read({ rope_theta: 250000, partial_rotary_factor: 0.75 })).toEqual({ ...plain, rotary: 12 });
    expect(read({}, { partial: 0.5 })).toEqual({ rotary: 8, theta: 10000, positionScale: 1, longrope: undefined });
  });

  test("rope_parameters holds what the old keys hold, and wins over what stands beside it", () => {
    const old = { rope_theta: 1, partial_rotary_factor: 1 };
    const parameters = { rope_type: "default", rope_theta: 250000, partial_rotary_factor: 0.75 };
    expect(read({ ...old, rope_parameters: parameters })).toEqual({
      rotary: 12,
      theta: 250000,
      positionScale: 1,
      longrope: undefined,
    });
    // What it leaves out is looked for outside.
    expect(read({ ...old, rope_parameters: { rope_type: "default" } })).toMatchObject({ rotary: 16, theta: 1 });

    const { rope_theta, rope_scaling, ...rest } = longrope;
    const newer = {
      ...rest,
      rope_parameters: { rope_theta, rope_type: "longrope", short_factor: short, long_factor: long },
    };
    expect(read(newer)).toEqual(read(longrope));
    const inside = { ...newer.rope_parameters, original_max_position_embeddings: 4096 };
    expect(read({ max_position_embeddings: 131072, rope_parameters: inside }).longrope).toMatchObject({
      originalPositions: 4096,
    });
  });

  test('longrope, also under its first name "su"', () => {
    const magnitude = reference.longropeAttentionFactor(131072, 4096);
    expect(magnitude).toBeGreaterThan(1.1);
    const expected = {
      originalPositions: 4096,
      short: { factors: short, magnitude: expect.closeTo(magnitude, 12) },
      long: { factors: long, magnitude: expect.closeTo(magnitude, 12) },
    };
    expect(read(longrope).longrope).toEqual(expected);
    expect(read({ ...longrope, rope_scaling: { ...longrope.rope_scaling, type: "su" } }).longrope).toEqual(expected);
  });

  test("rope_scaling stands in place of all of rope_parameters, unless it is empty", () => {
    const parameters = { rope_type: "default", rope_theta: 500 };
    const both = readNoted({ ...longrope, rope_parameters: parameters });
    expect(both.spec).toEqual(read(longrope));
    expect(both.notes).toEqual(['config.json: "rope_parameters" is not followed: rope_scaling is, as in transformers']);
    const { rope_theta, ...rest } = longrope;
    expect(read({ ...rest, rope_parameters: parameters }).theta).toBe(10000);
    for (const rope_scaling of [{}, null]) {
      expect(readNoted({ rope_scaling, rope_parameters: parameters })).toMatchObject({
        spec: { theta: 500 },
        notes: [],
      });
    }
  });

  test("longrope's factor and attention_factor count before the ratio of positions", () => {
    const scaled = (more: object) =>
      read({ ...longrope, rope_scaling: { ...longrope.rope_scaling, ...more } }).longrope;
    expect(scaled({ factor: 4 })?.long.magnitude).toBeCloseTo(reference.longropeAttentionFactor(4 * 4096, 4096), 12);
    expect(scaled({ factor: 0.5 })?.long.magnitude).toBe(1);
    expect(scaled({ factor: 4, attention_factor: 1.5 })?.short.magnitude).toBe(1.5);
  });

  test("two numbers of original positions: each class has its own order", () => {
    const config = {
      ...longrope,
      rope_scaling: { ...longrope.rope_scaling, original_max_position_embeddings: 2048 },
    };
    const of = (config: object, original: RopeRules["original"]) => {
      const { spec, notes } = readNoted(config, { original });
      return [spec.longrope?.originalPositions, notes.length];
    };
    expect(of(config, { first: "outside" })).toEqual([4096, 1]);
    expect(of(config, { first: "within" })).toEqual([2048, 1]);
    const { original_max_position_embeddings, ...inside } = config;
    expect(of(inside, { first: "outside" })).toEqual([2048, 0]);
    expect(of(inside, { first: "outside", fallback: 512 })).toEqual([512, 1]);
    const { original_max_position_embeddings: _, ...none } = longrope;
    expect(of(none, { first: "outside" })).toEqual([131072, 0]);
  });

  test("types that only a model with plain rules has", () => {
    const types = { ...rules.types, linear: "linear", dynamic: "dynamic" } as const;
    const of = (rope_scaling: object) => readNoted({ rope_scaling }, { types });
    expect(of({ type: "linear", factor: 4 }).spec).toMatchObject({ positionScale: 4, longrope: undefined });
    const dynamic = of({ type: "dynamic", factor: 4 });
    expect(dynamic.spec).toEqual(read({}));
    expect(dynamic.notes).toHaveLength(1);
    expect(() => of({ type: "linear" })).toThrow('"factor": expected a finite number above 0');
  });

  test("a checkpoint that was not stretched is not scaled", () => {
    expect(read({ ...longrope, max_position_embeddings: 4096 }).longrope?.long.magnitude).toBe(1);
  });

  const scaling = longrope.rope_scaling;
  const refused: [what: string, config: object, message: RegExp][] = [
    ["another type", { ...longrope, rope_scaling: { ...scaling, type: "yarn" } }, /rope_scaling: "type": expected one of .*"longrope".*, got "yarn"/],
    ["another type, new key", { rope_parameters: { rope_type: "llama3" } }, /rope_parameters: "rope_type": .*got "llama3"/],
    ["an odd number of rotary dimensions", { partial_rotary_factor: 0.6875 }, /"partial_rotary_factor": expected an even number of rotary dimensions/],
    ["no rotary dimension", { partial_rotary_factor: 0.1 }, /"partial_rotary_factor"/],
    ["more than the head", { partial_rotary_factor: 1.5 }, /"partial_rotary_factor"/],
    ["too few factors", { ...longrope, rope_scaling: { ...scaling, short_factor: short.slice(1) } }, /"short_factor": expected 8 .*, got 7/],
    ["too many factors", { ...longrope, rope_scaling: { ...scaling, long_factor: [...long, 1] } }, /"long_factor": expected 8 .*, got 9/],
    ["a factor of 0", { ...longrope, rope_scaling: { ...scaling, long_factor: [0, ...long.slice(1)] } }, /"long_factor"/],
    ["no factors", { ...longrope, rope_scaling: { type: "longrope", short_factor: short } }, /"long_factor": .* got no such field/],
    ["original positions 0", { ...longrope, original_max_position_embeddings: 0 }, /"original_max_position_embeddings": expected an integer from 2/],
    ["original positions 0 beside good ones", { ...longrope, original_max_position_embeddings: 0, rope_scaling: { ...scaling, original_max_position_embeddings: 4096 } }, /"original_max_position_embeddings": expected an integer from 2/],
    ["theta 0", { rope_theta: 0 }, /"rope_theta": expected a finite number above 0/],
  ]; // biome-ignore format: a table
  test.each(refused)("%s is refused", async (_what, config, message) => {
    expect((await failure(() => read(config))).message).toMatch(message);
  });
});

describe("tables", () => {
  const specs: readonly (readonly [
    name: string,
    spec: RopeSpec,
    factors: { short?: readonly number[]; long?: readonly number[] },
  ])[] = [
    ["plain", read({ rope_theta: 10000 }), {}],
    ["partial", read({ rope_theta: 250000, partial_rotary_factor: 0.75 }), {}],
    ["longrope", read(longrope), { short, long }],
  ];
  const why =
    "both are float64; the table is rounded to float32 once, and at position 131071 float64 has 1e-11 of a turn";

  test.each(specs)("%s: cos and sin as the reference has them", (_name, spec, factors) => {
    for (const regime of ["short", "long"] as const) {
      for (const [first, end] of [
        [0, 70],
        [4000, 4100],
        [131000, 131072],
      ] as const) {
        // biome-ignore format: a list
        const table = ropeTable(spec, regime, first, end);
        const { cos, sin } = reference.ropeTable({
          positions: Array.from({ length: end - first }, (_, i) => first + i),
          theta: spec.theta,
          rotary: spec.rotary,
          ...(factors[regime] ? { factors: factors[regime] } : {}),
          ...(spec.longrope ? { attentionFactor: reference.longropeAttentionFactor(131072, 4096) } : {}),
        });
        const expected = Float64Array.from(
          { length: table.length },
          (_, i) => (i % 2 === 0 ? cos : sin)[i >> 1] ?? Number.NaN,
        );
        const shape = [end - first, spec.rotary / 2, 2];
        expectClose(table, expected, { atol: 1e-9, rtol: 2 ** -24, shape, why, what: `${regime} ${first}` });
      }
    }
  });

  test("the long factors count from the first token past the original positions", () => {
    const spec = read(longrope);
    expect([1, 4096, 4097, 131072].map((tokens) => ropeRegime(spec, tokens))).toEqual([
      "short",
      "short",
      "long",
      "long",
    ]);
    expect(ropeRegime(read({}), 1e6)).toBe("short");
  });

  test("a policy takes the same factors for every length; without longrope there is no choice", () => {
    const regimes = (policy: RopePolicy) =>
      [1, 4096, 4097, 131072].map((tokens) => ropeRegime(withRopePolicy(read(longrope), policy), tokens));
    expect(new Set(regimes("short"))).toEqual(new Set(["short"]));
    expect(new Set(regimes("long"))).toEqual(new Set(["long"]));
    expect(regimes("hf-exact")).toEqual(["short", "short", "long", "long"]);
    expect(withRopePolicy(read({}), "hf-exact")).toEqual(read({}));
    expect(() => withRopePolicy(read({}), "long")).toThrow("--rope: expected a model with longrope");
  });
});
