/** `phi pull`, `phi list`, `phi remove`, and a name in place of a folder, by a hub of the test's own. */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type FakeHub, modelName, sha256, startHub } from "../hub/server.ts";
import { tempFolder } from "../tempFolder.ts";
import { phi } from "./process.ts";

const phiTiny = join(import.meta.dirname, "../../models/phi-tiny");
const names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
const onNull = ["--adapter", "null"];
const ids = ["--ids", "593,592,260,349", "-n", "1"];

/** phi-tiny on a hub, with these changes of its config. */
function hubWithTiny(change: object = {}): Promise<FakeHub> {
  const files = names.map((name) => [name, new Uint8Array(readFileSync(join(phiTiny, name)))] as const);
  const config = { ...JSON.parse(readFileSync(join(phiTiny, "config.json"), "utf8")), ...change };
  return startHub({ ...Object.fromEntries(files), "config.json": new TextEncoder().encode(JSON.stringify(config)) });
}

function run(hub: FakeHub, cache: string, args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  return phi(args, { env: { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cache, HF_HUB_DOWNLOAD_TIMEOUT: "5", ...env } });
}

const weights = (hub: FakeHub) =>
  hub.requests.filter(
    ({ file, server, range }) => server === "content" && file === "model.safetensors" && range === undefined,
  );

describe("phi pull", () => {
  test("prints the snapshot; then the name stands for the folder, without a network too", async () => {
    const hub = await hubWithTiny();
    const cache = tempFolder();
    const snapshot = join(cache, "models--microsoft--phi-test/snapshots", hub.commit);
    const { code, stdout, stderr } = await run(hub, cache, ["pull", modelName, ...onNull]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${snapshot}\n` });
    expect(stderr).toMatch(
      /^note: downloading microsoft\/phi-test \(01234567\) into .*: 2\.\d MiB of 2\.\d MiB in 5 files$/m,
    );
    expect(stderr).toMatch(/downloaded and checked$/m);

    const count = hub.requests.length;
    const offline = { HF_HUB_OFFLINE: "1" };
    const generated = await run(hub, cache, ["-m", modelName, ...ids, ...onNull], offline);
    expect(generated.code, generated.stderr).toBe(0);
    const info = await run(hub, cache, ["info", "-m", modelName, ...onNull]);
    expect(info.stdout).toMatch(/^microsoft\/phi-test\n {2}architecture /);
    expect(hub.requests.length).toBe(count);

    const listed = await run(hub, cache, ["list", "--json"], offline);
    expect(JSON.parse(listed.stdout)).toMatchObject([
      {
        repository: modelName,
        revisions: ["main"],
        commit: hub.commit,
        complete: true,
        architecture: "PhiForCausalLM",
        folder: snapshot,
      },
    ]);
    expect((await run(hub, cache, ["list"])).stdout).toMatch(
      /^microsoft\/phi-test {2}01234567 \(main\) {2}PhiForCausalLM {2}2\.\d MiB\n$/,
    );

    const asked = await run(hub, cache, ["remove", modelName]);
    expect(asked.code).toBe(2);
    expect(asked.stderr).toContain("--yes");
    const removed = await run(hub, cache, ["remove", `${modelName}@main`, "--yes"]);
    expect({ code: removed.code, stdout: removed.stdout }).toEqual({ code: 0, stdout: "" });
    expect(existsSync(snapshot)).toBe(false);
    expect((await run(hub, cache, ["-m", modelName, ...ids], offline)).code).toBe(6);
  });

  test("refuses what does not fit, with the numbers, before a weight is fetched", async () => {
    // A cache of 2^30 positions: its rows pass every binding.
    const hub = await hubWithTiny({ max_position_embeddings: 2 ** 30 });
    const cache = tempFolder();
    const { code, stdout, stderr } = await run(hub, cache, [
      "pull",
      modelName,
      "--context",
      String(2 ** 30),
      ...onNull,
    ]);
    expect({ code, stdout }).toEqual({ code: 4, stdout: "" });
    expect(stderr).toMatch(/^error: microsoft\/phi-test: expected a model that runs here, got one of [\d.]+ TiB: /);
    expect(stderr).toMatch(/ weights 2\.\d MiB, cache [\d.]+ TiB for 1073741824 tokens/);
    expect(weights(hub)).toEqual([]);
    expect(readdirSync(cache)).toEqual([]);
    const unknown = await hubWithTiny({ model_type: "llama", architectures: ["LlamaForCausalLM"] });
    const refused = await run(unknown, cache, ["pull", modelName]);
    expect(refused.code).toBe(3);
    expect(refused.stderr).toMatch(/^error: microsoft\/phi-test: config\.json: "model_type": expected one of/);
  });

  test("Ctrl-C in the middle: exit code 130, and the rest the next time", async () => {
    const hub = await hubWithTiny();
    const cache = tempFolder();
    const bytes = hub.files.get("model.safetensors") ?? new Uint8Array();
    const root = join(cache, "models--microsoft--phi-test");
    const partial = join(root, "blobs", `${sha256(bytes)}.incomplete`);
    hub.fault = ({ server, file, range }, response) => {
      if (server !== "content" || file !== "model.safetensors" || range !== undefined) return false;
      response.writeHead(200, { "content-length": bytes.length });
      response.write(bytes.subarray(0, bytes.length / 2));
      return true; // the rest never comes
    };
    const { code, stderr } = await phi(["pull", modelName, ...onNull], {
      env: { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cache },
      started(child) {
        const timer = setInterval(() => {
          if (!existsSync(partial) || statSync(partial).size === 0) return;
          clearInterval(timer);
          child.kill("SIGINT");
        }, 20);
      },
    });
    expect(code, stderr).toBe(130);
    expect(readdirSync(join(root, "snapshots", hub.commit))).not.toContain("model.safetensors");
    const kept = statSync(partial).size;
    hub.fault = () => false;
    const before = hub.requests.length;
    const resumed = await run(hub, cache, ["-m", modelName, ...ids, ...onNull]);
    expect(resumed.code, resumed.stderr).toBe(0);
    const ranges = hub.requests
      .slice(before)
      .filter(({ server, range }) => server === "content" && /-$/.test(range ?? ""));
    expect(ranges.map(({ range }) => range)).toEqual([`bytes=${kept}-`]);
  });
});

describe("a name in place of a folder", () => {
  test("is asked for only where there is no such folder; phi info and tokenize fetch no weights", async () => {
    const hub = await hubWithTiny();
    const cache = tempFolder();
    const info = await run(hub, cache, ["info", "-m", modelName, ...onNull]);
    expect(info.stdout).toMatch(/^ {2}parameters +1,451,520/m);
    expect(info.stdout).toMatch(/^ {2}tokenizer +1,024 tokens$/m);
    expect(readdirSync(cache)).toEqual([]);
    const tokenized = await phi(["tokenize", "-m", modelName], {
      stdin: "Once upon a time",
      env: { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cache },
    });
    expect(tokenized.stdout).toBe("[593,592,260,349]\n");
    expect(weights(hub)).toEqual([]);

    const unknown = await run(hub, cache, ["-m", "microsoft/phi-9", ...ids]);
    expect(unknown.code).toBe(3);
    expect(unknown.stderr).toMatch(/^error: microsoft\/phi-9: expected such a model or revision on /);
    expect(unknown.stderr).toContain("There is no folder microsoft/phi-9 here");
    const folder = tempFolder();
    mkdirSync(join(folder, "microsoft/phi-test"), { recursive: true });
    const local = await run(hub, cache, ["info", "-m", join(folder, "microsoft/phi-test")]);
    expect(local.stderr).toContain("expected a file config.json");
  });
});
