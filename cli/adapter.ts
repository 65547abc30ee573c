/** The choice of the WebGPU adapter, by Dawn on Node (npm `webgpu`). */
import { PhiError, printable } from "../engine/errors.ts";
import { findBundle, hasSwiftShaderEnvironment, hasVulkanManifest, restartWithSwiftShader } from "./swiftshader.ts";

/** An open adapter. Devices made from it live until `release()` at the latest. */
export interface OpenedAdapter {
  readonly gpu: GPU;
  readonly adapter: GPUAdapter;
  /** The device's name in WebGPU's normal form, e.g. `nvidia-h100-pcie`. */
  readonly name: string;
  /** `vulkan`, `metal`, `d3d12`, `null` … */
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

type CreateGpu = typeof import("webgpu").create;

/**
 * Dawn's instances in use. When the object that `create()` returned is garbage-collected while its device lives, the
 * process aborts, so it must be reachable from a root and not only from a caller's variable.
 */
const heldInstances = new Set<GPU>();

async function loadDawn(): Promise<CreateGpu> {
  try {
    const { create, globals } = await import("webgpu");
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

const defaultBackends: Readonly<Record<string, string>> = { darwin: "metal", win32: "d3d12" };

/** What to install where no adapter was found, for this operating system. */
export function installAdvice(): readonly string[] {
  if (process.platform === "darwin") return ["WebGPU needs Metal: macOS 12 or newer, not in a virtual machine."];
  if (process.platform === "win32") return ["Install or update the graphics driver: WebGPU needs Direct3D 12."];
  return [
    "Install your GPU's Vulkan driver, or a software one: apt install mesa-vulkan-drivers (Mesa 24 or newer; Debian 12: from bookworm-backports).",
    "On x64 Linux, npm install @sparticuz/chromium beside phi-webgpu brings a software driver without root.",
  ];
}

/** The adapter asked for by option or `PHI_ADAPTER`; undefined leaves the choice to us. */
export function wantedAdapter(option: string | undefined, environment: NodeJS.ProcessEnv = process.env) {
  return option ?? (environment.PHI_ADAPTER || undefined);
}

/**
 * `openAdapter` for the command line: where SwiftShader is asked for, or nothing is and no driver serves Dawn, the
 * process runs anew on SwiftShader and the answer is undefined once that has ended (`process.exitCode` is set).
 */
export async function openAdapterOrRestart(option: string | undefined): Promise<OpenedAdapter | undefined> {
  const wanted = wantedAdapter(option);
  const bundle = hasSwiftShaderEnvironment() ? undefined : findBundle();
  if (bundle === undefined) return openAdapter(wanted === undefined ? {} : { adapter: wanted });
  if (wanted !== undefined) {
    if (wanted.toLowerCase() !== "swiftshader") return openAdapter({ adapter: wanted });
  } else {
    if (hasVulkanManifest()) {
      try {
        return await openAdapter();
      } catch (error) {
        if (!(error instanceof PhiError && error.kind === "machine")) throw error;
      }
    }
    process.stderr.write("note: no GPU or Vulkan driver found; running on SwiftShader, a slow software driver\n");
  }
  await restartWithSwiftShader(bundle);
  return undefined;
}

/**
 * Opens the adapter of `options.adapter` or else of `PHI_ADAPTER`: a part of its name (any case), the name of a backend,
 * or `null` for Dawn's backend that does everything but the GPU's work. With neither, the first of: discrete GPU,
 * integrated GPU, software. Throws a "machine" error that lists what there is, or says what to install.
 */
export async function openAdapter(options: { readonly adapter?: string } = {}): Promise<OpenedAdapter> {
  const wanted = wantedAdapter(options.adapter);
  const create = await loadDawn();
  if (wanted === undefined) {
    const backend = defaultBackends[process.platform] ?? "vulkan";
    const opened = await open(create, [], backend);
    if (opened === undefined) throw new PhiError("machine", "no WebGPU adapter on this machine", installAdvice());
    return opened;
  }
  if (wanted.toLowerCase() === "null") {
    const opened = await open(create, ["backend=null"], "null");
    if (opened !== undefined) return opened;
  }
  const listed = await listAdapters();
  const part = wanted.toLowerCase();
  const match = listed.find(({ backend, name }) => backend.toLowerCase() === part || name.toLowerCase().includes(part));
  const opened = match && (await openListed(match));
  if (opened !== undefined) return opened;
  const names = listed.map(({ backend, name }) => `${name} (${backend})`);
  if (findBundle() !== undefined && !hasSwiftShaderEnvironment()) names.push("swiftshader");
  throw new PhiError("machine", `adapter: expected one of this machine's, got "${printable(wanted)}"`, [
    `There is: ${[...names, "null"].map(printable).join(", ")}.`,
  ]);
}

/** Opens one of `listAdapters`; undefined where it does not answer. */
export async function openListed({ backend, name }: ListedAdapter): Promise<OpenedAdapter | undefined> {
  return open(await loadDawn(), [`backend=${backend}`, `adapter=${name}`], backend);
}

async function open(create: CreateGpu, flags: readonly string[], backend: string): Promise<OpenedAdapter | undefined> {
  const gpu = create([...flags]);
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
