/** `phi info`: what a checkpoint is and what it takes, from its headers. */
import {
  type CheckpointDescription,
  describeCheckpoint,
  type GpuNeeds,
  type ModelDescription,
  PhiError,
  printable,
  type QuantizeDescription,
  type StoredQuantization,
} from "../engine/index.ts";
import { endIdsOf, openTokenizer } from "../library/text.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { openAdapterOrRestart, wantedAdapter } from "./adapter.ts";
import { judge, type Verdict } from "./fit.ts";
import { endTokensText, formatBytes, jsonLine } from "./format.ts";
import { openModelFolder } from "./model.ts";
import { note, print } from "./output.ts";
import { loadOptions, type RunOptions } from "./run.ts";

/** Options of `phi info`. */
export interface InfoOptions extends RunOptions {
  readonly json?: boolean;
}

/** What the folder has for text. */
interface TextFacts {
  /** Undefined: there is none. */
  readonly tokenizer: Tokenizer | undefined;
  /** Why the tokenizer's files cannot be used. */
  readonly problem: Error | undefined;
}

/**
 * Prints what the headers say. A checkpoint whose headers are bad is an error at once; one that is readable but no model
 * of ours is described first.
 */
export async function info(options: InfoOptions): Promise<void> {
  const folder = await openModelFolder(options.model, options.allowSymlinks, { need: "headers" });
  const description = await describeCheckpoint(folder, loadOptions(options));
  const opened = await adapterIfAny(options.adapter);
  if (opened === "restarted") return;
  const text = await openTokenizer(folder).then(
    (tokenizer): TextFacts => ({ tokenizer, problem: undefined }),
    (problem: Error): TextFacts => ({ tokenizer: undefined, problem }),
  );
  const needs = description.model?.needs(opened?.adapter);
  opened?.release();
  const verdict = needs && judge(needs);
  await print(
    options.json ? jsonLine(report(description, needs, verdict, text)) : table(description, needs, verdict, text),
  );
  for (const line of [...description.notes, ...(text.tokenizer?.notes ?? [])]) note(line);
  const problem = description.problem ?? text.problem;
  if (problem !== undefined) throw problem;
}

/** The adapter of the other commands; none is no reason to stop, unless one was named. */
async function adapterIfAny(option: string | undefined) {
  try {
    return (await openAdapterOrRestart(option)) ?? "restarted";
  } catch (error) {
    if (wantedAdapter(option) !== undefined || !(error instanceof PhiError && error.kind === "machine")) throw error;
    return undefined;
  }
}

const count = (n: number) => n.toLocaleString("en-US");

function table(
  description: CheckpointDescription,
  needs: GpuNeeds | undefined,
  verdict: Verdict | undefined,
  text: TextFacts,
): string {
  const { files, model } = description;
  const stored = description.stored.map(({ dtype, tensors, bytes }) => `${dtype} ${formatBytes(bytes)} (${tensors})`);
  const rows = [
    ...(model ? modelRows(model) : []),
    [
      "tensors",
      `${description.tensors} in ${files.length === 1 ? printable(files[0] ?? "") : `${files.length} files`}`,
    ],
    ["stored", `${formatBytes(description.storedBytes)}: ${stored.join(", ") || "nothing"}`],
    ...(model && needs ? needRows(model, needs) : []),
    ...(verdict
      ? [["fits", `${verdict.fits === undefined ? "not known" : verdict.fits ? "yes" : "no"}: ${verdict.reason}`]]
      : []),
    ["tokenizer", tokenizerText(text)],
    ["chat", chatText(text)],
    ["end", endTokensText(endIds(model, text), text.tokenizer)],
  ];
  return `${printable(description.name)}\n${rows.map(([key = "", value]) => `  ${key.padEnd(12)} ${value}\n`).join("")}`;
}

function modelRows(model: ModelDescription): string[][] {
  const { rope, parametersByPart, maxPositions, window } = model;
  const byPart = Object.entries(parametersByPart).filter(([, n]) => n > 0);
  const heads = model.kvHeads === model.heads ? "" : ` (${model.kvHeads} for keys and values)`;
  const stretched =
    rope.originalPositions === undefined ? "" : `, stretched from ${count(rope.originalPositions)} positions`;
  return [
    ["architecture", `${model.architecture} (model_type "${model.type}")`],
    ["shape", `${model.layers} layers, hidden ${model.hidden}, ${model.heads} heads${heads} of ${model.headDim}`],
    ["vocabulary", `${count(model.vocabulary)} tokens`],
    ["parameters", `${count(model.parameters)}: ${byPart.map(([part, n]) => `${part} ${count(n)}`).join(", ")}`],
    ...(model.tied ? [["head", "is the embedding"]] : []),
    ...(model.quantization ? [["quantized", quantizationText(model.quantization)]] : []),
    [
      "context",
      `${count(maxPositions)} positions${window === undefined || window >= maxPositions ? "" : `, each sees the last ${count(window)}`}`,
    ],
    ["rope", `${rope.kind}, theta ${rope.theta}, ${rope.rotary} of ${model.headDim} dimensions${stretched}`],
  ];
}

function quantizationText({ method, bits, groupSize, symmetric, actOrder, modules }: StoredQuantization): string {
  const group = groupSize === undefined ? "one group a row" : `groups of ${groupSize}`;
  const order = actOrder ? ", act-order" : "";
  return `${method.toUpperCase()}, ${bits} bits, ${group}, ${symmetric ? "symmetric" : "asymmetric"}${order}: ${count(modules)} modules`;
}

function isQuantized({ weights, head }: QuantizeDescription): boolean {
  return weights !== "none" || head !== "none";
}

function quantizeText({ weights, head, groupSize, scheme }: QuantizeDescription): string {
  return `while it loads: linear layers ${weights}, head and embedding ${head}; groups of ${groupSize}, ${scheme}`;
}

function needRows(
  { context, kv, kvBytesPer1000Tokens, quantize, activations }: ModelDescription,
  needs: GpuNeeds,
): string[][] {
  const where = needs.adapter === undefined ? "no adapter here; on a GPU" : printable(needs.adapter);
  return [
    ["adapter", where],
    ...(isQuantized(quantize) ? [["quantize", quantizeText(quantize)]] : []),
    ...(activations === "f32" ? [] : [["activations", `${activations}, as the input of linears on integer weights`]]),
    [
      "on the GPU",
      `${formatBytes(needs.totalBytes)}: weights ${formatBytes(needs.weightsBytes)}, cache ${formatBytes(needs.kvBytes)} (${kv}, context ${count(context)}), activations ${formatBytes(needs.activationBytes)} (${needs.chunkTokens} tokens at a time)`,
    ],
    ["cache", `${formatBytes(kvBytesPer1000Tokens)} per 1,000 tokens`],
    ["new token", `reads ${formatBytes(needs.weightBytesPerToken)} of weights, and the cache`],
  ];
}

function tokenizerText({ tokenizer, problem }: TextFacts): string {
  if (problem !== undefined) return `not usable: ${problem.message}`;
  return tokenizer === undefined ? "none: token ids only" : `${count(tokenizer.vocabularySize)} tokens`;
}

function chatText({ tokenizer }: TextFacts): string {
  if (tokenizer?.chatTemplateError) return `not usable: ${tokenizer.chatTemplateError.message}`;
  return tokenizer?.hasChatTemplate ? "template present" : "no template";
}

function endIds(model: ModelDescription | undefined, { tokenizer }: TextFacts): readonly number[] {
  return endIdsOf(model?.generationDefaults.eosIds ?? [], tokenizer);
}

function report(
  description: CheckpointDescription,
  needs: GpuNeeds | undefined,
  verdict: Verdict | undefined,
  text: TextFacts,
) {
  const { model } = description;
  const { tokenizer, problem } = text;
  return {
    name: description.name,
    files: description.files,
    tensors: description.tensors,
    stored: description.stored,
    stored_bytes: description.storedBytes,
    model: model && {
      architecture: model.architecture,
      model_type: model.type,
      layers: model.layers,
      hidden: model.hidden,
      heads: model.heads,
      kv_heads: model.kvHeads,
      head_dim: model.headDim,
      vocabulary: model.vocabulary,
      parameters: model.parameters,
      parameters_by_part: model.parametersByPart,
      tied: model.tied,
      quantization: model.quantization
        ? {
            method: model.quantization.method,
            bits: model.quantization.bits,
            group_size: model.quantization.groupSize ?? -1,
            symmetric: model.quantization.symmetric,
            act_order: model.quantization.actOrder,
            modules: model.quantization.modules,
          }
        : null,
      max_positions: model.maxPositions,
      window: model.window ?? null,
      rope: {
        kind: model.rope.kind,
        theta: model.rope.theta,
        rotary: model.rope.rotary,
        original_positions: model.rope.originalPositions ?? null,
      },
      context: model.context,
      kv: model.kv,
      activations: model.activations,
      quantize: isQuantized(model.quantize)
        ? {
            weights: model.quantize.weights,
            head: model.quantize.head,
            group_size: model.quantize.groupSize,
            scheme: model.quantize.scheme,
          }
        : null,
      kv_bytes_per_1000_tokens: model.kvBytesPer1000Tokens,
    },
    gpu: needs && {
      adapter: needs.adapter ?? null,
      weights_bytes: needs.weightsBytes,
      weight_bytes_per_token: needs.weightBytesPerToken,
      kv_bytes: needs.kvBytes,
      activation_bytes: needs.activationBytes,
      total_bytes: needs.totalBytes,
      chunk_tokens: needs.chunkTokens,
      fits: verdict?.fits ?? null,
      reason: verdict?.reason,
    },
    tokenizer: tokenizer ? { tokens: tokenizer.vocabularySize } : null,
    tokenizer_problem: problem?.message ?? null,
    end_ids: endIds(model, text),
    chat_template: tokenizer?.hasChatTemplate ?? false,
    chat_template_problem: tokenizer?.chatTemplateError?.message ?? null,
    problem: description.problem?.message ?? null,
    notes: description.notes,
  };
}
