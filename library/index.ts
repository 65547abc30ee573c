/**
 * The package's entry: a model with its tokenizer, text in and text out. It runs on Node, where Dawn is loaded and held
 * for the caller, and in a browser.
 *
 * What fails is a `PhiError` or, in the tokenizer's files and in messages, a `TokenizerError`: one line, and advice.
 */
import {
  type CheckedKernels,
  type CheckpointSource,
  type LoadOptions as EngineLoadOptions,
  type Model as EngineModel,
  type Folder,
  type GenerateOptions,
  type GenerationResult,
  loadModel,
  openSource,
} from "../engine/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { openAdapter } from "./adapter.ts";
import { checkLoadOptions, checkSource, checkTextOptions, checkTextPrompt } from "./check.ts";
import {
  endIdsOf,
  noTokenizer,
  openTokenizer,
  promptIds,
  samplingUnder,
  stopsUnder,
  type TextPiece,
  type TextPrompt,
  textPieces,
} from "./text.ts";

export {
  type ActivationFormat,
  type CheckedKernels,
  type CheckpointSource,
  type Divergence,
  type EvaluateOptions,
  type Evaluation,
  evaluate,
  type FinishReason,
  type Folder,
  type GenerationResult,
  type GenerationStats,
  httpFolder,
  type KvFormat,
  type LoadProgress,
  type LogitsSource,
  openFolder,
  PhiError,
  type QuantizeOptions,
  type SamplingOptions,
  type TextLoss,
} from "../engine/index.ts";
export { type ChatMessage, type TextStream, type Tokenizer, TokenizerError } from "../tokenizer/index.ts";
export type { TextPiece, TextPrompt } from "./text.ts";

/** How a model is loaded: everything of the engine's options (context, kv, activations, signal, onProgress …), and what follows. */
export interface LoadOptions extends Omit<EngineLoadOptions, "folder" | "adapter"> {
  /**
   * An adapter of the caller's own, which serves this model alone, or a name as for `--adapter`. Default: the browser's,
   * and on Node the first of discrete GPU, integrated GPU, software.
   */
  readonly adapter?: GPUAdapter | string;
  /**
   * `required` (default): a folder without a sound tokenizer is refused. `optional`: it is loaded all the same, with a
   * line in `notes`. `none`: the tokenizer's files are not read.
   */
  readonly tokenizer?: "required" | "optional" | "none";
  /**
   * Called with the tokenizer (or undefined) as soon as it is parsed, while the weights are still being read. What it
   * throws ends the loading.
   */
  readonly onTokenizer?: (tokenizer: Tokenizer | undefined) => void;
}

/** How a text is generated: the engine's options (sampling, logprobs, ignoreEos, stopIds, signal), and what follows. */
export interface TextOptions extends Omit<GenerateOptions, "maxTokens"> {
  /** New tokens at most; default 256. */
  readonly maxTokens?: number;
  /**
   * The text ends before the first of these, also where one is split over tokens, or is or holds a special token. One may
   * be given as it is, without a list. Default: `stop_strings` of generation_config.json.
   */
  readonly stop?: string | readonly string[];
}

/** By default every load checks its kernels; `checked` may remember what passed. */
const nothingChecked: CheckedKernels = { has: () => false, add() {} };

/** What `maxTokens` is by default. */
const defaultMaxTokens = 256;

/** A model with its tokenizer. Calls are served one after the other. `dispose` it. */
export interface TextModel extends Omit<EngineModel, "generate"> {
  /** Ids that end a generation: of generation_config.json and config.json, and of the tokenizer (`endIds`). */
  readonly eosIds: readonly number[];
  /** Undefined where the folder has none, or it was not asked for. */
  readonly tokenizer: Tokenizer | undefined;
  /**
   * Continues a text, the messages of a conversation (in the model's chat template) or token ids, and yields a piece for
   * each new token. What is not in `sampling` is as generation_config.json has it; without its `do_sample` the likeliest
   * token is taken. The iterator returns why it ended, the seed and the figures. Leaving the loop ends the
   * generation; while it is neither finished nor left, the model's other calls wait.
   */
  generate(
    prompt: TextPrompt | readonly number[],
    options?: TextOptions,
  ): AsyncGenerator<TextPiece, GenerationResult, undefined>;
  /** Frees everything on the GPU and lets go of Dawn; a call that runs ends with an error. */
  dispose(): void;
}

/**
 * Loads a model and its tokenizer, which is parsed while the weights are read. Everything is judged from JSON and
 * headers before the first GPU buffer is made. Throws a PhiError of kind "checkpoint", "usage", "machine", "gpu", "io" or
 * "aborted", or a TokenizerError.
 */
export function load(
  source: CheckpointSource,
  options?: LoadOptions & { readonly tokenizer?: "required" },
): Promise<TextModel & { readonly tokenizer: Tokenizer }>;
export function load(source: CheckpointSource, options: LoadOptions): Promise<TextModel>;
export async function load(source: CheckpointSource, options: LoadOptions = {}): Promise<TextModel> {
  checkSource(source);
  checkLoadOptions(options);
  const { adapter: asked, tokenizer: wanted = "required", onTokenizer, ...engineOptions } = options;
  const folder = await openSource(source);
  const own = typeof asked === "object" ? undefined : await openAdapter(asked === undefined ? {} : { adapter: asked });
  const adapter = own?.adapter ?? (asked as GPUAdapter);
  // By hand: Node 20 loses aborts through AbortSignal.any once one of its signals was collected.
  const stopped = new AbortController();
  const stop = () => stopped.abort();
  options.signal?.addEventListener("abort", stop);
  if (options.signal?.aborted) stop();
  const parse = async (): Promise<ParsedTokenizer> => {
    try {
      const parsed = await parseTokenizer(folder, wanted);
      onTokenizer?.(parsed.tokenizer);
      return parsed;
    } catch (error) {
      stop();
      throw error;
    }
  };
  const [loaded, parsed] = await Promise.allSettled([
    loadModel({ checked: nothingChecked, ...engineOptions, folder, adapter, signal: stopped.signal }),
    parse(),
  ]);
  options.signal?.removeEventListener("abort", stop);
  if (loaded.status === "fulfilled" && parsed.status === "fulfilled") {
    return textModel(loaded.value, parsed.value, folder.name, () => own?.release());
  }
  if (loaded.status === "fulfilled") loaded.value.dispose();
  own?.release();
  // Where the tokenizer is at fault, the weights failed because they were stopped.
  throw parsed.status === "rejected" ? parsed.reason : loaded.status === "rejected" ? loaded.reason : undefined;
}

/** The tokenizer of a checkpoint, without its model. Throws a TokenizerError, or a PhiError "checkpoint" or "io". */
export async function loadTokenizer(source: CheckpointSource): Promise<Tokenizer> {
  checkSource(source);
  const folder = await openSource(source);
  const tokenizer = await openTokenizer(folder);
  if (tokenizer === undefined) throw noTokenizer(folder.name);
  return tokenizer;
}

interface ParsedTokenizer {
  readonly tokenizer: Tokenizer | undefined;
  readonly notes: readonly string[];
}

async function parseTokenizer(folder: Folder, wanted: "required" | "optional" | "none"): Promise<ParsedTokenizer> {
  if (wanted === "none") return { tokenizer: undefined, notes: [] };
  try {
    const tokenizer = await openTokenizer(folder);
    if (tokenizer === undefined && wanted === "required") throw noTokenizer(folder.name);
    return { tokenizer, notes: tokenizer?.notes ?? [] };
  } catch (error) {
    if (wanted === "required" || !(error instanceof Error)) throw error;
    return { tokenizer: undefined, notes: [`no text: ${error.message}`] };
  }
}

function textModel(model: EngineModel, parsed: ParsedTokenizer, name: string, release: () => void): TextModel {
  const { tokenizer } = parsed;
  const needed = (): Tokenizer => {
    if (tokenizer === undefined) throw noTokenizer(name);
    return tokenizer;
  };
  const idsOf = (prompt: TextPrompt | readonly number[]): readonly number[] =>
    isIds(prompt) ? prompt : promptIds(prompt, needed(), model.bosId);
  const eosIds = endIdsOf(model.eosIds, tokenizer);
  return {
    ...model,
    tokenizer,
    notes: [...model.notes, ...parsed.notes],
    eosIds,
    async *generate(prompt, options = {}) {
      checkTextPrompt(prompt);
      checkTextOptions(options);
      const { maxTokens = defaultMaxTokens, stop, ...others } = options;
      if (stop !== undefined && stop.length > 0) needed();
      const ids = idsOf(prompt);
      const sampling = samplingUnder(model.generationDefaults, options.sampling ?? {});
      const padding = tokenizer && { vocabularySize: tokenizer.vocabularySize };
      const tokens = model.generate(ids, { ...padding, stopIds: eosIds, ...defined(others), maxTokens, sampling });
      return yield* textPieces(tokens, tokenizer, tokenizer ? stopsUnder(model.generationDefaults, stop) : [], ids);
    },
    dispose() {
      model.dispose();
      release();
    },
  };
}

/** Options without those that are undefined, which are left to their defaults. */
function defined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}

function isIds(prompt: TextPrompt | readonly number[]): prompt is readonly number[] {
  return typeof prompt !== "string" && (prompt.length === 0 || typeof prompt[0] === "number");
}
