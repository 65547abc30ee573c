/**
 * The library in a page: bundled by vite as it is, and run in a process that has a browser's globals and none of Node's,
 * on Dawn's null backend as `navigator.gpu`.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";

const root = join(import.meta.dirname, "../..");

/** Serves the built page and the bundled model, takes Node's globals away, and runs the page's script. */
const browser = `
  import { readFile } from "node:fs/promises";
  import { createServer } from "node:http";
  import { create, globals } from "webgpu";
  const node = process;
  const [page, script, models] = node.argv.slice(1);
  const server = createServer(async ({ url, method, headers }, response) => {
    const bytes = await readFile((url.startsWith("/models/") ? models : page) + url).catch(() => undefined);
    if (bytes === undefined) return response.writeHead(404).end();
    const [, from, to] = /^bytes=(\\d+)-(\\d+)$/.exec(headers.range ?? "") ?? [];
    const part = from === undefined ? bytes : bytes.subarray(Number(from), Number(to) + 1);
    response.writeHead(from === undefined ? 200 : 206, { "content-length": part.length });
    response.end(method === "HEAD" ? undefined : part);
  });
  server.listen(0, "127.0.0.1", async () => {
    const code = await readFile(script, "utf8");
    Object.assign(globalThis, globals);
    const gpu = create(["backend=null"]);
    Object.defineProperty(globalThis, "navigator", { value: { gpu } });
    globalThis.location = new URL("http://127.0.0.1:" + server.address().port);
    await (await fetch(location.href)).text(); // Node's fetch asks for process, once; the others stay, out of sight
    delete globalThis.process;
    const hidden = "const Buffer = undefined, global = undefined, require = undefined, setImmediate = undefined;";
    globalThis.done = (result) => {
      console.log(JSON.stringify(result));
      node.exit(gpu ? 0 : 1); // and so Dawn's object is held until here
    };
    // A module of a data: URL has no place of its own; in a page it would have the server's.
    const placed = code.replaceAll("import.meta.url", JSON.stringify(location.href));
    await import("data:text/javascript," + encodeURIComponent(hidden + placed));
  });`;

/** The page's script. */
const page = `
  import { load } from ${JSON.stringify(join(root, "library/index.ts"))};
  const stages = new Set();
  const model = await load("models/phi-tiny", { onProgress: ({ stage }) => stages.add(stage) });
  const { value } = await model.generate("Once upon a time", { maxTokens: 0 }).next();
  const text = model.tokenizer.decode([593, 592, 260, 349]);
  const rendered = model.tokenizer.renderChat([{ role: "user", content: "Hello" }]);
  model.dispose();
  const { promptTokens } = value.stats;
  done({ text, rendered, promptTokens, stages: [...stages], left: model.ledger().buffers });`;

test("vite bundles it without a word of Node's, and the bundle runs", async () => {
  const { build, createLogger } = await import("vite");
  const folder = mkdtempSync(join(tmpdir(), "phi-test-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, "index.html"), '<script type="module" src="./page.js"></script>');
  writeFileSync(join(folder, "page.js"), page);
  const warnings: string[] = [];
  const customLogger = { ...createLogger("silent"), warn: (text: string) => void warnings.push(text) };
  const rolldownOptions = { output: { codeSplitting: false } };
  const buildOptions = { target: "es2022", modulePreload: false, rolldownOptions };
  await build({ root: folder, logLevel: "silent", customLogger, build: buildOptions });
  const dist = join(folder, "dist");
  const [script = "", ...others] = readdirSync(join(dist, "assets")).filter((name) => name.endsWith(".js"));
  expect(others).toEqual([]);
  const code = readFileSync(join(dist, "assets", script), "utf8");
  expect(code).not.toMatch(/require\(|from ?["']node:|import\(["'`]node:/);
  // engine/files/disk.ts asks for Node's files when a folder is opened; the bundle has an empty module in their place.
  expect(warnings.filter((text) => !/node:(fs|path|url)|fs\/promises/.test(text))).toEqual([]);
  const args = ["--input-type=module", "-e", browser, dist, join(dist, "assets", script), root];
  const { stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: "utf8", timeout: 60_000 });
  expect(stdout, stderr).not.toBe("");
  expect(JSON.parse(stdout)).toEqual({
    text: "Once upon a time",
    rendered: "Instruct: Hello\nOutput:",
    promptTokens: 4,
    stages: ["headers", "weights"],
    left: 0,
  });
});
