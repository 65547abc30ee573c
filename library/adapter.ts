/**
 * The WebGPU adapter: a browser's own (`navigator.gpu`), or on Node Dawn's, from the npm package `webgpu`, which is
 * loaded when it is first asked for.
 */
import { PhiError, printable } from "../engine/errors.ts";

/** An open adapter. Devices made from it live until `release()` at the latest. */
export interface OpenedAdapter {
  readonly gpu: GPU;
  readonly adapter: GPUAdapter;
  /** The device's name in WebGPU's normal form, e.g. `nvidia-h100-pcie`. */
  readonly name: string;
  /** `vulkan`, `metal`, `d3d12`, `null` …; `browser` where it is the browser's secret. */
  readonly backend: string;
  /** Whether the adapter computes on the CPU. */
  readonly isSoftware: boolean;
  /** Lets go of Dawn's instance, so that the process can end. Destroy every device first. */
  release(): void;
}

/** An adapter as Dawn lists it. */
export interface ListedAdapter {
  readonly backend: string;
  readonly name: string;
}

export interface AdapterOptions {
  /**
   * A part of an adapter's name (any case), the name of a backend, or `null` for Dawn's backend that does everything but
   * the GPU's work. Default: the first of discrete GPU, integrated GPU, software.
   */
  readonly adapter?: string;
  /** Further names for the message that lists what there is. */
  readonly otherNames?: readonly string[];
}

type CreateGpu = typeof import("webgpu").create;

/**
 * Dawn's instances in use. When the object that `create()` returned is garbage-collected while its device lives, the
 * process aborts, so it must be reachable from a root and not only from a caller's variable.
 */
const heldInstances = new Set<GPU>();

/** Timestamps, which only a profile asks for, are rounded to 0.1 ms otherwise. */
const exactTimes = "disable-dawn-features=timestamp_quantization";

const defaultBackends: Readonly<Record<string, string>> = { darwin: "metal", win32: "d3d12" };

/** Opens an adapter. Throws a "machine" error that lists what there is, or says what to install. */
export async function openAdapter({ adapter, otherNames = [] }: AdapterOptions = {}): Promise<OpenedAdapter> {
  if (adapter === undefined && globalThis.navigator?.gpu !== undefined) {
    const opened = await open(navigator.gpu, "browser");
    if (opened !== undefined) return opened;
    throw new PhiError("machine", "no WebGPU adapter in this browser", [
      "Update the browser and the graphics driver, and see whether its settings have hardware acceleration on.",
    ]);
  }
  const create = await loadDawn();
  if (adapter === undefined) {
    const backend = defaultBackends[process.platform] ?? "vulkan";
    const opened = await open(create([exactTimes]), backend);
    if (opened !== undefined) return opened;
    throw new PhiError("machine", "no WebGPU adapter on this machine", installAdvice());
  }
  const part = adapter.toLowerCase();
  if (part === "null") {
    const opened = await open(create(["backend=null"]), "null");
    if (opened !== undefined) return opened;
  }
  const listed = await listAdapters();
  const match = listed.find(({ backend, name }) => backend.toLowerCase() === part || name.toLowerCase().includes(part));
  const opened = match && (await openListed(match));
  if (opened !== undefined) return opened;
  const names = [...listed.map(({ backend, name }) => `${name} (${backend})`), ...otherNames, "null"];
  throw noSuchAdapter(adapter, names);
}

/** What to say of an adapter that is not there, with the names of those that are. */
export function noSuchAdapter(adapter: string, names: readonly string[]): PhiError {
  return new PhiError("machine", `adapter: expected one of this machine's, got "${printable(adapter)}"`, [
    `There is: ${names.map(printable).join(", ")}.`,
  ]);
}

/**
 * All adapters of this process's drivers. Dawn has no call for that, but names them when asked for one that is not
 * there.
 */
export async function listAdapters(): Promise<readonly ListedAdapter[]> {
  const create = await loadDawn();
  try {
    await create(["adapter=\u0001"]).requestAdapter();
    return [];
  } catch (error) {
    const lines = error instanceof Error ? error.message.matchAll(/^ \* backend: '(.*?)', name: '(.*)'$/gm) : [];
    return [...lines].map((line) => ({ backend: line[1] ?? "", name: line[2] ?? "" }));
  }
}

/** Opens one of `listAdapters`; undefined where it does not answer. */
export async function openListed({ backend, name }: ListedAdapter): Promise<OpenedAdapter | undefined> {
  const create = await loadDawn();
  return open(create([`backend=${backend}`, `adapter=${name}`, exactTimes]), backend);
}

/** What to install where no adapter was found, for this operating system. */
export function installAdvice(): readonly string[] {
  if (process.platform === "darwin") return ["WebGPU needs Metal: macOS 12 or newer, not in a virtual machine."];
  if (process.platform === "win32") return ["Install or update the graphics driver: WebGPU needs Direct3D 12."];
  return [
    "Install your GPU's Vulkan driver, or a software one: apt install mesa-vulkan-drivers (Mesa 24 or newer; Debian 12: from bookworm-backports).",
    "On x64 Linux, npm install @sparticuz/chromium beside phi-webgpu brings the phi command a software driver without root.",
  ];
}

/** Loads Dawn and sets WebGPU's globals. Throws a "machine" error where there are no binaries for this system. */
async function loadDawn(): Promise<CreateGpu> {
  try {
    // Not a literal, which bundlers for browsers would follow.
    const name = "webgpu";
    const { create, globals } = (await import(/* @vite-ignore */ name)) as typeof import("webgpu");
    // What a browser has as globals: GPUBufferUsage, GPUMapMode, the error classes …
    Object.assign(globalThis, globals);
    return create;
  } catch (error) {
    const reason = error instanceof Error ? error.message.split("\n", 1)[0] : String(error);
    throw new PhiError("machine", `WebGPU (Dawn) cannot be loaded on ${process.platform}-${process.arch}: ${reason}`, [
      'The npm package "webgpu" has binaries for x64 and arm64 on Linux (glibc), macOS and Windows; reinstall with npm ci.',
    ]);
  }
}

async function open(gpu: GPU, backend: string): Promise<OpenedAdapter | undefined> {
  let adapter: GPUAdapter | null;
  try {
    // Dawn sorts by kind: with this preference discrete GPUs come first, then integrated ones, then software.
    adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  } catch {
    return undefined;
  }
  if (adapter === null) return undefined;
  heldInstances.add(gpu);
  const { info } = adapter;
  return {
    gpu,
    adapter,
    name: info.device || info.description || info.vendor,
    backend,
    isSoftware: info.isFallbackAdapter,
    release() {
      heldInstances.delete(gpu);
    },
  };
}
