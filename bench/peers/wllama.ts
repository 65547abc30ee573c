/**
 * wllama, llama.cpp's WebGPU backend compiled to WebAssembly, on the same Dawn as our engine. It is a browser's library:
 * here it finds what it uses of one. It takes text, so the variant is the checkpoint's folder, whose tokenizer gives the
 * prompts back as text.
 */
import { resolveObjectURL } from "node:buffer";
import { openAsBlob } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { runInThisContext } from "node:vm";
import { openAdapter } from "../../cli/adapter.ts";
import { openModelFolder } from "../../cli/model.ts";
import { loadTokenizer, type Tokenizer } from "../../library/index.ts";
import { type Engine, importFrom, measure, type Request } from "./runner.ts";
import { ggufFile } from "./setup.ts";

interface Chunk {
  readonly choices: readonly { readonly logprobs: { readonly content: readonly { readonly id: number }[] } | null }[];
  /** With the last. */
  readonly timings?: { readonly prompt_n: number };
}

interface Package {
  /** What its CommonJS file exports. */
  readonly default: {
    readonly Wllama: {
      getLibllamaVersion(): string;
      new (
        paths: { readonly default: string },
        options: object,
      ): {
        loadModel(files: readonly Blob[], options: object): Promise<void>;
        createCompletion(options: object): Promise<unknown>;
      };
    };
  };
}

/**
 * Stands for a browser's Worker of a module that lies in memory: runs it behind a port, in this thread. With Dawn in a
 * thread of its own a process that fails aborts, and its reason is lost.
 */
function PortedWorker(url: string): MessagePort {
  const { port1, port2 } = new MessageChannel();
  Object.assign(globalThis, { postMessage: port2.postMessage.bind(port2) });
  resolveObjectURL(url)
    ?.text()
    .then((code) => {
      runInThisContext(code);
      port2.onmessage = (event) => self.onmessage?.(event);
    });
  return port1;
}

/** Sets what wllama and Emscripten's code for Node look for, with the adapter that our engine takes. */
async function becomeBrowser(): Promise<void> {
  const { gpu } = await openAdapter();
  Object.defineProperty(navigator, "gpu", { value: gpu });
  Object.assign(globalThis, {
    ...{ self: globalThis, location: { href: import.meta.url }, Worker: PortedWorker },
    ...{ require: createRequire(import.meta.url), __dirname: import.meta.dirname, __filename: import.meta.filename },
  });
}

/** Tokens of a batch on software: the backend gives up when it waits for one for more than 30 s. */
const softwareBatch = 32;
/** Tokens of the longest prompt there, at about 3 a second. */
const softwarePrompt = 64;

async function load({ folder, variant, shortPrompt, longPrompt, newTokens, software }: Request): Promise<Engine> {
  await becomeBrowser();
  const { module, version } = await importFrom<Package>(folder, "@wllama/wllama");
  const { Wllama } = module.default;
  const wasm = createRequire(join(folder, "package.json")).resolve("@wllama/wllama/esm/wasm/wllama.wasm");
  const log: string[] = [];
  const write = (line: unknown) => void log.push(String(line));
  // Where llama.cpp ends itself its last words say why, and wllama's error does not.
  const explain = (error: unknown) => {
    throw new Error(log.findLast((line) => /\.(cpp|h):\d+: /.test(line)) ?? String(error));
  };
  const logger = { debug: write, log: write, warn: write, error: write };
  // Managers of its own would look for a browser's storage, for what they download.
  const options = { logger, cacheManager: {}, modelManager: {} };
  const wllama = new Wllama({ default: pathToFileURL(wasm).href }, options);
  const batch = software ? softwareBatch : longPrompt.length;
  const loading = wllama.loadModel([await openAsBlob(join(folder, ggufFile))], {
    n_ctx: Math.max(longPrompt.length, shortPrompt.length + newTokens) + 2,
    ...{ n_threads: 1, n_parallel: 1, n_batch: batch, n_ubatch: batch, cache_idle_slots: false },
  });
  await loading.catch(explain);
  const said = log.join("\n");
  const [, onGpu, all] = /offloaded (\d+)\/(\d+) layers to GPU/.exec(said) ?? [];
  if (onGpu === undefined || onGpu !== all) throw new Error(`expected all layers on WebGPU, got ${onGpu ?? "none"}`);
  let tokenizer: Tokenizer | undefined;
  return {
    versions: `${version}, llama.cpp ${Wllama.getLibllamaVersion()}`,
    adapter: /device_desc: (.*)/.exec(said)?.[1] ?? "",
    ...(software && { longestPrompt: softwarePrompt }),
    async generate(prompt, tokens, onToken) {
      tokenizer ??= await loadTokenizer(await openModelFolder(variant));
      let read = 0;
      const completing = wllama.createCompletion({
        prompt: tokenizer.decode(prompt),
        // A token arrives with the step after it, except the last: with one more, the times between tokens are whole.
        max_tokens: tokens === 1 ? 1 : tokens + 1,
        ...{ temperature: 0, ignore_eos: true, cache_prompt: false, stream: true },
        // Has it tell the tokens' ids.
        ...{ n_probs: 1, post_sampling_probs: true },
        onData({ choices, timings }: Chunk) {
          for (const { id } of choices.flatMap(({ logprobs }) => logprobs?.content ?? [])) onToken(id);
          read = timings?.prompt_n ?? read;
        },
      });
      await completing.catch(explain);
      if (read !== prompt.length) throw new Error(`expected it to read ${prompt.length} tokens, got ${read}`);
    },
  };
}

await measure(load);
