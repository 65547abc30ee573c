/**
 * The one owner of a GPUDevice. Every WebGPU call of the engine goes through it: it counts the buffers that live, turns
 * whatever goes wrong into one typed error, and lets tests inject faults at any call.
 */

import { PhiError } from "../errors.ts";
import { adapterName, checkProfiling, isSoftwareAdapter, maxBindingBytes, subgroupSize } from "./adapter.ts";
import { Waiting } from "./waiting.ts";

/** The calls that can be intercepted. */
export type DeviceCall =
  | "createBuffer"
  | "createShaderModule"
  | "createComputePipeline"
  | "createBindGroup"
  | "writeBuffer"
  | "createCommandEncoder"
  | "submit"
  | "mapAsync"
  | "workDone";

export interface DeviceOptions {
  /** Called before each WebGPU call; may throw, or destroy the device, in its place (fault injection). */
  readonly intercept?: (call: DeviceCall, label: string) => void;
  /** The text that is compiled in place of a shader's (fault injection). */
  readonly shader?: (label: string, code: string) => string;
  /** `none`: no optional feature of WebGPU is used, whatever the adapter offers. */
  readonly features?: "all" | "none";
  /** A GPU that has not answered for this long is given up. */
  readonly watchdogMs?: number;
  /** Measure the time of every dispatch, which makes all of them slower. */
  readonly profile?: boolean;
}

/** A live buffer. `dispose()` frees it at once. */
export interface DeviceBuffer {
  readonly label: string;
  readonly sizeBytes: number;
  readonly gpu: GPUBuffer;
  dispose(): void;
}

/** A software adapter compiles a kernel when it is first run, which can take many seconds on a busy machine. */
const defaultWatchdogMs = { gpu: 30_000, software: 300_000 };

/** A storage binding may begin at multiples of this on every adapter (minStorageBufferOffsetAlignment's default). */
export const bindingAlignment = 256;

export class Device {
  readonly gpu: GPUDevice;
  readonly adapterName: string;
  /** Whether a CPU stands in for a GPU. */
  readonly isSoftware: boolean;
  /** Whether it is Dawn's null backend, which runs nothing: what is read back is whatever lay in memory. */
  readonly isNull: boolean;
  /** Threads of every subgroup, where the device has subgroups and all are of one size, else 1. */
  readonly subgroupSize: number;
  /** Whether it was opened for a profile (profile.ts). */
  readonly isProfiled: boolean;
  readonly #options: DeviceOptions;
  readonly #live = new Set<DeviceBuffer>();
  #liveBytes = 0;
  #peakBytes = 0;
  #disposed = false;
  readonly #waiting: Waiting;
  readonly #onError = (event: GPUUncapturedErrorEvent) => this.#waiting.fail(gpuError(event.error));

  private constructor(gpu: GPUDevice, info: GPUAdapterInfo, options: DeviceOptions) {
    this.gpu = gpu;
    this.adapterName = adapterName(info);
    this.isSoftware = isSoftwareAdapter(info);
    this.isNull = info.device === "null-backend";
    this.subgroupSize = gpu.features.has("subgroups") ? subgroupSize(info) : 1;
    this.isProfiled = options.profile ?? false;
    this.#options = options;
    const watchdogMs = options.watchdogMs ?? defaultWatchdogMs[this.isSoftware ? "software" : "gpu"];
    this.#waiting = new Waiting({ watchdogMs, isSoftware: this.isSoftware });
    gpu.addEventListener("uncapturederror", quiet);
    gpu.addEventListener("uncapturederror", this.#onError);
    gpu.lost.then(({ reason, message }) => {
      if (this.#disposed) return;
      this.#waiting.fail(new PhiError("gpu", `the GPU device was lost (${reason}): ${firstLine(message)}`));
    });
  }

  /** Opens a device with the adapter's own buffer limits, and with subgroups where it has them. Throws a PhiError "machine" if the adapter refuses. */
  static async open(adapter: GPUAdapter, options: DeviceOptions = {}): Promise<Device> {
    const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
    if (options.profile) checkProfiling(adapter);
    const features: GPUFeatureName[] = options.profile ? ["timestamp-query"] : [];
    if (options.features !== "none" && adapter.features.has("subgroups")) features.push("subgroups");
    try {
      const gpu = await adapter.requestDevice({
        label: "phi",
        requiredFeatures: features,
        requiredLimits: { maxBufferSize, maxStorageBufferBindingSize },
      });
      return new Device(gpu, adapter.info, options);
    } catch (cause) {
      throw new PhiError("machine", `the adapter gives no device: ${firstLine(String(cause))}`, [], { cause });
    }
  }

  /** Buffers that are alive, and the most bytes that ever were at once. */
  get ledger(): { readonly buffers: number; readonly bytes: number; readonly peakBytes: number } {
    return { buffers: this.#live.size, bytes: this.#liveBytes, peakBytes: this.#peakBytes };
  }

  /** Largest storage binding, in bytes, also bounded by the largest buffer. */
  get maxBindingBytes(): number {
    return maxBindingBytes(this.gpu.limits);
  }

  /** Throws the failure, if there is one. */
  check(): void {
    const { failure } = this.#waiting;
    if (failure !== undefined) throw failure;
    if (this.#disposed) throw new PhiError("usage", "the model was disposed");
  }

  #call(call: DeviceCall, label: string): void {
    this.check();
    this.#options.intercept?.(call, label);
  }

  createBuffer(label: string, sizeBytes: number, usage: GPUBufferUsageFlags): DeviceBuffer {
    this.#call("createBuffer", label);
    const size = Math.max(16, Math.ceil(sizeBytes / 16) * 16);
    const gpu = this.gpu.createBuffer({ label, size, usage });
    const buffer: DeviceBuffer = {
      label,
      sizeBytes: size,
      gpu,
      dispose: () => {
        if (!this.#live.delete(buffer)) return;
        this.#liveBytes -= size;
        gpu.destroy();
      },
    };
    this.#live.add(buffer);
    this.#liveBytes += size;
    this.#peakBytes = Math.max(this.#peakBytes, this.#liveBytes);
    return buffer;
  }

  createShaderModule(label: string, code: string): GPUShaderModule {
    this.#call("createShaderModule", label);
    return this.gpu.createShaderModule({ label, code: this.#options.shader?.(label, code) ?? code });
  }

  /** Whether shaders may use a language feature of WGSL: with `features: "none"` no optional one. */
  async hasLanguageFeature(name: string): Promise<boolean> {
    if (this.#options.features === "none") return false;
    this.gpu.pushErrorScope("validation");
    this.createShaderModule(`requires ${name}`, `requires ${name};`);
    return (await this.#waiting.guard(this.gpu.popErrorScope(), `requires ${name}`)) === null;
  }

  /** Compiles a pipeline. A kernel that does not compile is our own bug: PhiError "internal" with the compiler's words. */
  async createComputePipeline(
    descriptor: GPUComputePipelineDescriptor & { label: string },
  ): Promise<GPUComputePipeline> {
    this.#call("createComputePipeline", descriptor.label);
    try {
      return await this.#waiting.guard(this.gpu.createComputePipelineAsync(descriptor), descriptor.label);
    } catch (cause) {
      if (cause instanceof PhiError) throw cause;
      await this.#hearOfLoss();
      const { failure } = this.#waiting;
      if (failure?.kind === "gpu") throw failure;
      const message = cause instanceof Error ? cause.message : String(cause);
      throw new PhiError("internal", `kernel ${descriptor.label} does not compile: ${oneLine(message)}`, [], { cause });
    }
  }

  createBindGroup(label: string, layout: GPUBindGroupLayout, entries: GPUBindGroupEntry[]): GPUBindGroup {
    this.#call("createBindGroup", label);
    return this.gpu.createBindGroup({ label, layout, entries });
  }

  writeBuffer(buffer: DeviceBuffer, offsetBytes: number, data: ArrayBufferView<ArrayBuffer>): void {
    this.#call("writeBuffer", buffer.label);
    this.gpu.queue.writeBuffer(buffer.gpu, offsetBytes, data);
  }

  createCommandEncoder(label: string): GPUCommandEncoder {
    this.#call("createCommandEncoder", label);
    return this.gpu.createCommandEncoder({ label });
  }

  submit(label: string, commands: GPUCommandBuffer[]): void {
    this.#call("submit", label);
    this.gpu.queue.submit(commands);
  }

  /** Resolves when the GPU has done what was submitted; frees the staging memory of earlier writes too. */
  async workDone(): Promise<void> {
    this.#call("workDone", "queue");
    await this.#waiting.guard(this.gpu.queue.onSubmittedWorkDone(), "queue");
    this.check();
  }

  /** Maps a MAP_READ buffer, copies `sizeBytes` out and unmaps it. */
  async readBack(buffer: DeviceBuffer, sizeBytes: number): Promise<ArrayBuffer> {
    await this.#map(buffer, GPUMapMode.READ, sizeBytes, "reading");
    const bytes = buffer.gpu.getMappedRange(0, sizeBytes).slice(0);
    buffer.gpu.unmap();
    this.check();
    return bytes;
  }

  /** Maps a MAP_WRITE buffer. */
  mapForWriting(buffer: DeviceBuffer): Promise<void> {
    return this.#map(buffer, GPUMapMode.WRITE, buffer.sizeBytes, "writing");
  }

  /** Has `fill` write the memory of a buffer that is mapped for writing, and unmaps it. */
  async writeMapped(buffer: DeviceBuffer, fill: (bytes: Uint8Array<ArrayBuffer>) => void): Promise<void> {
    this.check();
    // Asked for as late as this, for it is gone when the device is, with no call that fails before.
    let memory: ArrayBuffer;
    try {
      memory = buffer.gpu.getMappedRange();
    } catch (error) {
      throw await this.#mapError(buffer, "writing", error);
    }
    fill(new Uint8Array(memory));
    buffer.gpu.unmap();
  }

  async #map(
    buffer: DeviceBuffer,
    mode: GPUMapModeFlags,
    sizeBytes: number,
    what: "reading" | "writing",
  ): Promise<void> {
    this.#call("mapAsync", buffer.label);
    try {
      await this.#waiting.guard(buffer.gpu.mapAsync(mode, 0, sizeBytes), buffer.label);
    } catch (error) {
      throw await this.#mapError(buffer, what, error);
    }
  }

  async #mapError(buffer: DeviceBuffer, what: "reading" | "writing", error: unknown): Promise<PhiError> {
    if (!(error instanceof PhiError)) await this.#hearOfLoss();
    this.check();
    if (error instanceof PhiError) return error;
    return new PhiError("gpu", `${what} ${buffer.label}: ${firstLine(String(error))}`);
  }

  /** A call that a lost device refuses may fail before the loss is told, which is in a turn of its own. */
  #hearOfLoss(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, 0));
  }

  /** Frees every buffer and the device. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const buffer of [...this.#live]) buffer.dispose();
    // Dawn's binding holds its listeners as roots: one that leads to the device would keep it, and its threads, for ever.
    this.gpu.removeEventListener("uncapturederror", this.#onError);
    this.gpu.destroy();
  }
}

/** Dawn would print an error on stdout and go on. Refers to no device, so it can stay when one is gone. */
const quiet = (event: Event) => event.preventDefault();

function gpuError(error: GPUError): PhiError {
  const message = firstLine(error.message);
  if (error.constructor.name === "GPUOutOfMemoryError") {
    return new PhiError("machine", `the GPU is out of memory: ${message}`, [
      "Try a smaller --context, or a smaller model.",
    ]);
  }
  return new PhiError("internal", `WebGPU refused a call: ${oneLine(error.message)}`);
}

/** Dawn's messages have several lines; an error is one. */
function oneLine(text: string): string {
  return text.trim().replace(/\s*\n\s*/g, "; ");
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? "";
}
