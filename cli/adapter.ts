/** The adapter of the command line: by option or variable, and SwiftShader where the machine has none. */
import { PhiError } from "../engine/errors.ts";
import {
  installAdvice,
  noSuchAdapter,
  type OpenedAdapter,
  openAdapter as openOnThisMachine,
} from "../library/adapter.ts";
import { findBundle, hasSwiftShaderEnvironment, hasVulkanManifest, restartWithSwiftShader } from "./swiftshader.ts";

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
  if (bundle === undefined) return openAdapter(wanted);
  if (wanted !== undefined) {
    if (wanted.toLowerCase() !== "swiftshader") return openAdapter(wanted);
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

/** Opens the adapter of `option` or else of `PHI_ADAPTER`, in this process. */
export async function openAdapter(option?: string): Promise<OpenedAdapter> {
  const adapter = wantedAdapter(option);
  const otherNames = findBundle() !== undefined && !hasSwiftShaderEnvironment() ? ["swiftshader"] : [];
  // Without a driver Dawn would only print the Vulkan loader's complaints.
  if (process.platform === "linux" && !hasVulkanManifest() && adapter?.toLowerCase() !== "null") {
    if (adapter === undefined) throw new PhiError("machine", "no WebGPU adapter on this machine", installAdvice());
    throw noSuchAdapter(adapter, [...otherNames, "null"]);
  }
  return openOnThisMachine({ otherNames, ...(adapter !== undefined && { adapter }) });
}
