/** WebGPU on Node: Dawn, from the npm package `webgpu`. A browser has its own and never loads this file. */
import { PhiError } from "../engine/index.ts";

/** Dawn's entry point with these flags, e.g. `backend=null`. */
export type CreateGpu = typeof import("webgpu").create;

/**
 * Dawn's instances in use. When the object that `create()` returned is garbage-collected while its device lives, the
 * process aborts, so it must be reachable from a root and not only from a caller's variable.
 */
const heldInstances = new Set<GPU>();

/** Keeps an instance until the returned function is called, after which the process can end. */
export function holdInstance(gpu: GPU): () => void {
  heldInstances.add(gpu);
  return () => void heldInstances.delete(gpu);
}

/** Loads Dawn and sets WebGPU's globals. Throws a "machine" error where there are no binaries for this system. */
export async function loadDawn(): Promise<CreateGpu> {
  try {
    // Not a literal: bundlers for browsers would follow it.
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

/** What to install where no adapter was found, for this operating system. */
export function installAdvice(): readonly string[] {
  if (process.platform === "darwin") return ["WebGPU needs Metal: macOS 12 or newer, not in a virtual machine."];
  if (process.platform === "win32") return ["Install or update the graphics driver: WebGPU needs Direct3D 12."];
  return [
    "Install your GPU's Vulkan driver, or a software one: apt install mesa-vulkan-drivers (Mesa 24 or newer; Debian 12: from bookworm-backports).",
    "On x64 Linux, npm install @sparticuz/chromium beside phi-webgpu brings a software driver without root.",
  ];
}
