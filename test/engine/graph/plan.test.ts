/** Plans of all fixture models, run by a small machine that computes terms in place of numbers. Needs no GPU. */
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { readConfig } from "../../../engine/files/config.ts";
import { readBindings } from "../../../engine/gpu/pipelines.ts";
import { buildPlan } from "../../../engine/graph/build.ts";
import { Graph, type GraphKind, nodeInputs } from "../../../engine/graph/graph.ts";
import * as ops from "../../../engine/graph/ops.ts";
import { explain, type Operand, type Plan, type PlanOptions } from "../../../engine/graph/plan.ts";
import type { Tuning } from "../../../engine/graph/sizes.ts";
import { type MatrixRef, rowRanges, type VectorRef, Weights } from "../../../engine/graph/weights.ts";
import type { Architecture } from "../../../engine/models/architecture.ts";
import { readArchitecture } from "../../../engine/models/table.ts";
import type { Visible } from "../../../kernels/attention/visible/visible.ts";
import type { Kernel } from "../../../kernels/kernel.ts";
import { rowBytes } from "../../../kernels/weights/weights.ts";

const root = new URL("../../fixtures/models/", import.meta.url);
const models = readdirSync(root).map((name) => {
  const file = new URL(`${name}/config.json`, root);
  return [name, readArchitecture(readConfig("config.json", readFileSync(file)))] as const;
});
const kernelsRoot = new URL("../../../kernels/", import.meta.url);
const snippets: ReadonlyMap<string, string> = new Map(
  readdirSync(kernelsRoot, { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".wgsl"))
    .map((path) => new URL(path, kernelsRoot))
    .map((url) => [url.href, readFileSync(url, "utf8")]),
);

/** The WGSL of a kernel, joined. */
function codeOf(kernel: Kernel): string {
  return kernel.files.map(({ href }) => snippets.get(href) ?? "").join("\n");
}

const kinds: readonly GraphKind[] = ["all", "prefill", "decode"];

const tuning: Tuning = {
  matvec: { lanes: 1, groups: 16, subgroup: 1 },
  matmul: { threads: 16, tokens: 16, subgroup: 1 },
  decodeAttention: { threads: 16, quads: 1, subgroup: 1, splits: 4, span: 16 },
  prefillAttention: { threads: 32, quads: 1, subgroup: 1 },
  normLanes: 8,
  argmaxLanes: 32,
  sampleThreads: 64,
  unroll: false,
};

function record(architecture: Architecture, kind: GraphKind) {
  const graph = new Graph(kind);
  const weights = new Weights();
  return { graph, logits: architecture.forward(graph, weights), declared: weights.declared };
}

function options(architecture: Architecture, kind: GraphKind, changes: Partial<PlanOptions> = {}): PlanOptions {
  const { rotary } = architecture.rope;
  const maxSeq = kind === "decode" ? 1 : 24;
  return {
    maxSeq,
    packing: () => ({ layout: "f16" }),
    kv: "f32",
    rotary,
    maxBindingBytes: 128 << 20,
    tuning,
    ...changes,
  };
}

/** Terms, each a number: equal ones for equal operations on equal arguments. */
function createTerms() {
  const known = new Map<string, number>();
  return (op: string, ...parts: readonly (string | number | undefined)[]): number => {
    const text = [op, ...parts].join(" ");
    const term = known.get(text) ?? known.size;
    known.set(text, term);
    return term;
  };
}
type Term = ReturnType<typeof createTerms>;

/** What each value of a graph is, by id. */
function graphTerms(graph: Graph, rotary: number, term: Term): ReadonlyMap<number, number> {
  const terms = new Map<number, number>();
  const caches = new Map<number, number>();
  for (const node of graph.nodes) {
    const args = nodeInputs(node).map((value) => {
      const known = terms.get(value.id);
      if (known === undefined) throw new Error(`${node.label} reads a value that is not computed yet`);
      return known;
    });
    const result = (): number => {
      switch (node.op) {
        case "embed":
          return term("embed", node.weight.key, node.scale);
        case "lastRow":
          return term("lastRow", ...args);
        case "rmsNorm":
          return term("rmsNorm", ...args, node.eps, node.gain.key);
        case "layerNorm":
          return term("layerNorm", ...args, node.eps, node.gain.key, node.bias.key);
        case "headNorm":
          return term("headNorm", ...args, node.eps, node.qGain.key, node.qBias.key, node.kGain.key, node.kBias.key);
        case "linear":
          return term("linear", ...args, node.weight.key, node.bias?.key);
        case "geluNew":
        case "gatedSilu":
          return term(node.op, ...args);
        case "gegelu":
          return term(node.op, ...args, node.limit);
        case "scaleMask":
          return term(node.op, ...args, node.scale, node.mask.key);
        case "sparsemixer":
          return term(node.op, ...args, node.experts, 2 * node.jitter);
        case "groupByExpert":
          return term(node.op, ...args, node.experts);
        case "expertLinear":
          return term(node.op, ...args, node.weight.key, node.weight.rows / node.experts, node.epilogue);
        case "expertSum":
          return term(node.op, ...args);
        case "add":
          return term("add", ...args.toSorted((a, b) => a - b));
        case "ropeAppend": {
          const rotated = term("ropeAppend", ...args, rotary);
          caches.set(node.layer, rotated);
          return rotated;
        }
        case "attention":
          return term("attention", ...args, caches.get(node.layer), node.scale, visibleTerm(node.visible));
      }
    };
    terms.set(node.out.id, result());
  }
  return terms;
}

/** Which keys an attention sees, as a node and as a kernel say it. */
function visibleTerm(visible: Visible): string {
  return "window" in visible ? `${visible.window ?? 0x7fffffff}` : Object.values(visible.blocks).join();
}
function visibleConstants({ constants: c }: Kernel): string {
  return [c.WINDOW, c.KEY_BLOCK, c.LOCAL_BLOCKS, c.STRIDE, c.HEAD_STEP].filter((n) => n !== undefined).join();
}

const slotOf = (operand: Operand | undefined): number | undefined =>
  operand !== undefined && "slot" in operand ? operand.slot : undefined;
const keyOf = (operand: Operand | undefined): string | undefined =>
  operand !== undefined && "vector" in operand ? operand.vector.key : undefined;

/**
 * Runs a plan on terms: what each slot holds after the last step. Throws if a step reads what no one has written, reads
 * and writes one slot, or reads a result of which some row ranges are missing.
 */
function runPlan(plan: Plan, { packing, maxBindingBytes }: PlanOptions, term: Term): ReadonlyMap<number, number> {
  const slots = new Map<number, number>();
  const caches = new Map<number, number>();
  /** Row ranges so far of results that are not complete. */
  const pending = new Map<number, { result: number; ranges: number }>();
  /** Results of attention that lie in parts, and how they are divided. */
  const parts = new Map<number, readonly unknown[]>();
  const division = ({ constants, tile }: Kernel) => [tile.SPLITS, constants.SPAN, constants.SEEN, constants.HEADS];

  for (const { label, kernel, bindings } of plan.steps) {
    const code = codeOf(kernel);
    const writes = readBindings(code).filter(({ type }) => type === "storage");
    const written = writes.flatMap(({ name }) => slotOf(bindings[name]) ?? []);
    const isWritten = new Set(writes.map(({ name }) => name));
    const read = Object.entries(bindings).flatMap(([name, operand]) =>
      isWritten.has(name) ? [] : (slotOf(operand) ?? []),
    );
    expect(
      written.filter((slot) => read.includes(slot)),
      `${label} reads and writes`,
    ).toEqual([]);
    const value = (name: string): number => {
      const slot = slotOf(bindings[name]);
      const held = slot === undefined ? undefined : slots.get(slot);
      if (held === undefined) throw new Error(`${label} reads "${name}", which holds nothing`);
      return held;
    };
    const write = (result: number): void => {
      expect(written, `${label} writes`).toHaveLength(1);
      for (const slot of written) slots.set(slot, result);
    };
    /** A result that steps for each row range of a matrix make together. */
    const writePart = (result: number, matrix: MatrixRef, range: number): void => {
      const [slot] = written;
      if (slot === undefined) throw new Error(`${label} writes nothing`);
      const ranges = range === 0 ? 1 : (pending.get(slot)?.ranges ?? 0) + 1;
      if (range !== 0) expect(pending.get(slot), label).toEqual({ result, ranges: range });
      slots.delete(slot);
      pending.set(slot, { result, ranges });
      if (ranges === rowRanges(matrix, packing(matrix), maxBindingBytes).length) write(result);
    };
    const weight = (): { matrix: MatrixRef; range: number } => {
      const [bound, shape] = [bindings.weight, bindings.matrix];
      if (bound === undefined || !("matrix" in bound)) throw new Error(`${label} has no weight`);
      expect(shape, label).toEqual({ shape: bound.matrix, range: bound.range });
      return bound;
    };
    const layer = (): number => {
      const [keys, values] = [bindings.keys, bindings.values];
      if (keys === undefined || !("cache" in keys)) throw new Error(`${label} has no cache`);
      expect(values, label).toEqual({ cache: "values", layer: keys.layer });
      expect(keys.cache).toBe("keys");
      return keys.layer;
    };
    const { constants } = kernel;
    const [, name = "", variant = ""] = /^(\w+)(?:<(.*)>)?$/.exec(kernel.name) ?? [];
    switch (name) {
      case "embed": {
        const { matrix, range } = weight();
        expect(bindings.ids).toEqual({ shared: "ids" });
        writePart(term("embed", matrix.key, constants.SCALE), matrix, range);
        break;
      }
      case "lastRow":
        write(term("lastRow", value("x")));
        break;
      case "rmsNorm":
        write(term("rmsNorm", value("x"), constants.EPS, keyOf(bindings.gain)));
        break;
      case "layerNorm":
        write(term("layerNorm", value("x"), constants.EPS, keyOf(bindings.gain), keyOf(bindings.bias)));
        break;
      case "headNorm": {
        const keys = ["qGain", "qBias", "kGain", "kBias"].map((vector) => keyOf(bindings[vector]));
        write(term("headNorm", value("qkv"), constants.EPS, ...keys));
        break;
      }
      case "ropeAppend": {
        const rotated = term("ropeAppend", value("qkv"), constants.ROTARY);
        caches.set(layer(), rotated);
        write(rotated);
        break;
      }
      case "attention":
        write(term("attention", value("q"), caches.get(layer()), constants.SCALE, visibleConstants(kernel)));
        break;
      case "decodeAttention": {
        const rotated = term("ropeAppend", value("qkv"), constants.ROTARY);
        caches.set(layer(), rotated);
        const result = term("attention", rotated, rotated, constants.SCALE, visibleConstants(kernel));
        if ((kernel.tile.SPLITS ?? 1) > 1) parts.set(result, division(kernel));
        write(result);
        break;
      }
      case "matvec":
      case "matmul": {
        const joined = variant.split(",")[0]?.endsWith(" joined") ? division(kernel) : undefined;
        expect(joined, `${label} reads what lies in parts`).toEqual(parts.get(value("x")));
        const { matrix, range } = weight();
        const epilogue = variant.split(",")[1] ?? "";
        const sum = term("linear", value("x"), matrix.key, keyOf(bindings.bias));
        expect(epilogue.startsWith("bias"), label).toBe(bindings.bias !== undefined);
        let result = sum;
        if (epilogue.endsWith("residual")) result = term("add", ...[sum, value("residual")].toSorted((a, b) => a - b));
        if (epilogue === "bias_gelu") result = term("geluNew", sum);
        if (epilogue === "gated_silu") result = term("gatedSilu", sum);
        if (epilogue === "bias_gegelu") result = term("gegelu", sum, constants.LIMIT);
        if (epilogue === "scale_mask") result = term("scaleMask", sum, constants.SCALE, keyOf(bindings.mask));
        writePart(result, matrix, range);
        break;
      }
      case "sparsemixer":
        write(term("sparsemixer", value("scores"), constants.EXPERTS, constants.THRESHOLD));
        break;
      case "groupByExpert":
        write(term("groupByExpert", value("routing"), constants.EXPERTS));
        break;
      case "expertMatvec":
      case "expertMatmul": {
        const { matrix, range } = weight();
        const operands = [value("x"), value("routing"), ...(name === "expertMatmul" ? [value("groups")] : [])];
        const result = term(
          "expertLinear",
          ...operands,
          matrix.key,
          constants.EXPERT_ROWS,
          variant.split(",")[1] ?? "",
        );
        writePart(result, matrix, range);
        break;
      }
      case "expertSum":
        write(term("expertSum", value("x"), value("residual")));
        break;
      default:
        throw new Error(`${label}: what is a ${kernel.name}?`);
    }
  }
  return slots;
}

describe.each(models)("%s", (_name, architecture) => {
  test("each tensor of the checkpoint is declared once", () => {
    for (const kind of kinds) {
      const names = [...record(architecture, kind).declared.values()].flatMap((ref) =>
        ref.tensors.map(({ name }) => name),
      );
      expect(new Set(names).size).toBe(names.length);
      expect(names.length).toBeGreaterThan(architecture.layers * 6);
    }
  });

  test.each(kinds)("%s: the plan computes what the graph says", (kind) => {
    const { graph, logits } = record(architecture, kind);
    // One binding, and one so small that every matrix is split; named values kept or not.
    for (const changes of [{}, { taps: true }, { maxBindingBytes: 5120 }, { maxBindingBytes: 5120, taps: true }]) {
      const term = createTerms();
      const expected = graphTerms(graph, architecture.rope.rotary, term);
      const opts = options(architecture, kind, changes);
      const plan = buildPlan(graph, logits, opts);
      const slots = runPlan(plan, opts, term);
      expect(slots.get(plan.logitsSlot)).toBe(expected.get(logits.id));
      expect([...plan.taps.keys()]).toEqual(opts.taps ? [...graph.taps.keys()] : []);
      for (const [name, value] of opts.taps ? graph.taps : []) {
        const tap = plan.taps.get(name);
        expect(tap?.cols).toBe(value.cols);
        expect(slots.get(tap?.slot ?? -1), name).toBe(expected.get(value.id));
      }
    }
  });

  test.each(kinds)("%s: slots are large enough for what is written to them", (kind) => {
    const { graph, logits } = record(architecture, kind);
    const opts = options(architecture, kind);
    const plan = buildPlan(graph, logits, opts);
    for (const { label, bindings } of plan.steps) {
      const slot = slotOf(bindings.y ?? bindings.o ?? bindings.q);
      const bound = bindings.weight;
      if (slot === undefined || bound === undefined || !("matrix" in bound)) continue;
      const rows = plan.steps.at(-1)?.label === label && kind === "prefill" ? 1 : opts.maxSeq;
      expect(plan.slotBytes[slot], label).toBeGreaterThanOrEqual(
        rows * bound.matrix.rows * bound.matrix.activeShare * 4,
      );
    }
    expect(plan.slotBytes[plan.logitsSlot]).toBeGreaterThanOrEqual((kind === "all" ? opts.maxSeq : 1) * plan.vocab * 4);
  });

  test("few dispatches: additions, activations and appends have none of their own", () => {
    const { graph, logits } = record(architecture, "decode");
    const plan = buildPlan(graph, logits, options(architecture, "decode"));
    const qkNorms = graph.nodes.filter(({ op }) => op === "headNorm").length / architecture.layers;
    const perLayer = ({ PhiForCausalLM: 6, PhimoeForCausalLM: 10 }[architecture.name] ?? 7) + qkNorms;
    for (let layer = 0; layer < architecture.layers; layer++) {
      const steps = plan.steps.filter(({ label }) => label.startsWith(`layer.${layer}/`));
      expect(steps.length).toBeLessThanOrEqual(perLayer);
    }
    expect(plan.steps.length).toBeLessThanOrEqual(architecture.layers * perLayer + 3); // embed, norm, head
  });

  test.each(kinds)("%s: every variable of every kernel is bound, every constant is known", (kind) => {
    const { graph, logits } = record(architecture, kind);
    const plan = buildPlan(graph, logits, options(architecture, kind));
    expect(Object.keys(plan.choosers)).toEqual(kind === "all" ? [] : ["greedy", "sample"]);
    for (const { label, kernel, bindings } of [...plan.steps, ...Object.values(plan.choosers)]) {
      const code = codeOf(kernel);
      const names = readBindings(code).map(({ name }) => name);
      expect(Object.keys(bindings), label).toEqual(expect.arrayContaining(names));
      expect(new Set(names).size, label).toBe(names.length);
      const overrides = [...code.matchAll(/^override (\w+):[^;=]*(=)?/gm)];
      const known = overrides.map(([, name]) => name);
      expect(known, label).toEqual(expect.arrayContaining(Object.keys(kernel.constants)));
      const needed = overrides.flatMap(([, name, fallback]) => (fallback === undefined ? [name] : []));
      expect(Object.keys(kernel.constants), label).toEqual(expect.arrayContaining(needed));
    }
  });

  test.each(kinds)("%s: what the cache gets is made by the steps up to the last that writes it", (kind) => {
    const { graph, logits } = record(architecture, kind);
    const { steps, cacheSteps } = buildPlan(graph, logits, options(architecture, kind));
    const writes = steps.map(({ kernel }) => /^(ropeAppend|decodeAttention)</.test(kernel.name));
    expect(writes.filter((isWrite) => isWrite)).toHaveLength(architecture.layers);
    expect(cacheSteps).toBe(writes.lastIndexOf(true) + 1);
  });

  test("explain prints a line for each step, under a heading", () => {
    const { graph, logits } = record(architecture, "prefill");
    const plan = buildPlan(graph, logits, options(architecture, "prefill"));
    const lines = explain(plan).split("\n");
    expect(lines).toHaveLength(plan.steps.length + 2);
    expect(lines[0]).toMatch(new RegExp(`^prefill: ${plan.steps.length + 1} dispatches for up to 24 tokens`));
    expect(lines.at(-1)).toMatch(new RegExp(`next argmax .*logits=#${plan.logitsSlot}$`));
    plan.steps.forEach(({ label }, i) => {
      expect(lines[i + 1]).toContain(label);
    });
  });
});

describe("a grid", () => {
  const [, architecture] = models.find(([name]) => name === "phi-4") ?? [];

  /** Kernels of a plan by the start of their names. */
  function kernels(start: string, changes: Partial<PlanOptions> = {}): Kernel[] {
    if (architecture === undefined) throw new Error("no phi-4");
    const { graph, logits } = record(architecture, "prefill");
    const { steps } = buildPlan(graph, logits, options(architecture, "prefill", changes));
    return steps.filter(({ label }) => label.startsWith(start)).map(({ kernel }) => kernel);
  }

  test("of the norm after the last row is one workgroup, whatever the call's length", () => {
    expect(kernels("model.norm").map((kernel) => kernel.grid(24))).toEqual([[1, 1, 1]]);
    expect(kernels("layer.0/input_layernorm").map((kernel) => kernel.grid(24))).toEqual([[24, 1, 1]]);
  });

  test("is that of its row range", () => {
    const [whole] = kernels("lm_head");
    const parts = kernels("lm_head", { maxBindingBytes: 256 * 64 }); // 64 of the 256 rows of 128 columns
    expect(parts).toHaveLength(4);
    for (const part of parts) expect(part.grid(1)[0]).toBe((whole?.grid(1)[0] ?? 0) / 4);
  });
});

describe("what has no kernel is refused", () => {
  const vector = (key: string, length: number): VectorRef => new Weights().vector(key, length);
  const [, architecture] = models[0] ?? [];
  if (architecture === undefined) throw new Error("no model");
  const plan = (draw: (g: Graph, w: Weights) => ReturnType<typeof ops.add>) => () => {
    const graph = new Graph("decode");
    return buildPlan(graph, draw(graph, new Weights()), options(architecture, "decode"));
  };

  test("an activation or an addition that follows no linear", () => {
    expect(plan((g, w) => ops.geluNew(g, ops.embed(g, w.matrix("e", 8, 8))))).toThrow(
      /gelu_new does not directly follow/,
    );
    expect(
      plan((g, w) => {
        const x = ops.embed(g, w.matrix("e", 8, 8));
        return ops.add(g, x, ops.rmsNorm(g, x, vector("n", 8), 1e-5));
      }),
    ).toThrow(/add does not directly follow/);
  });

  test("a linear that is used twice keeps its result", () => {
    expect(
      plan((g, w) => {
        const x = ops.embed(g, w.matrix("e", 8, 8));
        const y = ops.linear(g, x, w.matrix("w", 8, 8), vector("b", 8));
        return ops.add(g, ops.linear(g, ops.geluNew(g, y), w.matrix("v", 8, 8)), y);
      }),
    ).toThrow(/gelu_new does not directly follow/);
  });

  test("two parts that nothing joins", () => {
    const two = (g: Graph, w: Weights) =>
      ops.linear(g, ops.embed(g, w.matrix("e", 8, 8)), w.matrix("w", 8, 8, { parts: 2 }));
    expect(plan(two)).toThrow(/two parts and nothing that joins them/);
  });
});

describe("row ranges", () => {
  const ref = (rows: number, cols: number, parts: 1 | 2 = 1): MatrixRef =>
    new Weights().matrix("w", rows, cols, { parts });

  test.each([
    [256, 128, 1, 5120],
    [51200, 2560, 1, 128 << 20],
    [7, 65, 2, 300],
    [7, 65, 2, 1 << 20],
    [1, 8, 1, 16],
    [1000, 8, 1, 16],
  ] as const)(
    "of [%i, %i], %i parts, %i bytes at most: in order, without gap or overlap",
    (rows, cols, parts, bytes) => {
      const matrix = ref(rows, cols, parts);
      const ranges = rowRanges(matrix, { layout: "f16" }, bytes);
      let next = 0;
      for (const range of ranges) {
        expect(range.firstRow).toBe(next);
        expect(range.rows).toBeGreaterThan(0);
        expect(range.rows * parts * rowBytes("f16", cols)).toBeLessThanOrEqual(bytes);
        next += range.rows;
      }
      expect(next).toBe(rows);
      expect(ranges.length).toBe(Math.ceil(rows / Math.floor(bytes / (parts * rowBytes("f16", cols)))));
    },
  );
});
