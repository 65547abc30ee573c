/**
 * A checkpoint folder: config.json, generation_config.json and the tensors of one or many safetensors files. Everything
 * here is judged from JSON and headers; tensor data is read in ranges, later.
 */

import { PhiError, printable } from "../errors.ts";
import { type ConfigReader, maxConfigBytes, readConfig } from "./config.ts";
import { describe, isObject, parseJson } from "./json.ts";
import { modelNames, tiedHead } from "./names.ts";
import { foreignFormat, readSafetensorsHeader, type TensorInfo } from "./safetensors.ts";
import { type ByteSource, type Folder, unsafePath } from "./source.ts";

/** An open checkpoint. `close` it; files are opened as they are read, a few at a time. */
export interface Checkpoint {
  /** The folder as the user gave it. */
  readonly name: string;
  readonly config: ConfigReader;
  readonly generationConfig: ConfigReader | undefined;
  /** What a quantizing tool wrote beside config.json; looked for where a tensor is quantized. */
  readonly quantizeConfig: ConfigReader | undefined;
  /** Every tensor by its name as models have it (`names.ts`). */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Names in the index that no file holds; refused where a model needs one. */
  readonly absent: ReadonlySet<string>;
  /** What the user should know, one line each. */
  readonly notes: readonly string[];
  readonly folder: Folder;
  /**
   * Reads bytes of a tensor; the offset counts from the tensor's first byte. Throws a PhiError "io" if the file cannot
   * be read or is not the one whose header was read.
   */
  read(tensor: TensorInfo, offsetBytes: number, lengthBytes: number, into?: Uint8Array): Promise<Uint8Array>;
  /** Throws a PhiError "io" if any weight file changed since it was opened. Call it after the last read. */
  assertUnchanged(): Promise<void>;
  close(): Promise<void>;
}

const indexFile = "model.safetensors.index.json";
const singleFile = "model.safetensors";
/** The published index with the most tensors (497,000) has 60 MB. */
const maxIndexBytes = 100_000_000;
/** Of GPTQ's tools and of AWQ's. */
const quantizeFiles = ["quantize_config.json", "quant_config.json"];
const maxShards = 10_000;
const maxOpenFiles = 16;
const maxNamesShown = 20;

/**
 * Opens a checkpoint and checks every header. The index says which files count, and their headers which tensors there
 * are, as in transformers; without an index it is model.safetensors, or the only *.safetensors file. Throws a PhiError
 * "checkpoint" that names file and tensor, or "io".
 */
export async function openCheckpoint(folder: Folder): Promise<Checkpoint> {
  const files = await folder.list();
  const configText = await readWhole(folder, "config.json", maxConfigBytes);
  if (configText === undefined) {
    if (files.includes(adapterConfig)) return refuseAdapter(folder);
    throw new PhiError("checkpoint", `${printable(folder.name)}: expected a file config.json, got none`, [
      otherFormats(files) ?? "Give the folder that holds config.json and the *.safetensors files.",
    ]);
  }
  const written = readConfig("config.json", configText);
  const generationText = await readWhole(folder, "generation_config.json", maxConfigBytes);
  const generationConfig = generationText && readConfig("generation_config.json", generationText);

  const weights = await findWeights(folder, files);
  const pool = filePool(folder);
  try {
    const stored = new Map<string, TensorInfo>();
    for (const file of weights.files) {
      const header = await pool.use(file, readSafetensorsHeader);
      for (const [name, info] of header.tensors) {
        const other = stored.get(name)?.file;
        if (other !== undefined) refuseTwice(name, other, file);
        stored.set(name, info);
      }
    }
    const read: Checkpoint["read"] = async (tensor, offsetBytes, lengthBytes, into) => {
      if (offsetBytes < 0 || lengthBytes < 0 || offsetBytes + lengthBytes > tensor.sizeBytes) {
        const range = `${offsetBytes} to ${offsetBytes + lengthBytes} of ${tensor.sizeBytes}`;
        throw new PhiError(
          "internal",
          `${tensor.file}: tensor "${printable(tensor.name)}": bytes ${range} do not exist`,
        );
      }
      return pool.use(tensor.file, (source) => source.read(tensor.offsetBytes + offsetBytes, lengthBytes, into));
    };
    const index = compareIndex(weights.map, stored);
    const named = modelNames(stored);
    const { config, tensors, notes } = await tiedHead(written, named.tensors, read);
    const isQuantized = [...tensors.keys()].some((name) => name.endsWith(".qweight"));
    const quantizeConfig = isQuantized ? await findQuantizeConfig(folder) : undefined;
    return {
      name: folder.name,
      config,
      generationConfig,
      quantizeConfig,
      tensors,
      absent: index.absent,
      notes: [...weights.notes, ...adapterNotes(files), ...index.notes, ...named.notes, ...notes],
      folder,
      read,
      async assertUnchanged() {
        for (const file of weights.files) await pool.use(file, (source) => source.assertUnchanged());
      },
      close: () => pool.close(),
    };
  } catch (error) {
    await pool.close().catch(() => undefined);
    throw error;
  }
}

async function findQuantizeConfig(folder: Folder): Promise<ConfigReader | undefined> {
  for (const file of quantizeFiles) {
    const text = await readWhole(folder, file, maxConfigBytes);
    if (text !== undefined) return readConfig(file, text);
  }
  return undefined;
}

/** Reads a small file whole, or undefined if there is none. */
async function readWhole(folder: Folder, file: string, maxBytes: number): Promise<Uint8Array | undefined> {
  const source = await folder.open(file);
  if (!source) return undefined;
  try {
    if (source.sizeBytes > maxBytes) {
      throw new PhiError("checkpoint", `${file}: expected at most ${maxBytes} bytes, got ${source.sizeBytes}`);
    }
    const text = await source.read(0, source.sizeBytes);
    const other = text[0] === 0x7b ? undefined : foreignFormat(text);
    if (other) throw new PhiError("checkpoint", `${file}: expected JSON, got ${other.got}`, other.advice);
    return text;
  } finally {
    await source.close();
  }
}

interface Weights {
  readonly files: readonly string[];
  /** Tensor name to file, where there is an index. */
  readonly map?: ReadonlyMap<string, string>;
  readonly notes: readonly string[];
}

async function findWeights(folder: Folder, files: readonly string[]): Promise<Weights> {
  const indexText = await readWhole(folder, indexFile, maxIndexBytes);
  const map = indexText && readIndex(indexText);
  const hasSingle = await exists(folder, singleFile);
  if (map) {
    const shards = [...new Set(map.values())].sort();
    if (shards.length > maxShards) {
      throw new PhiError("checkpoint", `${indexFile}: expected at most ${maxShards} files, got ${shards.length}`);
    }
    const missing: string[] = [];
    for (const shard of shards) if (!(await exists(folder, shard))) missing.push(shard);
    const isOnlySingle = shards.length === 1 && shards[0] === singleFile;
    if (missing.length > 0) {
      const all = `${missing.length} of its ${shards.length} files missing: ${names(missing)}`;
      throw new PhiError(
        "checkpoint",
        `${indexFile}: expected every file that it names, got ${all}`,
        hasSingle && !isOnlySingle
          ? [`It is ambiguous whether ${singleFile} stands for them: remove it or the index, or download the files.`]
          : ["Download them into the folder."],
      );
    }
    const unused = hasSingle && !isOnlySingle ? [`${singleFile} is ignored: ${indexFile} names other files`] : [];
    return { files: shards, map, notes: unused };
  }

  const shards = files.filter((file) => /-[0-9]{5,}-of-[0-9]{5,}\.safetensors$/.test(file));
  if (shards.length > 0) {
    const also = hasSingle ? `${singleFile} and ` : "";
    throw new PhiError(
      "checkpoint",
      `${printable(folder.name)}: expected ${indexFile} beside numbered files, got ${also}${names(shards)}`,
      [hasSingle ? `It is ambiguous which of them count: remove one or the other.` : `Download ${indexFile} too.`],
    );
  }
  if (hasSingle) return { files: [singleFile], notes: [] };
  const others = files.filter((file) => file.endsWith(".safetensors") && !/^(?:consolidated|adapter_model)/.test(file));
  const [only] = others;
  if (only === undefined && files.includes(adapterConfig)) return refuseAdapter(folder);
  if (only !== undefined && others.length === 1)
    return { files: [only], notes: [`weights are read from ${printable(only)}`] };
  const got = others.length > 1 ? `several files: ${names(others)}` : "none";
  throw new PhiError("checkpoint", `${printable(folder.name)}: expected ${singleFile} or ${indexFile}, got ${got}`, [
    otherFormats(files) ?? "Download the checkpoint's *.safetensors files into the folder.",
  ]);
}

/** Advice for a folder without safetensors whose weights are in another format. */
function otherFormats(files: readonly string[]): string | undefined {
  const others = files.filter((file) => /\.(?:bin|pt|pth|ckpt|gguf|onnx|h5|msgpack)$/i.test(file));
  if (others.length === 0) return undefined;
  return `Only safetensors is read, not ${names(others)}: download the original checkpoint in safetensors format.`;
}

function readIndex(text: Uint8Array): ReadonlyMap<string, string> {
  function fail(what: string, expected: string, got: string): never {
    throw new PhiError("checkpoint", `${indexFile}: ${what}expected ${expected}, got ${got}`);
  }
  const root = parseJson(text, { file: indexFile });
  if (!isObject(root)) fail("", "an object at the root", describe(root));
  const entries = root.get("weight_map");
  if (!isObject(entries)) fail('"weight_map": ', "an object of tensor and file names", describe(entries));
  if (entries.size === 0) fail('"weight_map": ', "at least one tensor", "an empty object");
  const map = new Map<string, string>();
  const judged = new Set<string>();
  for (const [name, file] of entries) {
    const entry = `"weight_map": tensor "${printable(name)}": `;
    if (typeof file !== "string") fail(entry, "a file name", describe(file));
    if (!judged.has(file)) {
      const unsafe = unsafePath(file);
      if (unsafe !== undefined) fail(entry, "a file name inside the folder", `"${printable(file)}", ${unsafe}`);
      if (!file.endsWith(".safetensors")) fail(entry, "a *.safetensors file", `"${printable(file)}"`);
      judged.add(file);
    }
    map.set(name, file);
  }
  return map;
}

async function exists(folder: Folder, file: string): Promise<boolean> {
  const source = await folder.open(file);
  await source?.close();
  return source !== undefined;
}

function refuseTwice(name: string, first: string, second: string): never {
  throw new PhiError(
    "checkpoint",
    `${printable(second)}: tensor "${printable(name)}": expected in one file only, got it in ${printable(first)} too`,
  );
}

/** What the index says otherwise than the files: their headers are followed. */
function compareIndex(
  map: ReadonlyMap<string, string> | undefined,
  stored: ReadonlyMap<string, TensorInfo>,
): { readonly absent: ReadonlySet<string>; readonly notes: readonly string[] } {
  if (map === undefined) return { absent: new Set(), notes: [] };
  const absent = [...map.keys()].filter((name) => !stored.has(name));
  const elsewhere = [...map].filter(([name, file]) => (stored.get(name)?.file ?? file) !== file).map(([name]) => name);
  const unlisted = [...stored.keys()].filter((name) => !map.has(name));
  const said = (found: readonly string[], what: string) =>
    found.length > 0 ? [`${indexFile} ${what.replace("#", `${found.length} tensors`)}: ${names(found)}`] : [];
  return {
    absent: new Set(absent),
    notes: [
      ...said(absent, "names # that no file holds"),
      ...said(elsewhere, "names another file than the one that holds it for #"),
      ...said(unlisted, "does not name #, which are read all the same"),
    ],
  };
}

/** What PEFT saves: the weights that training added to a base model, without that model. */
const adapterConfig = "adapter_config.json";

async function refuseAdapter(folder: Folder): Promise<never> {
  const text = await readWhole(folder, adapterConfig, maxConfigBytes);
  const base = text && readConfig(adapterConfig, text).json("base_model_name_or_path");
  const of = typeof base === "string" ? ` of ${printable(base)}` : "";
  throw new PhiError(
    "checkpoint",
    `${printable(folder.name)}: expected a model, got an adapter${of} (${adapterConfig})`,
    [
      "An adapter holds only what was trained beside its base model. Merge the two and load the result:",
      "in Python, AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW).",
    ],
  );
}

/** transformers applies an adapter that lies beside a model. */
function adapterNotes(files: readonly string[]): readonly string[] {
  return files.includes(adapterConfig) ? [`the adapter beside the model (${adapterConfig}) is not applied`] : [];
}

/** Names for a message: the first 20 and how many more. */
function names(all: readonly string[]): string {
  const shown = all.slice(0, maxNamesShown).map(printable).join(", ");
  return all.length > maxNamesShown ? `${shown} and ${all.length - maxNamesShown} more` : shown;
}

/** Opens weight files as they are needed and keeps the last few: a checkpoint may have more files than may be open. */
function filePool(folder: Folder) {
  interface Entry {
    readonly source: Promise<ByteSource>;
    users: number;
  }
  const entries = new Map<string, Entry>();
  const versions = new Map<string, string>();

  async function open(file: string): Promise<ByteSource> {
    const source = await folder.open(file);
    if (!source) throw new PhiError("io", `${printable(file)}: expected the file, got none: it was removed`);
    const version = versions.get(file) ?? source.version;
    versions.set(file, version);
    if (version === source.version) return source;
    await source.close();
    throw new PhiError("io", `${printable(file)}: expected the file whose header was read, got another version of it`, [
      "The file was changed while the checkpoint was being read: try again when it is complete.",
    ]);
  }

  async function closeEntry(file: string, { source }: Entry): Promise<void> {
    entries.delete(file);
    const opened = await source.catch(() => undefined);
    await opened?.close();
  }

  async function closeIdle(): Promise<void> {
    for (const [file, entry] of entries) {
      if (entries.size <= maxOpenFiles) return;
      if (entry.users === 0) await closeEntry(file, entry);
    }
  }

  return {
    async use<T>(file: string, work: (source: ByteSource) => Promise<T>): Promise<T> {
      let entry = entries.get(file);
      if (!entry) {
        entry = { source: open(file), users: 0 };
        entry.source.catch(() => entries.delete(file));
      }
      // Set anew, so that the least recently used file comes first.
      entries.delete(file);
      entries.set(file, entry);
      entry.users++;
      try {
        return await work(await entry.source);
      } finally {
        entry.users--;
        await closeIdle();
      }
    },
    async close(): Promise<void> {
      for (const [file, entry] of entries) await closeEntry(file, entry);
    },
  };
}
