import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  cachedSnapshot,
  hasTokenizer,
  hubSettings,
  isComplete,
  listCached,
  parseRepository,
  planRemoval,
} from "../../hub/index.ts";
import { failure, tempFolder } from "../tempFolder.ts";

describe("settings", () => {
  test("where Hugging Face's tools have them", async () => {
    const home = tempFolder({ token: "hf_file\n" });
    expect(await hubSettings({ HF_HOME: home })).toEqual({
      cache: join(home, "hub"),
      endpoint: "https://huggingface.co",
      token: "hf_file",
      offline: false,
      timeoutMs: 10_000,
    });
    const set = await hubSettings({
      HF_HOME: home,
      HF_HUB_CACHE: "~/elsewhere",
      HF_TOKEN: " hf_env ",
      HF_ENDPOINT: "http://127.0.0.1:8080/mirror/",
      HF_HUB_OFFLINE: "Yes",
      HF_HUB_DOWNLOAD_TIMEOUT: "0.5",
    });
    expect(set).toEqual({
      cache: join(homedir(), "elsewhere"),
      endpoint: "http://127.0.0.1:8080/mirror",
      token: "hf_env",
      offline: true,
      timeoutMs: 500,
    });
    const empty = tempFolder();
    expect((await hubSettings({ XDG_CACHE_HOME: empty, HF_TOKEN: "", HF_HUB_OFFLINE: "0" })).cache).toBe(
      join(empty, "huggingface/hub"),
    );
    expect((await hubSettings({ HF_HOME: home, HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" })).token).toBeUndefined();
  });

  test.each([
    [{ HF_ENDPOINT: "ftp://x" }, /^HF_ENDPOINT: expected an address/],
    [{ HF_ENDPOINT: "huggingface.co" }, /^HF_ENDPOINT/],
    [{ HF_TOKEN: "secret\u0007token" }, /^HF_TOKEN: (?!.*secret)/],
    [{ HF_HUB_DOWNLOAD_TIMEOUT: "-1" }, /^HF_HUB_DOWNLOAD_TIMEOUT/],
  ])("%j is refused", async (environment, message) => {
    expect((await failure(hubSettings({ HF_HOME: "/nowhere", ...environment }), "usage")).message).toMatch(message);
  });
});

test("names of models", () => {
  expect(parseRepository("microsoft/phi-2")).toEqual({ id: "microsoft/phi-2", revision: "main" });
  expect(parseRepository("microsoft/Phi-3.5-MoE-instruct@refs/pr/7")).toEqual({
    id: "microsoft/Phi-3.5-MoE-instruct",
    revision: "refs/pr/7",
  });
  const bad = [
    "phi-2",
    "a/b/c",
    "./phi-2",
    "../phi",
    "/a/b",
    "a//b",
    "a/b@",
    "a/b@../x",
    "a/b@x y",
    "a/..b",
    "a/b--c",
    "a/b.git",
  ];
  for (const text of [...bad, "a\\b/c", "a/b@-x", "a/b\n", "", "C:/x", `a/${"b".repeat(96)}`]) {
    expect(parseRepository(text), text).toBeUndefined();
  }
});

const oldCommit = "a".repeat(40);
const newCommit = "b".repeat(40);

/** A cache as Python leaves it: two revisions that share a file, one of them without its weights; and other things. */
function cache() {
  const folder = tempFolder({
    "models--microsoft--phi-2/blobs/shared": JSON.stringify({ architectures: ["PhiForCausalLM"] }),
    "models--microsoft--phi-2/blobs/weights": new Uint8Array(1000),
    "models--microsoft--phi-2/blobs/index": JSON.stringify({ weight_map: { a: "model-00001-of-00001.safetensors" } }),
    "models--microsoft--phi-2/blobs/more.incomplete": new Uint8Array(50),
    "models--microsoft--phi-2/refs/main": newCommit,
    "models--microsoft--phi-2/refs/refs/pr/1": oldCommit,
    "models--other--empty/refs/main": oldCommit,
    "datasets--a--b/blobs/x": "1",
    ".locks/models--microsoft--phi-2/x.lock": "",
    version: "1",
  });
  const root = join(folder, "models--microsoft--phi-2");
  const point = (commit: string, name: string, blob: string) => {
    mkdirSync(join(root, "snapshots", commit), { recursive: true });
    symlinkSync(`../../blobs/${blob}`, join(root, "snapshots", commit, name));
  };
  point(oldCommit, "config.json", "shared");
  point(oldCommit, "model.safetensors", "weights");
  point(newCommit, "config.json", "shared");
  point(newCommit, "model.safetensors.index.json", "index");
  point(newCommit, "model-00001-of-00001.safetensors", "absent");
  writeFileSync(join(root, "snapshots", newCommit, "tokenizer.json"), "{}"); // as on a system without links
  return { settings: { cache: folder, endpoint: "http://x", token: undefined, offline: true, timeoutMs: 1 }, root };
}

describe("the cache", () => {
  test("is listed", async () => {
    const { settings, root } = cache();
    const [model, ...others] = await listCached(settings);
    expect(others).toEqual([]);
    expect(model).toMatchObject({ id: "microsoft/phi-2", sizeBytes: 36 + 1000 + 55 + 50 });
    const byCommit = new Map(model?.revisions.map((revision) => [revision.commit, revision]));
    expect(byCommit.get(oldCommit)).toMatchObject({
      refs: ["refs/pr/1"],
      isComplete: true,
      architecture: "PhiForCausalLM",
      sizeBytes: 1036,
    });
    expect(byCommit.get(newCommit)).toMatchObject({ refs: ["main"], isComplete: false, sizeBytes: 36 + 55 + 2 });
    expect(await listCached({ ...settings, cache: join(root, "none") })).toEqual([]);
  });

  test("gives the snapshot of a branch, a commit, or none", async () => {
    const { settings, root } = cache();
    const at = (revision: string) => cachedSnapshot(settings, { id: "microsoft/phi-2", revision });
    expect(await at("main")).toBe(join(root, "snapshots", newCommit));
    expect(await at(oldCommit)).toBe(join(root, "snapshots", oldCommit));
    expect(await at("v2")).toBeUndefined();
    expect(await cachedSnapshot(settings, { id: "other/empty", revision: "main" })).toBeUndefined();
    expect(await isComplete(join(root, "snapshots", newCommit))).toBe(false);
    expect(await hasTokenizer(join(root, "snapshots", newCommit))).toBe(true);
    expect(await hasTokenizer(join(root, "snapshots", oldCommit))).toBe(false);
  });

  test("loses one revision and keeps what another uses", async () => {
    const { settings, root } = cache();
    const removal = await planRemoval(settings, "microsoft/phi-2", "refs/pr/1");
    expect(removal).toMatchObject({ commits: [oldCommit], sizeBytes: 1000 });
    await removal.run();
    expect(readdirSync(join(root, "blobs")).sort()).toEqual(["index", "more.incomplete", "shared"]);
    expect(readdirSync(join(root, "snapshots"))).toEqual([newCommit]);
    expect(existsSync(join(root, "refs/refs/pr/1"))).toBe(false);
    expect(existsSync(join(root, "refs/main"))).toBe(true);
  });

  test("loses all of a model", async () => {
    const { settings } = cache();
    const removal = await planRemoval(settings, "microsoft/phi-2", undefined);
    expect(removal).toMatchObject({ sizeBytes: 1141 });
    await removal.run();
    expect(readdirSync(settings.cache).sort()).toEqual([".locks", "datasets--a--b", "models--other--empty", "version"]);
    expect(readdirSync(join(settings.cache, ".locks"))).toEqual([]);
  });

  test("an unknown model or revision is refused", async () => {
    const { settings } = cache();
    expect((await failure(planRemoval(settings, "microsoft/phi-3", undefined), "usage")).message).toContain("got none");
    expect((await failure(planRemoval(settings, "microsoft/phi-2", "cccccc"), "usage")).message).toContain(
      "phi-2@cccccc",
    );
    expect((await planRemoval(settings, "microsoft/phi-2", "bbbbbbb")).commits).toEqual([newCommit]);
  });
});
