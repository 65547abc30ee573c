/**
 * The names of a checkpoint's tensors as a model asks for them: without what wrappers put around a model before it was
 * saved, and with one tensor for embedding and head where only one of the two is stored.
 */

import { printable } from "../errors.ts";
import type { ConfigReader } from "./config.ts";
import type { TensorInfo } from "./safetensors.ts";

/** Tensors by the names that models use, and what is to be said of it. */
export interface NamedTensors {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly notes: readonly string[];
}

/** What torch.compile, FSDP and activation checkpointing put anywhere into a name. */
const wrappers = /(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\./g;
/** A layer's tensor: what stands before the model's own part of its name, and whether that has its `model.`. */
const ofLayer = /^(.*?)((?:model\.)?)layers\.\d+\./;

/**
 * Renames tensors where wrappers' names can be taken away, or all stand under one prefix that does not belong to the
 * model's own names (`base_model.model.`, `module.`, `model.` twice or not at all). Nothing is renamed where two would
 * get the same name.
 */
export function modelNames(stored: ReadonlyMap<string, TensorInfo>): NamedTensors {
  const unwrapped = renamed(stored, (name) => name.replace(wrappers, "")) ?? stored;
  const prefix = layerPrefix(unwrapped.keys());
  const tensors = (prefix !== undefined && renamed(unwrapped, (name) => withoutPrefix(name, prefix))) || unwrapped;
  if (tensors === stored) return { tensors, notes: [] };
  const own = [...tensors.keys()];
  const [from = "", to = ""] = [...stored.keys()].flatMap((name, i) => (own[i] === name ? [] : [name, own[i] ?? ""]));
  return { tensors, notes: [`tensors are read under the model's own names: ${printable(from)} as ${printable(to)}`] };
}

interface Prefix {
  readonly text: string;
  readonly hasModel: boolean;
}

/** What stands before the model's names in all layers; undefined where nothing does, or not the same everywhere. */
function layerPrefix(names: Iterable<string>): Prefix | undefined {
  let found: Prefix | undefined;
  for (const name of names) {
    const [, text, model] = ofLayer.exec(name) ?? [];
    if (text === undefined) continue;
    const hasModel = model !== "";
    if (text === "" && hasModel) return undefined;
    if (found !== undefined && (found.text !== text || found.hasModel !== hasModel)) return undefined;
    found = { text, hasModel };
  }
  return found;
}

function withoutPrefix(name: string, { text, hasModel }: Prefix): string {
  if (!name.startsWith(text)) return name;
  const own = name.slice(text.length).replace(/^model\.(?=lm_head\.)/, "");
  return hasModel || own.startsWith("lm_head.") ? own : `model.${own}`;
}

/** The tensors under other names; undefined where no name differs, or two would be the same. */
function renamed(
  tensors: ReadonlyMap<string, TensorInfo>,
  rename: (name: string) => string,
): ReadonlyMap<string, TensorInfo> | undefined {
  let differs = false;
  const result = new Map<string, TensorInfo>();
  for (const [name, info] of tensors) {
    const own = rename(name);
    if (result.has(own)) return undefined;
    differs ||= own !== name;
    result.set(own, own === name ? info : { ...info, name: own });
  }
  return differs ? result : undefined;
}

const head = "lm_head.weight";
const embedding = "model.embed_tokens.weight";
/** Bytes of both that are compared at a time. */
const comparedBytes = 4 << 20;

/**
 * Embedding and head of a checkpoint whose config says that they are one, as transformers 5.23 has it: where the files
 * hold only one of them, it serves as both; where they hold two that differ, both are used, and the config says so from
 * here on. Two that are equal are read through, which costs a read; two that differ mostly differ in their first bytes.
 */
export async function tiedHead(
  config: ConfigReader,
  tensors: ReadonlyMap<string, TensorInfo>,
  read: (tensor: TensorInfo, offsetBytes: number, lengthBytes: number) => Promise<Uint8Array>,
): Promise<NamedTensors & { readonly config: ConfigReader }> {
  const key = "tie_word_embeddings";
  // phi-3-small's own code ties them where the config does not say.
  const isTied = config.json(key) ?? config.json("model_type") === "phi3small";
  const [own, shared] = [tensors.get(head), tensors.get(embedding)];
  const asIs = { config, tensors, notes: [] };
  if (isTied !== true) return asIs;
  if (own !== undefined && shared === undefined) {
    const one = new Map(tensors);
    one.delete(head);
    one.set(embedding, { ...own, name: embedding });
    return { config, tensors: one, notes: [`${head} serves as the embedding too: the files hold no ${embedding}`] };
  }
  const isQuantized = tensors.has("lm_head.qweight");
  if (!isQuantized && (own === undefined || shared === undefined || (await isEqual(own, shared, read)))) return asIs;
  const why = isQuantized ? "the files hold a quantized head" : `${head} and ${embedding} differ`;
  return { config: config.with(key, false), tensors, notes: [`${config.file}: "${key}" is not followed: ${why}`] };
}

async function isEqual(
  a: TensorInfo,
  b: TensorInfo,
  read: (tensor: TensorInfo, offsetBytes: number, lengthBytes: number) => Promise<Uint8Array>,
): Promise<boolean> {
  if (a.dtype !== b.dtype || a.shape.length !== b.shape.length || a.shape.some((n, i) => n !== b.shape[i]))
    return false;
  for (let at = 0; at < a.sizeBytes; ) {
    const length = Math.min(at === 0 ? 4096 : comparedBytes, a.sizeBytes - at);
    const [left, right] = await Promise.all([read(a, at, length), read(b, at, length)]);
    if (!isSame(left, right)) return false;
    at += length;
  }
  return true;
}

/** By words where they lie so: a Buffer's own comparison is not there in a browser. */
function isSame(a: Uint8Array, b: Uint8Array): boolean {
  const words = (a.byteOffset | b.byteOffset) % 4 === 0 ? a.length >> 2 : 0;
  const [left, right] = [a, b].map((bytes) => new Uint32Array(bytes.buffer, words > 0 ? bytes.byteOffset : 0, words));
  for (let i = 0; i < words; i++) if (left?.[i] !== right?.[i]) return false;
  for (let i = 4 * words; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
