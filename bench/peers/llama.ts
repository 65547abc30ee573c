/** llama.cpp through node-llama-cpp, on the GGUF that the weights come from; the variant is `vulkan`, `cpu` or `cpu 1` (thread). */
import { join } from "node:path";
import { importFrom, measure } from "./runner.ts";
import { ggufFile } from "./setup.ts";

interface Sequence {
  clearHistory(): Promise<void>;
  evaluate(tokens: readonly number[], options: object): AsyncIterable<number>;
}

interface Llama {
  readonly gpu: string | false;
  readonly llamaCppRelease: { readonly release: string };
  getGpuDeviceNames(): Promise<readonly string[]>;
  loadModel(options: object): Promise<{
    readonly gpuLayers: number;
    createContext(options: object): Promise<{ getSequence(): Sequence }>;
  }>;
}

await measure(async ({ folder, variant, longPrompt, shortPrompt, newTokens }) => {
  const [device = "", threads] = variant.split(" ");
  const gpu = device === "cpu" ? false : device;
  type Package = { getLlama(options: object): Promise<Llama> };
  const { module, version } = await importFrom<Package>(folder, "node-llama-cpp");
  const llama = await module.getLlama({
    ...{ gpu, build: "never", skipDownload: true, logLevel: "error" },
    ...(threads && { maxThreads: Number(threads) }),
  });
  const model = await llama.loadModel({ modelPath: join(folder, ggufFile), gpuLayers: gpu === false ? 0 : "max" });
  if (llama.gpu !== gpu || model.gpuLayers > 0 !== (gpu !== false)) {
    throw new Error(`expected ${device}, got ${llama.gpu || "cpu"} with ${model.gpuLayers} layers on the GPU`);
  }
  const contextSize = Math.max(longPrompt.length, shortPrompt.length + newTokens) + 1;
  const context = await model.createContext({ contextSize, batchSize: longPrompt.length, sequences: 1 });
  const sequence = context.getSequence();
  return {
    versions: `${version}, llama.cpp ${llama.llamaCppRelease.release}`,
    ...(gpu === false ? { adapter: "" } : { adapter: (await llama.getGpuDeviceNames()).join(", ") }),
    reset: () => sequence.clearHistory(),
    async generate(prompt, tokens, onToken) {
      let left = tokens;
      for await (const id of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
        onToken(id);
        if (--left === 0) break;
      }
    },
  };
});
