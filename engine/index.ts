/** The public API of the engine. */

export type { KvFormat } from "../kernels/attention.ts";
export type { ActivationFormat } from "../kernels/linear.ts";
export { type GroupSize, groupSizes } from "../kernels/weights.ts";
export { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
export type { GenerationDefaults } from "./config.ts";
export { type Config, declaredFolder, declaredTensors } from "./declared.ts";
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
export {
  type Divergence,
  type EvaluateOptions,
  type Evaluation,
  evaluate,
  type LogitsSource,
  type TextLoss,
} from "./evaluate.ts";
export {
  type ExportedCheckpoint,
  type ExportOptions,
  exportQuantized,
  type OutputFile,
  type OutputFolder,
} from "./export.ts";
export type { FinishReason, GeneratedToken, GenerateOptions, GenerationResult, GenerationStats } from "./generate.ts";
export {
  type CheckedKernels,
  checkKernels,
  type KernelReport,
  type LoadOptions,
  type LoadProgress,
  loadModel,
  type Model,
  type ModelMemory,
  type Rows,
  type TraceRows,
} from "./model.ts";
export { supportedModelTypes } from "./models/table.ts";
export type { TunedSizes } from "./plan.ts";
export type { ProfiledDispatch } from "./profile.ts";
export {
  type QuantizeDescription,
  type QuantizeOptions,
  type QuantizeScheme,
  quantizeSchemes,
  type WeightType,
  weightTypes,
} from "./quantize.ts";
export type { RopePolicy } from "./rope.ts";
export {
  type DType,
  readSafetensorsHeader,
  type SafetensorsHeader,
  safetensorsBytes,
  safetensorsHeader,
  type TensorInfo,
  type TensorSpec,
} from "./safetensors.ts";
export { checkSampling, randomSeed, type SamplingOptions } from "./sampler.ts";
export type { KernelCheck } from "./selfcheck.ts";
export {
  type ByteSource,
  type CheckpointSource,
  type Folder,
  type FolderOptions,
  httpFolder,
  openFolder,
  openSource,
  unsafePath,
} from "./source.ts";
export { type TunedKernel, type TuneOptions, type TuneProgress, type TuneReport, tuneModel } from "./tune.ts";
