/** The public API of the engine. */

export type { KvFormat } from "../kernels/attention/kv/kv.ts";
export type { ActivationFormat } from "../kernels/linear/linear.ts";
export { type GroupSize, groupSizes } from "../kernels/weights/weights.ts";
export type { CheckedKernels, KernelCheck } from "./check/selfcheck.ts";
export type { TunedKernel, TuneProgress, TuneReport } from "./check/tune.ts";
export {
  type CheckpointDescription,
  type DescribeOptions,
  describeCheckpoint,
  type GpuNeeds,
  type ModelDescription,
  type ModelPart,
  type StoredQuantization,
  type StoredTensors,
} from "./describe.ts";
export { type ErrorKind, exitCodes, PhiError, printable } from "./errors.ts";
export { type Checkpoint, openCheckpoint } from "./files/checkpoint.ts";
export { type FolderOptions, openFolder } from "./files/disk.ts";
export type { GenerationDefaults } from "./files/generation.ts";
export { httpFolder } from "./files/http.ts";
export { type CheckpointSource, openSource } from "./files/open.ts";
export {
  type DType,
  readSafetensorsHeader,
  type SafetensorsHeader,
  safetensorsBytes,
  safetensorsHeader,
  type TensorInfo,
  type TensorSpec,
} from "./files/safetensors.ts";
export { type ByteSource, type Folder, unsafePath } from "./files/source.ts";
export {
  type Divergence,
  type EvaluateOptions,
  type Evaluation,
  evaluate,
  type LogitsSource,
  type TextLoss,
} from "./generation/evaluate.ts";
export type {
  FinishReason,
  GeneratedToken,
  GenerateOptions,
  GenerationResult,
  GenerationStats,
} from "./generation/generate.ts";
export { checkSampling, randomSeed, type SamplingOptions } from "./generation/sampler.ts";
export type { Rows, TraceRows } from "./generation/sequence.ts";
export type { ProfiledDispatch } from "./gpu/profile.ts";
export type { TunedSizes } from "./graph/sizes.ts";
export {
  checkKernels,
  type KernelReport,
  type LoadOptions,
  type LoadProgress,
  loadModel,
  type Model,
  type ModelMemory,
  type TuneOptions,
  tuneModel,
} from "./model.ts";
export { type Config, declaredFolder, declaredTensors } from "./models/declared.ts";
export type { RopePolicy } from "./models/rope.ts";
export { supportedModelTypes } from "./models/table.ts";
export {
  type ExportedCheckpoint,
  type ExportOptions,
  exportQuantized,
  type OutputFile,
  type OutputFolder,
} from "./weights/export.ts";
export {
  type QuantizeDescription,
  type QuantizeOptions,
  type QuantizeScheme,
  quantizeSchemes,
  type WeightType,
  weightTypes,
} from "./weights/quantize.ts";
