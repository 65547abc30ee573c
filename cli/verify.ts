/** `phi verify`: a model's numbers, layer by layer, against a file of expected ones. */
import { basename, dirname, join } from "node:path";
import {
  type ByteSource,
  type Folder,
  openFolder,
  PhiError,
  printable,
  readSafetensorsHeader,
  type SafetensorsHeader,
} from "../engine/index.ts";
import type { TextModel } from "../library/index.ts";
import { openAdapterOrRestart } from "./adapter.ts";
import { checkMemory, describeModel, openModel, openModelFolder } from "./model.ts";
import { print } from "./output.ts";
import { bundledModel } from "./package.ts";
import type { RunOptions } from "./run.ts";

/** Options of `phi verify`. */
export interface VerifyOptions extends RunOptions {
  /** A safetensors file with the JSON of the same name beside it; default: reference.safetensors in the model's folder. */
  readonly reference?: string;
  readonly tolerance: number;
}

/** The expected numbers: which prompts there are, and the tensors that belong to them. */
interface Reference {
  readonly name: string;
  readonly prompts: readonly { readonly ids: readonly number[]; readonly logits: string }[];
  /** Names in the order of the model: `hidden.embed`, `hidden.layer.0` … `hidden.final_norm`. */
  readonly hidden: { readonly prompt: number; readonly tensors: readonly string[] };
  /** A tensor [rows, cols], which must be F32 and have `rows` rows. */
  tensor(name: string, rows: number): Promise<Float32Array>;
  close(): Promise<void>;
}

/** Prints a table of differences; throws, for exit code 1, where one is beyond the tolerance, and names the first. */
export async function verify(options: VerifyOptions, signal: AbortSignal): Promise<void> {
  const folder = await openModelFolder(options.model, options.allowSymlinks, { ...options, signal });
  const reference = await openReference(options);
  try {
    const longest = Math.max(...reference.prompts.map(({ ids }) => ids.length));
    const described = await describeModel(folder, { context: longest, ...options });
    const adapter = await openAdapterOrRestart(options.adapter);
    if (adapter === undefined) return;
    checkMemory(described, adapter.adapter);
    const opened = await openModel(folder, adapter, { context: longest, ...options }, "none", signal);
    try {
      await compare(opened.model, reference, options.tolerance, signal);
    } finally {
      opened.dispose();
    }
  } finally {
    await reference.close();
  }
}

async function compare(model: TextModel, reference: Reference, tolerance: number, signal: AbortSignal): Promise<void> {
  const { prompts, hidden } = reference;
  const width = Math.max(...[...hidden.tensors, ...prompts.map(({ logits }) => logits)].map((name) => name.length));
  const line = (name: string, ...cells: readonly string[]) =>
    print(`${printable(name).padEnd(width)}  ${cells.map((cell) => cell.padStart(12)).join("  ")}\n`);
  const beyond: string[] = [];
  await line("tensor", "difference", "tolerance", "ok");
  const check = async (name: string, actual: Float32Array, ids: readonly number[]) => {
    const difference = largestDifference(actual, await reference.tensor(name, ids.length));
    const ok = difference <= tolerance; // false for NaN
    if (!ok) beyond.push(`${printable(name)} by ${difference.toExponential(2)}`);
    await line(name, difference.toExponential(2), tolerance.toExponential(2), ok ? "yes" : "no");
  };
  const traced = prompts[hidden.prompt];
  if (traced !== undefined) {
    const values = await trace(model, traced.ids, signal);
    for (const name of hidden.tensors) {
      const actual = values.get(name.replace(/^hidden\./, ""));
      if (actual === undefined) {
        throw new PhiError("checkpoint", `${reference.name}: "${printable(name)}": this model has no such layer`);
      }
      await check(name, actual, traced.ids);
    }
  }
  for (const { ids, logits } of prompts) await check(logits, await allLogits(model, ids, signal), ids);
  const [first] = beyond;
  if (first === undefined) return;
  const count = hidden.tensors.length + prompts.length;
  throw new PhiError(
    "internal",
    `${reference.name}: expected differences of at most ${tolerance}, got ${beyond.length} of ${count} tensors beyond it`,
    [`The first that differs: ${first}, on ${printable(model.adapterName)}.`],
  );
}

async function trace(
  model: TextModel,
  ids: readonly number[],
  signal: AbortSignal,
): Promise<Map<string, Float32Array>> {
  const joined = new Map<string, Float32Array>();
  for await (const { firstPosition, rows, values } of model.trace(ids, { signal })) {
    for (const [name, part] of values) {
      const cols = part.length / rows;
      const whole = joined.get(name) ?? new Float32Array(ids.length * cols);
      whole.set(part, firstPosition * cols);
      joined.set(name, whole);
    }
  }
  return joined;
}

async function allLogits(model: TextModel, ids: readonly number[], signal: AbortSignal): Promise<Float32Array> {
  const whole = new Float32Array(ids.length * model.vocabularySize);
  for await (const { firstPosition, values } of model.logits(ids, { signal })) {
    whole.set(values, firstPosition * model.vocabularySize);
  }
  return whole;
}

/** The largest absolute difference; NaN where the lengths differ or a number is not finite on one side only. */
function largestDifference(actual: Float32Array, expected: Float32Array): number {
  if (actual.length !== expected.length) return Number.NaN;
  let largest = 0;
  for (let i = 0; i < actual.length; i++) {
    const [a = Number.NaN, b = Number.NaN] = [actual[i], expected[i]];
    const difference = Object.is(a, b) ? 0 : Math.abs(a - b);
    if (Number.isNaN(difference)) return difference;
    largest = Math.max(largest, difference);
  }
  return largest;
}

async function openReference({ reference, model, allowSymlinks = false }: VerifyOptions): Promise<Reference> {
  const path = reference ?? join(model ?? bundledModel(), "reference.safetensors");
  const folder = await openFolder(dirname(path), { allowSymlinks });
  const file = basename(path);
  const jsonFile = file.replace(/(\.safetensors)?$/, ".json");
  const { prompts, hidden } = readPrompts(jsonFile, await readJson(folder, jsonFile));
  const source = await openFile(folder, file);
  let header: SafetensorsHeader;
  try {
    header = await readSafetensorsHeader(source);
  } catch (error) {
    await source.close();
    throw error;
  }
  return {
    name: printable(file),
    prompts,
    hidden,
    async tensor(name, rows) {
      const info = header.tensors.get(name);
      const where = `${printable(file)}: tensor "${printable(name)}": expected F32 [${rows}, columns]`;
      if (info === undefined) throw new PhiError("checkpoint", `${where}, got no such tensor`);
      if (info.dtype !== "F32" || info.shape.length !== 2 || info.shape[0] !== rows) {
        throw new PhiError("checkpoint", `${where}, got ${info.dtype} [${info.shape.join(", ")}]`);
      }
      const bytes = await source.read(info.offsetBytes, info.sizeBytes, new Uint8Array(info.sizeBytes));
      return new Float32Array(bytes.buffer, bytes.byteOffset, info.sizeBytes / 4);
    },
    close: () => source.close(),
  };
}

async function openFile(folder: Folder, file: string): Promise<ByteSource> {
  const source = await folder.open(file);
  if (source !== undefined) return source;
  throw new PhiError(
    "usage",
    `--reference: expected ${printable(file)} in ${printable(folder.name)}, got no such file`,
    ["The bundled model has one; for another model give a file made for it, with its .json beside it."],
  );
}

async function readJson(folder: Folder, file: string): Promise<unknown> {
  const source = await openFile(folder, file);
  try {
    return JSON.parse(new TextDecoder().decode(await source.read(0, source.sizeBytes)));
  } catch (error) {
    if (error instanceof PhiError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new PhiError("checkpoint", `${printable(file)}: expected JSON, got ${printable(reason)}`);
  } finally {
    await source.close();
  }
}

/** The parts of a reference.json that are used here, checked; the rest of the file is free. */
function readPrompts(file: string, json: unknown): Pick<Reference, "prompts" | "hidden"> {
  const fail = (field: string, expected: string): never => {
    throw new PhiError("checkpoint", `${printable(file)}: ${field}: expected ${expected}`);
  };
  const { prompts, hidden } = (typeof json === "object" && json) as { prompts?: unknown; hidden?: unknown };
  if (!Array.isArray(prompts) || prompts.length === 0) return fail('"prompts"', "a list of { ids, logits }");
  prompts.forEach((prompt: { ids?: unknown; logits?: unknown } | null, index) => {
    const ids = prompt?.ids;
    if (!Array.isArray(ids) || ids.length === 0 || !ids.every((id) => Number.isInteger(id))) {
      fail(`"prompts"[${index}].ids`, "a list of token ids");
    }
    if (typeof prompt?.logits !== "string") fail(`"prompts"[${index}].logits`, "the name of a tensor");
  });
  const { prompt = -1, tensors = [] } = (hidden ?? {}) as { prompt?: unknown; tensors?: unknown };
  if (!Array.isArray(tensors) || !tensors.every((name) => typeof name === "string")) {
    return fail('"hidden".tensors', "a list of names of tensors");
  }
  if (tensors.length > 0 && !(typeof prompt === "number" && prompt in prompts)) {
    return fail('"hidden".prompt', `the number of a prompt, 0 to ${prompts.length - 1}`);
  }
  return { prompts, hidden: { prompt: Number(prompt), tensors } };
}
