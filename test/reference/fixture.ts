/**
 * Reference cases: a checkpoint folder with `reference.json` and `reference.safetensors` beside it, in the format of
 * ../shared/reference/NOTES.md. The cases in test/fixtures/models are trimmed copies (scripts/make-fixtures.mjs).
 */

import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll } from "vitest";
import { decodeHalves } from "./ops.ts";

const fixturesRoot = fileURLToPath(new URL("../fixtures/models", import.meta.url));
const sharedRoot = fileURLToPath(new URL("../../../shared/reference/models", import.meta.url));

/** A tensor as float32, whatever it was stored as. */
export interface ReferenceTensor {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** A prompt and what the reference makes of it. */
export interface ReferencePrompt {
  readonly ids: readonly number[];
  readonly length: number;
  /** [length, vocab]; absent for the long prompts of trimmed fixtures, which keep their greedy ids. */
  readonly logits: Float32Array | undefined;
  /** The greedy continuation; EOS does not stop it. */
  readonly greedy: readonly number[];
  /** Gap between the best and the second logit at each step: ids count only up to the first step below the tolerance. */
  readonly greedyMargins: readonly number[];
  /** longrope only: the factors that the prompt itself is computed with. */
  readonly regime: "short" | "long" | undefined;
  /** longrope only: index in `greedy` of the first token chosen with the long factors, if it comes to that. */
  readonly crossesBoundaryAt: number | undefined;
  /** longrope only: what an engine generates that keeps its short-rotated keys past the boundary. */
  readonly greedyIfStale: readonly number[] | undefined;
}

/** A reference case, loaded. */
export interface ReferenceCase extends CaseEntry {
  readonly prompts: readonly ReferencePrompt[];
  /** Hidden states of prompt number `prompt`: names in order (hidden.embed, hidden.layer.0 …), each [length, hiddenSize]. */
  readonly hidden: {
    readonly prompt: number;
    readonly names: readonly string[];
    readonly tensors: ReadonlyMap<string, ReferenceTensor>;
  };
  readonly vocab: number;
  readonly hiddenSize: number;
}

/** What is known of a case before its numbers are read. */
export interface CaseEntry {
  readonly name: string;
  readonly folder: string;
  readonly modelType: string;
  readonly quantized: boolean;
  readonly config: Readonly<Record<string, unknown>>;
  /** Largest difference of a logit that an engine may show: `f32` activations and cache, or `f16` cache. */
  readonly tolerance: { readonly f32: number; readonly f16: number };
}

/** The column "suggest f16 tol" of NOTES.md, where it is above the least value of 0.03. */
const f16Tolerances: Readonly<Record<string, number>> = {
  "phi-3-medium-4k": 0.04,
  "phi-3-mini-128k": 0.07,
  "phi-3-mini-128k-su": 0.07,
  "phi-3-mini-4k": 0.04,
  "phi-3-small-128k": 0.07,
  "phi-3-small-8k": 0.08,
  "phi-3.5-moe": 0.04,
  "phi-3.5-moe-wide-jitter": 0.07,
  "phi-4": 0.04,
  "phi-4-awq-gemm-g32": 0.05,
  "phi-4-gptq-asym-g32": 0.05,
  "phi-4-gptq-sym-g128": 0.05,
  "phi-4-gptq_v2-asym-g32": 0.04,
  "phi-4-mini": 0.12,
};

/** All tensors of a safetensors file as float32 (F32, F16, BF16); a test's own reader, with no checks. */
export function readTensors(path: string): Map<string, ReferenceTensor> {
  const file = readFileSync(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header: Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }> = JSON.parse(
    file.toString("utf8", 8, start),
  );
  const tensors = new Map<string, ReferenceTensor>();
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    // A copy, because the offset of a view must be a multiple of its element size.
    const { buffer } = new Uint8Array(file.subarray(start + data_offsets[0], start + data_offsets[1]));
    const values =
      dtype === "F32"
        ? new Float32Array(buffer)
        : decodeHalves(new Uint16Array(buffer), dtype === "BF16" ? "bf16" : "f16");
    tensors.set(name, { shape, values });
  }
  return tensors;
}

/** All weights of a checkpoint folder as float32. */
export function readWeights(folder: string): Map<string, ReferenceTensor> {
  const files = readdirSync(folder).filter((name) => /^model(-\d+-of-\d+)?\.safetensors$/.test(name));
  return new Map(files.flatMap((name) => [...readTensors(join(folder, name))]));
}

function readJson(path: string): Record<string, unknown> {
  return JSON.parse(readFileSync(path, "utf8"));
}

function readEntry(folder: string): CaseEntry {
  const name = basename(folder);
  const config = readJson(join(folder, "config.json"));
  return {
    name,
    folder,
    modelType: String(config.model_type),
    quantized: config.quantization_config !== undefined,
    config,
    tolerance: { f32: 5e-4, f16: f16Tolerances[name] ?? 0.03 },
  };
}

/** A case as `reference.json` writes it. */
interface ReferenceJson {
  readonly prompts: readonly {
    readonly ids: readonly number[];
    readonly logits?: string;
    readonly greedy: readonly number[];
    readonly greedy_margins: readonly number[];
    readonly prompt_regime?: "short" | "long";
    readonly greedy_crosses_boundary_at_new_token?: number | null;
    readonly "greedy_if_cache_kept_stale_(wrong)"?: readonly number[];
  }[];
  readonly hidden: { readonly prompt: number; readonly tensors: readonly string[] };
}

/** Reads the case in `folder`. */
export function loadCase(folder: string): ReferenceCase {
  const entry = readEntry(folder);
  const reference = readJson(join(folder, "reference.json")) as unknown as ReferenceJson;
  const tensors = readTensors(join(folder, "reference.safetensors"));
  const tensor = (name: string): ReferenceTensor => {
    const found = tensors.get(name);
    if (!found) throw new Error(`${folder}/reference.safetensors: no tensor "${name}"`);
    return found;
  };
  return {
    ...entry,
    prompts: reference.prompts.map((prompt) => ({
      ids: prompt.ids,
      length: prompt.ids.length,
      logits: prompt.logits === undefined ? undefined : tensor(prompt.logits).values,
      greedy: prompt.greedy,
      greedyMargins: prompt.greedy_margins,
      regime: prompt.prompt_regime,
      crossesBoundaryAt: prompt.greedy_crosses_boundary_at_new_token ?? undefined,
      greedyIfStale: prompt["greedy_if_cache_kept_stale_(wrong)"],
    })),
    hidden: {
      prompt: reference.hidden.prompt,
      names: reference.hidden.tensors,
      tensors: new Map(reference.hidden.tensors.map((name) => [name, tensor(name)])),
    },
    vocab: Number(entry.config.vocab_size),
    hiddenSize: Number(entry.config.hidden_size),
  };
}

/** Case folders below `root`. */
function caseFolders(root: string): string[] {
  const folders = existsSync(root) ? readdirSync(root).map((name) => join(root, name)) : [];
  return folders.filter((folder) => existsSync(join(folder, "reference.json"))).sort();
}

/** Folders of the trimmed cases in test/fixtures/models. */
export function fixtureFolders(): string[] {
  return caseFolders(fixturesRoot);
}

/** The same checkpoint as `folder` under longrope's older name "su", in a temporary folder that goes after the suite. */
function renamedToSu(folder: string): string {
  const temporary = mkdtempSync(join(tmpdir(), "phi-webgpu-fixture-"));
  afterAll(() => rmSync(temporary, { recursive: true, force: true }));
  const copy = join(temporary, `${basename(folder)}-su`);
  cpSync(folder, copy, { recursive: true });
  const config = readJson(join(copy, "config.json"));
  config.rope_scaling = { ...(config.rope_scaling as object), type: "su" };
  writeFileSync(join(copy, "config.json"), JSON.stringify(config, undefined, 2));
  return copy;
}

/** Folders of ../shared/reference/models; none where ../shared is absent. */
export function sharedFolders(): string[] {
  return caseFolders(sharedRoot);
}

/**
 * The cases that `wanted` takes, by name: all of ../shared/reference/models where it is present, and those of
 * test/fixtures/models that it does not hold (a fixture is a trimmed copy of the shared case of its name). Without
 * ../shared a warning says what is missing, and the "su" case is derived from phi-3-mini-128k
 * for the suite that this is called in (so call it where tests are collected, not inside one).
 */
export function listCases(wanted: (entry: CaseEntry) => boolean = () => true): CaseEntry[] {
  const shared = sharedFolders();
  const fixtures = fixtureFolders();
  const derived: string[] = [];
  if (shared.length === 0) {
    console.warn("../shared/reference/models is absent: only the trimmed cases of test/fixtures/models are tested.");
    const longrope = fixtures.find((folder) => basename(folder) === "phi-3-mini-128k");
    if (longrope) derived.push(renamedToSu(longrope));
  }
  const byName = new Map([...fixtures, ...derived, ...shared].map((folder) => [basename(folder), folder]));
  return [...byName.values()]
    .map(readEntry)
    .filter(wanted)
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}
