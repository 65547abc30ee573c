/**
 * The package's entry on Dawn's null backend, which needs no driver. It computes nothing, so no token is asked for here;
 * index.gpu.test.ts does that.
 */
import { spawnSync } from "node:child_process";
import { copyFile, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, onTestFinished, test } from "vitest";
import { type CheckpointSource, type LoadOptions, load, loadTokenizer } from "../../library/index.ts";

const root = join(import.meta.dirname, "../..");
const phiTiny = join(root, "models/phi-tiny");

test("imported by its name, in a process that ends by itself: Dawn is held, garbage collected around, and let go", () => {
  const program = `
    import { load } from "phi-webgpu";
    const model = await load("models/phi-tiny", { adapter: "null", context: 64 });
    globalThis.gc();
    const { value } = await model.generate("Once upon a time", { maxTokens: 0 }).next();
    globalThis.gc();
    model.dispose();
    globalThis.gc();
    console.log(JSON.stringify({ prompt: value.stats.promptTokens, tokens: model.tokenizer.encode("Once upon"), left: model.ledger().buffers }));`;
  const args = ["--expose-gc", "--input-type=module", "-e", program];
  const { status, signal, stdout } = spawnSync(process.execPath, args, {
    cwd: root,
    encoding: "utf8",
    timeout: 60_000,
  });
  expect({ status, signal }).toEqual({ status: 0, signal: null });
  expect(JSON.parse(stdout)).toEqual({ prompt: 4, tokens: [593, 592], left: 0 });
});

test("a tokenizer without its model", async () => {
  const tokenizer = await loadTokenizer(phiTiny);
  expect(tokenizer.decode(tokenizer.encode("Once upon a time"))).toBe("Once upon a time");
  await expect(loadTokenizer(join(root, "test"))).rejects.toThrow("expected tokenizer.json");
});

test("an adapter of no such name, and a folder that is none, are refused before anything else", async () => {
  await expect(load(phiTiny, { adapter: "no such adapter" })).rejects.toMatchObject({ kind: "machine" });
  await expect(load(join(root, "nowhere"))).rejects.toMatchObject({ kind: "checkpoint" });
});

async function opened(source: CheckpointSource = phiTiny, options: LoadOptions = {}) {
  const model = await load(source, { adapter: "null", ...options });
  onTestFinished(() => model.dispose());
  return model;
}

test("progress, and an abort on the way", async () => {
  const abort = new AbortController();
  const stages = new Set<string>();
  const onProgress: LoadOptions["onProgress"] = ({ stage }) => {
    stages.add(stage);
    if (stage === "weights") abort.abort();
  };
  await expect(opened(phiTiny, { signal: abort.signal, onProgress })).rejects.toMatchObject({ kind: "aborted" });
  expect([...stages]).toEqual(["headers", "weights"]);
});

test("a folder without a tokenizer, and with a broken one", async () => {
  const copy = await mkdtemp(join(tmpdir(), "phi-test-"));
  onTestFinished(() => rm(copy, { recursive: true }));
  for (const name of await readdir(phiTiny)) {
    if (!name.startsWith("tokenizer")) await copyFile(join(phiTiny, name), join(copy, name));
  }
  await expect(opened(copy)).rejects.toThrow("expected tokenizer.json");
  const model = await opened(copy, { tokenizer: "none" });
  await expect(model.generate([1, 2, 3], { maxTokens: 0 }).next()).resolves.toMatchObject({ done: true });
  await expect(model.generate("Once").next()).rejects.toThrow("expected tokenizer.json");
  await writeFile(join(copy, "tokenizer.json"), "{}");
  await expect(opened(copy)).rejects.toThrow("tokenizer.json");
  const optional = await opened(copy, { tokenizer: "optional" });
  expect(optional.tokenizer).toBeUndefined();
  expect(optional.notes.join()).toContain("no text: tokenizer.json");
});

test("from a file: URL, and from a server by ranges", async () => {
  const server = createServer((request, response) => {
    readFile(join(phiTiny, decodeURIComponent(request.url ?? "").slice(1))).then(
      (bytes) => {
        const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
        const part = from === undefined ? bytes : bytes.subarray(Number(from), Number(to) + 1);
        response.writeHead(from === undefined ? 200 : 206, { "content-length": part.length });
        response.end(request.method === "HEAD" ? undefined : part);
      },
      () => response.writeHead(404).end(),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  const { port } = server.address() as AddressInfo;
  for (const source of [pathToFileURL(phiTiny), `http://127.0.0.1:${port}`, new URL(`http://127.0.0.1:${port}/`)]) {
    const model = await opened(source);
    expect(model.tokenizer?.encode("Once upon"), String(source)).toEqual([593, 592]);
    expect(model.memory().weightsBytes).toBeGreaterThan(2_000_000);
  }
});
