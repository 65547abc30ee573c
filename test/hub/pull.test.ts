import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { describeCheckpoint, openFolder, PhiError } from "../../engine/index.ts";
import { cachedSnapshot, type HubSettings, isComplete, type PullOptions, pull } from "../../hub/index.ts";
import { lockFile } from "../../hub/lock.ts";
import { failure, tempFolder } from "../tempFolder.ts";
import {
  type FakeHub,
  type Fault,
  gitSha1,
  modelName,
  sendBytes,
  sendError,
  sha256,
  startHub,
  token,
} from "./server.ts";

const root = join(import.meta.dirname, "../..");
const phi2 = join(root, "test/fixtures/models/phi-2");
const shards = [1, 2, 3].map((n) => `model-0000${n}-of-00003.safetensors`);
const [firstShard = "", secondShard = ""] = shards;

/** phi-2 in three shards with a tokenizer, and what is not to be downloaded. */
function modelFiles(): Record<string, Uint8Array> {
  const names = ["config.json", "generation_config.json", "model.safetensors.index.json", ...shards];
  const own = Object.fromEntries(names.map((name) => [name, new Uint8Array(readFileSync(join(phi2, name)))]));
  const tokenizer = new Uint8Array(readFileSync(join(root, "models/phi-tiny/tokenizer.json")));
  const other = new Uint8Array(2000).fill(1);
  return {
    ...own,
    "tokenizer.json": tokenizer,
    "chat_template.jinja": new TextEncoder().encode("{{ messages }}\n"),
    "README.md": other,
    "pytorch_model.bin": other,
    "model.gguf": other,
    "onnx/model.onnx": other,
    "consolidated.safetensors": other,
    "modeling_phi.py": other,
    "../escape.json": other,
  };
}
const wanted = [
  "chat_template.jinja",
  "config.json",
  "generation_config.json",
  ...shards,
  "model.safetensors.index.json",
  "tokenizer.json",
];

function settingsFor(hub: FakeHub, more: Partial<HubSettings> = {}): HubSettings {
  return { cache: tempFolder(), endpoint: hub.endpoint, token: undefined, offline: false, timeoutMs: 2000, ...more };
}

const take = (settings: HubSettings, more: Partial<PullOptions> = {}, revision = "main") =>
  pull({ id: modelName, revision }, { settings, signal: new AbortController().signal, pauseMs: 1, ...more });

const rootOf = ({ cache }: HubSettings) => join(cache, "models--microsoft--phi-test");
/** Names in blobs/ that are not finished files. */
const partials = (settings: HubSettings) =>
  readdirSync(join(rootOf(settings), "blobs")).filter((name) => !/^[0-9a-f]+$/.test(name));

/** Cuts the connection of every transfer of the file after `bytes`, `times` times. */
function cutAfter(file: string, bytes: number, times = Number.POSITIVE_INFINITY): Fault {
  let cuts = 0;
  return (request, response) => {
    if (request.file !== file || request.server !== "content" || /^bytes=\d+-\d+$/.test(request.range ?? ""))
      return false;
    if (cuts++ >= times) return false;
    const bytesOf = new Uint8Array(readFileSync(join(phi2, file)));
    const from = Number(/^bytes=(\d+)-$/.exec(request.range ?? "")?.[1] ?? 0);
    response.writeHead(from > 0 ? 206 : 200, {
      "content-length": bytesOf.length - from,
      ...(from > 0 && { "content-range": `bytes ${from}-${bytesOf.length - 1}/${bytesOf.length}` }),
    });
    response.write(bytesOf.subarray(from, from + bytes), () => response.destroy());
    return true;
  };
}

describe("a pull", () => {
  test("lays the files out as huggingface_hub does, and only those that are needed", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    const plans: object[] = [];
    const progress: { doneBytes: number; receivedBytes: number }[] = [];
    const result = await take(settings, {
      onPlan: (plan) => plans.push(plan),
      onProgress: (now) => progress.push(now),
    });
    const snapshot = join(rootOf(settings), "snapshots", hub.commit);
    const totalBytes = wanted.reduce((sum, name) => sum + (hub.files.get(name)?.length ?? 0), 0);
    expect(result).toEqual({ folder: snapshot, commit: hub.commit, totalBytes, receivedBytes: totalBytes });
    expect(readdirSync(snapshot).sort()).toEqual(wanted);
    for (const name of wanted) {
      const bytes = hub.files.get(name) ?? new Uint8Array();
      const isLfs = /safetensors$|^tokenizer\.json/.test(name);
      expect(readlinkSync(join(snapshot, name))).toBe(`../../blobs/${isLfs ? sha256(bytes) : gitSha1(bytes)}`);
      expect(readFileSync(join(snapshot, name)).equals(bytes), name).toBe(true);
    }
    expect(readFileSync(join(rootOf(settings), "refs/main"), "utf8")).toBe(hub.commit);
    expect(partials(settings)).toEqual([]);
    expect(plans).toEqual([{ commit: hub.commit, files: 8, totalBytes, cachedBytes: 0, cache: settings.cache }]);
    expect(progress.at(-1)).toEqual({ doneBytes: totalBytes, receivedBytes: totalBytes });
    expect(await cachedSnapshot(settings, { id: modelName, revision: "main" })).toBe(snapshot);
    expect(await isComplete(snapshot)).toBe(true);
    expect((await describeCheckpoint(await openFolder(snapshot))).problem).toBeUndefined();
    // Again: only what the check of the headers reads.
    const before = hub.requests.length;
    expect((await take(settings)).receivedBytes).toBe(0);
    const again = hub.requests.slice(before);
    expect(again.filter(({ server, range }) => server === "content" && range === undefined)).toEqual([]);
  });

  test("a revision with slashes, a tag and a commit", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    for (const revision of ["refs/pr/1", "v1.0", hub.commit]) await take(settings, {}, revision);
    expect(readdirSync(join(rootOf(settings), "refs")).sort()).toEqual(["refs", "v1.0"]);
    expect(readFileSync(join(rootOf(settings), "refs/refs/pr/1"), "utf8")).toBe(hub.commit);
  });

  test("without weights: the tokenizer and configs", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    const { folder } = await take(settings, { weights: false });
    expect(readdirSync(folder).sort()).toEqual(wanted.filter((name) => !name.endsWith(".safetensors")));
    expect(await isComplete(folder)).toBe(false);
  });

  test("the token goes to the hub and not to where it redirects", async () => {
    const hub = await startHub(modelFiles(), { needsToken: true });
    await take(settingsFor(hub, { token }));
    const of = (server: string) => hub.requests.filter((request) => request.server === server);
    expect(new Set(of("hub").map(({ authorization }) => authorization))).toEqual(new Set([`Bearer ${token}`]));
    expect(of("content").length).toBeGreaterThan(3);
    expect(new Set(of("content").map(({ authorization }) => authorization))).toEqual(new Set([undefined]));
  });
});

describe("the check of the headers", () => {
  /** What was fetched of the weights. */
  const weightRanges = (hub: FakeHub) =>
    hub.requests.filter(({ file, server }) => server === "content" && file?.endsWith(".safetensors"));

  test("comes before any byte of a weight", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    const seen: { parameters?: number | undefined } = {};
    const refused = take(settings, {
      check({ model }) {
        seen.parameters = model?.parameters;
        throw new PhiError("machine", "too large");
      },
    });
    expect((await failure(refused, "machine")).message).toBe("too large");
    expect(seen.parameters).toBeGreaterThan(100_000);
    for (const { file = "", range = "" } of weightRanges(hub)) {
      const bytes = hub.files.get(file) ?? new Uint8Array();
      const headerEnd = 8 + Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
      expect(Number(/^bytes=\d+-(\d+)$/.exec(range)?.[1]), `${file} ${range}`).toBeLessThan(headerEnd);
    }
    expect(existsSync(rootOf(settings))).toBe(false);
  });

  test.each([
    ["an unknown architecture", { model_type: "llama" }, /model_type/],
    ["another geometry", { hidden_size: 4096, num_attention_heads: 32 }, /shape|expected/],
  ])("refuses %s, unless forced", async (_, change, message) => {
    const config = { ...JSON.parse(readFileSync(join(phi2, "config.json"), "utf8")), ...change };
    const hub = await startHub({ ...modelFiles(), "config.json": new TextEncoder().encode(JSON.stringify(config)) });
    const settings = settingsFor(hub);
    const error = await failure(take(settings));
    expect(error.message).toMatch(new RegExp(`^${modelName}: `));
    expect(error.message).toMatch(message);
    expect(existsSync(rootOf(settings))).toBe(false);
    expect((await take(settings, { force: true })).receivedBytes).toBeGreaterThan(1_000_000);
  });

  test("a model without safetensors says what it has", async () => {
    const { "config.json": config, "pytorch_model.bin": bin } = modelFiles();
    const hub = await startHub({
      "config.json": config ?? new Uint8Array(),
      "pytorch_model.bin": bin ?? new Uint8Array(),
    });
    const { message, advice } = await failure(take(settingsFor(hub)));
    expect(message).toBe(`${modelName}: expected model.safetensors or model.safetensors.index.json, got none`);
    expect(advice.join()).toContain("pytorch_model.bin");
  });
});

/** The address of a port that nobody listens on. */
async function closedPort(): Promise<string> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return `http://127.0.0.1:${port}`;
}

describe("refusals of the hub", () => {
  const answer = async (status: number, code?: string, more: Partial<HubSettings> = {}) => {
    const hub = await startHub(modelFiles());
    hub.fault = (_request, response) => sendError(response, status, code);
    return take(settingsFor(hub, more));
  };

  test("404 of a model, a revision, and of a file that is listed", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    const signal = new AbortController().signal;
    const unknown = await failure(pull({ id: "microsoft/phi-9", revision: "main" }, { settings, signal }));
    expect(unknown.message).toMatch(
      /^microsoft\/phi-9: expected such a model or revision on 127\.0\.0\.1:\d+, got HTTP status 404/,
    );
    const revision = await failure(take(settings, {}, "v9"));
    expect(revision.message).toMatch(/^microsoft\/phi-test@v9: expected such a revision on /);
    hub.fault = ({ file, server }, response) =>
      server === "content" && file === secondShard && sendError(response, 404);
    expect((await failure(take(settings))).message).toContain(secondShard);
  });

  test("401 and 403 say what to do about token and licence", async () => {
    const none = await failure(answer(401, "RepoNotFound"), "io");
    expect(none.advice.join(" ")).toMatch(/check the spelling.*set HF_TOKEN/);
    const stale = await failure(answer(401, undefined, { token }), "io");
    expect(stale.advice.join(" ")).toContain("has expired");
    const gated = await failure(answer(403, "GatedRepo", { token }), "io");
    expect(gated.advice.join(" ")).toContain("Accept its licence");
    for (const error of [none, stale, gated]) expect([error.message, ...error.advice].join()).not.toContain(token);
  });

  test("HF_HUB_OFFLINE forbids it", async () => {
    const hub = await startHub(modelFiles());
    expect((await failure(take(settingsFor(hub, { offline: true })), "io")).message).toContain("HF_HUB_OFFLINE");
    expect(hub.requests).toEqual([]);
  });

  test("no hub at all is said at once", async () => {
    const hub = await startHub(modelFiles());
    const notes: string[] = [];
    const settings = settingsFor(hub, { endpoint: await closedPort() });
    const error = await failure(take(settings, { onNote: (text) => notes.push(text), pauseMs: 60_000 }), "io");
    expect(error.message).toMatch(/ECONNREFUSED/);
    expect(error.advice.join()).toContain("HF_HUB_OFFLINE");
    expect(notes).toEqual([]);
  });

  test("an answer that is no hub's", async () => {
    const hub = await startHub(modelFiles());
    hub.fault = (_request, response) => {
      response.writeHead(200, { "content-type": "text/html" }).end("<html>Log in</html>");
      return true;
    };
    expect((await failure(take(settingsFor(hub)), "io")).advice.join()).toContain("HF_ENDPOINT");
  });

  test.each(["../../../etc", "0123", 7])("a commit %j is not believed", async (sha) => {
    const hub = await startHub(modelFiles());
    hub.fault = ({ path }, response) => {
      if (!path.includes("/revision/")) return false;
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ id: modelName, sha }));
      return true;
    };
    expect((await failure(take(settingsFor(hub)), "io")).message).toContain("expected a commit");
  });
});

describe("a bad connection", () => {
  test("429 and 503 are waited for as they ask, and told", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    const notes: string[] = [];
    hub.fault = ({ count, path }, response) =>
      count === 1 && sendError(response, path.includes("api") ? 429 : 503, undefined, { "retry-after": "0" });
    await take(settings, { onNote: (text) => notes.push(text) });
    expect(notes.filter((text) => text.includes("429")).length).toBeGreaterThanOrEqual(2);
    expect(notes.filter((text) => text.includes("503")).length).toBeGreaterThanOrEqual(3);
    expect(await isComplete(join(rootOf(settings), "snapshots", hub.commit))).toBe(true);
  });

  test("an address whose signature is too old is asked for anew", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    hub.fault = ({ server, count }, response) => server === "content" && count === 1 && sendError(response, 403);
    await take(settings);
    expect(await isComplete(join(rootOf(settings), "snapshots", hub.commit))).toBe(true);
  });

  test("a server that stays busy, and one that asks for too long a wait", async () => {
    const hub = await startHub(modelFiles());
    hub.fault = (_request, response) => sendError(response, 503);
    expect((await failure(take(settingsFor(hub)), "io")).message).toMatch(/503 .*, 6 times$/);
    hub.fault = (_request, response) => sendError(response, 429, undefined, { "retry-after": "86400" });
    expect((await failure(take(settingsFor(hub)), "io")).message).toMatch(/429 .* asks to wait 86400 s$/);
  });

  test("cut transfers go on where they ended, within a run and over runs", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    hub.fault = cutAfter(firstShard, 100_000);
    await take(settings);
    const ranges = hub.requests
      .filter(({ file, server }) => file === firstShard && server === "content")
      .map(({ range }) => range);
    // Of a connection that breaks, what was under way may be lost; each request begins where the file ends.
    const offsets = ranges.slice(2).map((range) => Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0));
    expect(offsets.length).toBeGreaterThanOrEqual(5);
    offsets.forEach((offset, i) => {
      const last = offsets[i - 1] ?? -1;
      expect(offset > last && offset <= last + 100_001, offsets.join()).toBe(true);
    });

    const other = settingsFor(hub);
    hub.fault = (request, response) =>
      cutAfter(firstShard, 100_000, 1)(request, response) ||
      (/^bytes=\d+-$/.test(request.range ?? "") && sendError(response, 404));
    await failure(take(other));
    expect(partials(other)).toContain(`${sha256(hub.files.get(firstShard) ?? new Uint8Array())}.incomplete`);
    expect(existsSync(join(rootOf(other), "snapshots", hub.commit, firstShard))).toBe(false);
    expect(existsSync(join(rootOf(other), "refs"))).toBe(false);
    hub.fault = () => false;
    const plans: { cachedBytes: number }[] = [];
    const { receivedBytes, totalBytes } = await take(other, { onPlan: (plan) => plans.push(plan) });
    expect(plans[0]?.cachedBytes).toBeGreaterThan(0);
    expect(receivedBytes).toBe(totalBytes - (plans[0]?.cachedBytes ?? 0));
    expect(partials(other)).toEqual([]);
  });

  test("a connection that stalls is given up", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub, { timeoutMs: 500 });
    const notes: string[] = [];
    let stalls = 0;
    hub.fault = ({ file, server, range }, response) => {
      if (file !== firstShard || server !== "content" || range !== undefined || stalls++ > 0) return false;
      const bytes = hub.files.get(firstShard) ?? new Uint8Array();
      response.writeHead(200, { "content-length": bytes.length });
      response.write(bytes.subarray(0, 1000));
      return true; // and nothing more
    };
    await take(settings, { onNote: (text) => notes.push(text) });
    expect(notes.join()).toContain("nothing for 0.5 s");
  });

  test("redirects in a circle, to another protocol, and from a server that knows no ranges", async () => {
    const hub = await startHub(modelFiles());
    const redirect =
      (to: string): Fault =>
      ({ file }, response) => {
        if (file !== "config.json") return false;
        response.writeHead(302, { location: to }).end();
        return true;
      };
    hub.fault = redirect(`/${modelName}/resolve/${hub.commit}/config.json`);
    expect((await failure(take(settingsFor(hub)), "io")).message).toContain("more than 10 redirects");
    hub.fault = redirect("file:///etc/passwd");
    expect((await failure(take(settingsFor(hub)), "io")).message).toContain("file:///etc/passwd");
    hub.fault = ({ file, server }, response) => {
      if (server !== "content") return false;
      sendBytes(response, hub.files.get(file ?? "") ?? new Uint8Array(), undefined);
      return true;
    };
    const settings = settingsFor(hub);
    const blobs = join(rootOf(settings), "blobs");
    mkdirSync(blobs, { recursive: true });
    writeFileSync(join(blobs, `${sha256(hub.files.get(firstShard) ?? new Uint8Array())}.incomplete`), "begun");
    await take(settings);
    expect(await isComplete(join(rootOf(settings), "snapshots", hub.commit))).toBe(true);
  });
});

describe("wrong bytes", () => {
  const damaged = (hub: FakeHub, file: string, change: (bytes: Uint8Array) => Uint8Array): Fault => {
    return (request, response: ServerResponse) => {
      const isWhole = request.range === undefined || /^bytes=\d+-$/.test(request.range);
      if (request.file !== file || request.path.includes("/resolve/") || !isWhole) return false;
      sendBytes(response, change(Uint8Array.from(hub.files.get(file) ?? [])), request.range);
      return true;
    };
  };

  test.each([firstShard, "tokenizer.json", "chat_template.jinja"])("%s with a wrong hash is not kept", async (file) => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    hub.fault = damaged(hub, file, (bytes) => bytes.with(bytes.length - 1, 0x7f));
    const error = await failure(take(settings), "io");
    expect(error.message).toMatch(
      new RegExp(`^${file}: expected (SHA-256|git's SHA-1) [0-9a-f]+, as the hub lists it`),
    );
    expect(existsSync(join(rootOf(settings), "snapshots", hub.commit, file))).toBe(false);
    expect(
      partials(settings).filter((name) => name.startsWith(sha256(hub.files.get(file) ?? new Uint8Array()))),
    ).toEqual([]);
  });

  test.each([
    ["shorter", (bytes: Uint8Array) => bytes.subarray(0, bytes.length - 7)],
    ["longer", (bytes: Uint8Array) => Uint8Array.from([...bytes, 1, 2, 3])],
  ])("a %s file than the listed one", async (_, change) => {
    const hub = await startHub(modelFiles());
    hub.fault = damaged(hub, firstShard, change);
    const { message } = await failure(take(settingsFor(hub)), "io");
    expect(message).toMatch(
      /^model-00001-of-00003\.safetensors: expected a file of 493848 bytes, as the hub lists it, got/,
    );
  });

  test("what an earlier run left and does not belong to the file is thrown away", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    const blobs = join(rootOf(settings), "blobs");
    mkdirSync(blobs, { recursive: true });
    const partial = (file: string) => join(blobs, `${sha256(hub.files.get(file) ?? new Uint8Array())}.incomplete`);
    writeFileSync(partial(firstShard), new Uint8Array(5000).fill(9)); // other bytes
    writeFileSync(partial(secondShard), new Uint8Array(700_000)); // more than the file has
    const notes: string[] = [];
    const progress: number[] = [];
    const { totalBytes } = await take(settings, {
      onNote: (text) => notes.push(text),
      onProgress: ({ doneBytes }) => progress.push(doneBytes),
    });
    expect(notes.join()).toContain("starting over");
    expect(progress.at(-1)).toBe(totalBytes);
    expect(Math.max(...progress)).toBe(totalBytes);
    expect(await isComplete(join(rootOf(settings), "snapshots", hub.commit))).toBe(true);
  });
});

describe("this machine", () => {
  /** Files whose `write` fails from the n-th call on. */
  const failing = (code: string, from: number) => async (path: string, flags: number) => {
    const handle = await open(path, flags);
    let calls = 0;
    const write: FileHandle["write"] = async (...args: unknown[]) => {
      if (++calls >= from) throw Object.assign(new Error(`${code}: injected, write`), { code, syscall: "write" });
      return Reflect.apply(handle.write, handle, args);
    };
    return new Proxy(handle, {
      get: (target, name) => {
        if (name === "write") return write;
        const value = Reflect.get(target, name);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  };

  test("a full disk: said, nothing half-written in the snapshot, and the next run goes on", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    const error = await failure(take(settings, { openFile: failing("ENOSPC", 2) }), "io");
    expect(error.message).toMatch(/got a full disk$/);
    const snapshot = join(rootOf(settings), "snapshots", hub.commit);
    for (const name of existsSync(snapshot) ? readdirSync(snapshot) : []) {
      expect(statSync(join(snapshot, name)).size, name).toBe(hub.files.get(name)?.length);
    }
    expect(existsSync(join(rootOf(settings), "refs"))).toBe(false);
    await take(settings);
    expect(await isComplete(snapshot)).toBe(true);
  });

  test("a disk that is too small is said before anything comes", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    hub.fault = ({ path }, response) => {
      if (!path.includes("/tree/")) return false;
      const entries = [...hub.files].map(([name, bytes]) => ({
        type: "file",
        path: name,
        oid: gitSha1(bytes),
        size: name === "tokenizer.json" ? 2 ** 52 : bytes.length,
      }));
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(entries));
      return true;
    };
    const error = await failure(take(settings), "io");
    expect(error.message).toMatch(/expected 450359962\d{7} free bytes, got \d+$/);
    expect(error.advice.join()).toContain("HF_HUB_CACHE");
    expect(existsSync(join(rootOf(settings), "blobs"))).toBe(false);
  });

  test("an abort in the middle leaves what can be resumed", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    const abort = new AbortController();
    const ended = take(settings, {
      signal: abort.signal,
      onProgress({ receivedBytes }) {
        if (receivedBytes > 300_000) abort.abort();
      },
    });
    await expect(ended).rejects.toThrow(/abort/i);
    expect(existsSync(join(rootOf(settings), "refs"))).toBe(false);
    const { receivedBytes, totalBytes } = await take(settings);
    expect(receivedBytes).toBeLessThanOrEqual(totalBytes - 300_000);
  });

  test("two pulls at the same time download each file once", async () => {
    const hub = await startHub(modelFiles());
    const settings = settingsFor(hub);
    const [a, b] = await Promise.all([take(settings), take(settings)]);
    expect(a.folder).toBe(b.folder);
    const transfers = hub.requests.filter(
      ({ file, range, server }) => server === "content" && file === firstShard && range === undefined,
    );
    expect(transfers).toHaveLength(1);
    expect(await isComplete(a.folder)).toBe(true);
  });

  const hasFlock = spawnSync("flock", ["--version"]).status !== null;
  test.runIf(hasFlock)("the lock is flock's, as Python's tools take it", async () => {
    const path = join(tempFolder(), "locks/a.lock");
    const { signal } = new AbortController();
    const release = await lockFile(path, signal, () => expect.unreachable());
    const other = () => spawnSync("flock", ["-n", path, "true"]).status;
    expect(other()).toBe(1);
    let waited = false;
    const second = lockFile(path, signal, () => {
      waited = true;
    });
    await expect.poll(() => waited).toBe(true);
    await release();
    const releaseSecond = await second;
    expect(other()).toBe(1);
    const abort = new AbortController();
    const third = lockFile(path, abort.signal, () => abort.abort());
    await expect(third).rejects.toThrow(/abort/i);
    await releaseSecond();
    expect(other()).toBe(0);
  });
});
