import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import * as nodeFiles from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { type Checkpoint, openCheckpoint } from "../../../engine/files/checkpoint.ts";
import { type NodeFiles, openFolder } from "../../../engine/files/disk.ts";
import { safetensorsBytes, safetensorsHeader } from "../../../engine/files/safetensors.ts";
import { failure, tempFolder } from "../../tempFolder.ts";

const config = { model_type: "phi" };
const index = "model.safetensors.index.json";
const shard = (number: number, of = 2) =>
  `model-${String(number).padStart(5, "0")}-of-${String(of).padStart(5, "0")}.safetensors`;

/** A file with U8 tensors of 4 bytes; tensor k of the file holds 4 times the byte k + `first`. */
function weights(names: readonly string[], first = 0): Uint8Array {
  const tensors = names.map((name, k) => ({
    name,
    dtype: "U8" as const,
    shape: [4],
    data: new Uint8Array(4).fill(first + k),
  }));
  return safetensorsBytes(tensors);
}

const indexOf = (map: Readonly<Record<string, unknown>>) => ({ metadata: { total_size: 0 }, weight_map: map });

async function open(path: string): Promise<Checkpoint> {
  const checkpoint = await openCheckpoint(await openFolder(path));
  onTestFinished(() => checkpoint.close());
  return checkpoint;
}

async function bytesOf(checkpoint: Checkpoint, name: string): Promise<number[]> {
  const tensor = checkpoint.tensors.get(name);
  if (!tensor) throw new Error(`no tensor ${name}`);
  return [...(await checkpoint.read(tensor, 1, 2))];
}

describe("checkpoints that open", () => {
  test("one file", async () => {
    const path = tempFolder({
      "config.json": config,
      "generation_config.json": { eos_token_id: 7 },
      "model.safetensors": weights(["a", "b"]),
      "reference.safetensors": weights(["x"]),
    });
    const checkpoint = await open(path);
    expect(checkpoint.name).toBe(path);
    expect(checkpoint.config.string("model_type")).toBe("phi");
    expect(checkpoint.generationConfig?.integers("eos_token_id", { min: 0, max: 9 })).toEqual([7]);
    expect([...checkpoint.tensors.keys()].sort()).toEqual(["a", "b"]);
    expect(checkpoint.notes).toEqual([]);
    expect(await bytesOf(checkpoint, "b")).toEqual([1, 1]);
    await checkpoint.assertUnchanged();
  });

  test("a read beyond the tensor is our own mistake", async () => {
    const checkpoint = await open(tempFolder({ "config.json": config, "model.safetensors": weights(["a", "b"]) }));
    const tensor = checkpoint.tensors.get("a");
    if (!tensor) throw new Error("no tensor a");
    await failure(checkpoint.read(tensor, 1, 4), "internal");
    await failure(checkpoint.read(tensor, -1, 2), "internal");
    expect(await checkpoint.read(tensor, 4, 0)).toHaveLength(0);
  });

  test("shards with an index, in a Hugging Face cache", async () => {
    const cache = tempFolder({
      "blobs/c": config,
      "blobs/i": indexOf({ a: shard(1), b: shard(2) }),
      "blobs/1": weights(["a"], 10),
      "blobs/2": weights(["b"], 20),
    });
    const snapshot = join(cache, "snapshots/abc");
    mkdirSync(snapshot, { recursive: true });
    for (const [name, blob] of [
      ["config.json", "c"],
      [index, "i"],
      [shard(1), "1"],
      [shard(2), "2"],
    ] as const) {
      symlinkSync(`../../blobs/${blob}`, join(snapshot, name));
    }
    const checkpoint = await open(snapshot);
    expect(await bytesOf(checkpoint, "a")).toEqual([10, 10]);
    expect(await bytesOf(checkpoint, "b")).toEqual([20, 20]);
    expect(checkpoint.tensors.get("b")?.file).toBe(shard(2));
    await checkpoint.assertUnchanged();
  });

  test("an index that is complete wins over model.safetensors; consolidated.safetensors is not looked at", async () => {
    const checkpoint = await open(
      tempFolder({
        "config.json": config,
        [index]: indexOf({ a: shard(1), b: shard(2) }),
        [shard(1)]: weights(["a"]),
        [shard(2)]: weights(["b"]),
        "model.safetensors": weights(["c"]),
        "consolidated.safetensors": "not even a safetensors file",
      }),
    );
    expect([...checkpoint.tensors.keys()]).toEqual(["a", "b"]);
    expect(checkpoint.notes).toEqual([`model.safetensors is ignored: ${index} names other files`]);
  });

  test("an index that names model.safetensors", async () => {
    const checkpoint = await open(
      tempFolder({
        "config.json": config,
        [index]: indexOf({ a: "model.safetensors" }),
        "model.safetensors": weights(["a"]),
      }),
    );
    expect(checkpoint.notes).toEqual([]);
    expect(checkpoint.tensors.size).toBe(1);
  });

  test("the files' own headers count, whatever the index says of them: with notes", async () => {
    const checkpoint = await open(
      tempFolder({
        "config.json": config,
        [index]: indexOf({ a: shard(1), b: shard(1), c: shard(2), "d\u001b": shard(2) }),
        [shard(1)]: weights(["a", "x\u001b"]),
        [shard(2)]: weights(["b", "c"]),
      }),
    );
    expect([...checkpoint.tensors.keys()]).toEqual(["a", "x\u001b", "b", "c"]);
    expect(checkpoint.absent).toEqual(new Set(["d\u001b"]));
    expect(checkpoint.notes).toEqual([
      `${index} names 1 tensors that no file holds: d\\u001b`,
      `${index} names another file than the one that holds it for 1 tensors: b`,
      `${index} does not name 1 tensors, which are read all the same: x\\u001b`,
    ]);
  });

  test("the only safetensors file, whatever its name", async () => {
    const checkpoint = await open(
      tempFolder({ "config.json": config, "gptq_model-4bit-128g.safetensors": weights(["a"]) }),
    );
    expect(checkpoint.notes).toEqual(["weights are read from gptq_model-4bit-128g.safetensors"]);
    expect(await bytesOf(checkpoint, "a")).toEqual([0, 0]);
  });

  test("more files than are kept open, read at the same time and in any order", async () => {
    const count = 60;
    const names = Array.from({ length: count }, (_, k) => `t${k}`);
    const files = Object.fromEntries(names.map((name, k) => [shard(k + 1, count), weights([name], k)]));
    const map = Object.fromEntries(names.map((name, k) => [name, shard(k + 1, count)]));
    let openNow = 0;
    let openMost = 0;
    const counting: NodeFiles = {
      ...nodeFiles,
      open: (async (...args: Parameters<NodeFiles["open"]>) => {
        const handle = await nodeFiles.open(...args);
        openMost = Math.max(openMost, ++openNow);
        const close = handle.close.bind(handle);
        handle.close = () => close().finally(() => openNow--);
        return handle;
      }) as NodeFiles["open"],
    };
    const path = tempFolder({ "config.json": config, [index]: indexOf(map), ...files });
    const checkpoint = await openCheckpoint(await openFolder(path, { files: counting }));
    expect(openMost).toBeLessThanOrEqual(17);
    const order = [...names, ...names.toReversed()];
    const read = await Promise.all(order.map((name) => bytesOf(checkpoint, name)));
    expect(read).toEqual(order.map((name) => [Number(name.slice(1)), Number(name.slice(1))]));
    await checkpoint.assertUnchanged();
    expect(openNow).toBeLessThanOrEqual(16);
    await checkpoint.close();
    expect(openNow).toBe(0);
  });

  test("a tensor of 3 GiB in a file of 6 GB", async () => {
    const size = 3 * 2 ** 30;
    const header = safetensorsHeader([
      { name: "a", dtype: "U8", shape: [size] },
      { name: "b", dtype: "F32", shape: [size / 4] },
    ]);
    const path = tempFolder({ "config.json": config, "model.safetensors": header });
    truncateSync(join(path, "model.safetensors"), header.length + 2 * size);
    const checkpoint = await open(path);
    const tensor = checkpoint.tensors.get("b");
    if (!tensor) throw new Error("no tensor b");
    const handle = await nodeFiles.open(join(path, "model.safetensors"), "r+");
    await handle.write("last", tensor.offsetBytes + size - 4);
    await handle.close();
    expect(new TextDecoder().decode(await checkpoint.read(tensor, size - 4, 4))).toBe("last");
    // What was written after the opening is a change.
    await failure(checkpoint.assertUnchanged(), "io");
  });

  test("an index and a header of 100 000 tensors", { timeout: 60_000 }, async () => {
    const names = Array.from({ length: 100_000 }, (_, k) => `model.layers.${k % 100}.mlp.experts.${k}.weight`);
    const header = safetensorsHeader(names.map((name) => ({ name, dtype: "U8", shape: [0, 4] })));
    const map = Object.fromEntries(names.map((name) => [name, shard(1, 1)]));
    const path = tempFolder({ "config.json": config, [index]: indexOf(map), [shard(1, 1)]: header });
    const before = process.cpuUsage();
    const checkpoint = await open(path);
    const { user, system } = process.cpuUsage(before);
    expect(checkpoint.tensors.size).toBe(names.length);
    // About 1 s on a quiet machine; a step that is quadratic in the tensors would take many minutes.
    expect((user + system) / 1e6).toBeLessThan(20);
  });

  const reference = new URL("../../../../shared/reference/models/", import.meta.url);
  test.skipIf(!existsSync(reference))("every reference checkpoint", async () => {
    for (const name of readdirSync(reference)) {
      const checkpoint = await open(new URL(name, reference).pathname);
      expect(checkpoint.tensors.size, name).toBeGreaterThan(10);
      expect(checkpoint.notes, name).toEqual([]);
    }
  });
  if (!existsSync(reference)) console.warn("SKIPPED: ../shared/reference is absent, its checkpoints are not opened");
});

describe("folders that are refused", () => {
  const pair = { [shard(1)]: weights(["a"]), [shard(2)]: weights(["b"]) };
  const lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 988097824\n";
  const whole = { "config.json": config, "model.safetensors": weights(["a"]) };
  type Files = Parameters<typeof tempFolder>[0];
  const cases: [label: string, files: Files, message: RegExp, advice?: RegExp][] = [
    ["an empty folder", {}, /expected a file config\.json, got none$/, /folder that holds config\.json/],
    ["only GGUF", { "phi.gguf": "GGUF" }, /expected a file config\.json/, /Only safetensors is read, not phi\.gguf/],
    [
      "only pytorch_model.bin",
      { "config.json": config, "pytorch_model.bin": "PK" },
      /got none$/,
      /not pytorch_model\.bin/,
    ],
    [
      "no weights",
      { "config.json": config },
      /expected model\.safetensors or model\.safetensors\.index\.json, got none$/,
    ],
    ["only consolidated", { "config.json": config, "consolidated.safetensors": weights(["a"]) }, /got none$/],
    [
      "two files of unknown name",
      { "config.json": config, "a.safetensors": "", "b.safetensors": "" },
      /got several files: a\.s/,
    ],
    [
      "shards without an index",
      { "config.json": config, ...pair },
      /expected model\.safetensors\.index\.json beside/,
      /Download/,
    ],
    [
      "shards and model.safetensors without an index",
      { ...whole, ...pair },
      /got model\.safetensors and model-/,
      /ambiguous/,
    ],

    [
      "config.json of 10 MB",
      { ...whole, "config.json": " ".repeat(10_000_001) },
      /^config\.json: expected at most 10000000/,
    ],
    ["config.json that is a list", { ...whole, "config.json": [] }, /^config\.json: expected an object at the root/],
    ["config.json that is not JSON", { ...whole, "config.json": "x" }, /^config\.json: line 1, column 1/],
    [
      "config.json with a field twice",
      { ...whole, "config.json": '{"a":1,"a":1}' },
      /^config\.json: .* each name once/,
    ],
    [
      "config.json as LFS pointer",
      { ...whole, "config.json": lfs },
      /^config\.json: expected JSON, got a Git LFS/,
      /lfs pull/,
    ],
    [
      "config.json as web page",
      { ...whole, "config.json": "<!doctype html>" },
      /^config\.json: expected JSON, got an HTML/,
    ],
    ["empty generation_config.json", { ...whole, "generation_config.json": "" }, /^generation_config\.json: line 1/],
    [
      "weights as LFS pointer",
      { ...whole, "model.safetensors": lfs },
      /^model\.safetensors: .* got a Git LFS/,
      /lfs pull/,
    ],

    ["an index that is not JSON", { ...whole, [index]: "{" }, /^model\.safetensors\.index\.json: line 1/],
    ["an index that is empty", { ...whole, [index]: "" }, /^model\.safetensors\.index\.json: line 1/],
    ["an index that is a list", { ...whole, [index]: [] }, /index\.json: expected an object at the root/],
    ["an index without weight_map", { ...whole, [index]: {} }, /"weight_map": expected an object .*, got nothing/],
    ["an index with an empty map", { ...whole, [index]: indexOf({}) }, /"weight_map": expected at least one tensor/],
    [
      "an index with a list as map",
      { ...whole, [index]: { weight_map: ["a"] } },
      /"weight_map": expected an object .*, got \["a"\]/,
    ],
    [
      "an index with a tensor twice",
      { ...whole, [index]: '{"weight_map":{"a":"x","a":"y"}}' },
      /in "weight_map": .*"a" again/,
    ],
    ["an index with NaN", { ...whole, [index]: '{"metadata":NaN}' }, /in "metadata": expected a value, got "NaN"/],
    [
      "an index that names a .bin",
      { ...whole, [index]: indexOf({ a: "pytorch_model.bin" }) },
      /tensor "a": expected a \*\.safetensors/,
    ],
    [
      "an index whose files are all missing",
      { "config.json": config, [index]: indexOf({ a: shard(1), b: shard(2), c: shard(1) }) },
      /got 2 of its 2 files missing: model-00001-of-00002\.safetensors, model-00002-of-00002\.safetensors$/,
      /Download them/,
    ],
    [
      "an index with one file missing beside model.safetensors",
      { ...whole, [index]: indexOf({ a: shard(1), b: shard(2) }), [shard(1)]: weights(["a"]) },
      /got 1 of its 2 files missing: model-00002-of-00002\.safetensors$/,
      /ambiguous/,
    ],
    [
      "10 001 files",
      {
        ...whole,
        [index]: indexOf(Object.fromEntries(Array.from({ length: 10_001 }, (_, k) => [`t${k}`, shard(k, 10_001)]))),
      },
      /expected at most 10000 files, got 10001/,
    ],
    [
      "more missing files than are shown",
      {
        "config.json": config,
        [index]: indexOf(Object.fromEntries(Array.from({ length: 50 }, (_, k) => [`t${k}`, shard(k, 50)]))),
      },
      /got 50 of its 50 files missing: (?:model-\d+-of-00050\.safetensors(?:, )?){20} and 30 more$/,
    ],
    [
      "an adapter",
      {
        "adapter_config.json": { base_model_name_or_path: "microsoft/phi-2" },
        "adapter_model.safetensors": weights(["a"]),
      },
      /expected a model, got an adapter of microsoft\/phi-2 \(adapter_config\.json\)$/,
      /merge_and_unload/,
    ],
    [
      "an adapter beside a config",
      { "config.json": config, "adapter_config.json": {}, "adapter_model.safetensors": weights(["a"]) },
      /expected a model, got an adapter \(adapter_config\.json\)$/,
    ],
    [
      "a tensor in two files",
      {
        "config.json": config,
        [index]: indexOf({ a: shard(1), b: shard(2) }),
        ...pair,
        [shard(2)]: weights(["b", "a"]),
      },
      /^model-00002-of-00002\.safetensors: tensor "a": expected in one file only, got it in model-00001-of-00002\.safetensors too$/,
    ],
    [
      "a bad header in the second file",
      {
        "config.json": config,
        [index]: indexOf({ a: shard(1), b: shard(2) }),
        ...pair,
        [shard(2)]: weights(["b"]).slice(0, -1),
      },
      /^model-00002-of-00002\.safetensors: tensor "b": .* the file is 1 byte short$/,
    ],
  ];
  test.each(cases)("%s", async (_, files, message, advice) => {
    const error = await failure(open(tempFolder(files)));
    expect(error.message).toMatch(message);
    expect(error.exitCode).toBe(3);
    if (advice) expect(error.advice.join("\n")).toMatch(advice);
  });

  const escapes = [
    "../x",
    "/etc/passwd",
    "a/../../x",
    "..\\x",
    "C:x",
    "file:///x",
    "x\0",
    "",
    ".",
    7,
    null,
    ["x"],
    true,
  ];
  test.each(escapes.map((value) => [JSON.stringify(value), value]))("weight_map value %s", async (_, value) => {
    const opened: string[] = [];
    const watched: NodeFiles = {
      ...nodeFiles,
      open: ((...args: Parameters<NodeFiles["open"]>) => {
        opened.push(String(args[0]));
        return nodeFiles.open(...args);
      }) as NodeFiles["open"],
    };
    const path = tempFolder({ ...whole, [index]: indexOf({ good: "model.safetensors", "bad\u001b": value }) });
    const error = await failure(openCheckpoint(await openFolder(path, { files: watched })));
    expect(error.message).toMatch(
      /^model\.safetensors\.index\.json: "weight_map": tensor "bad\\u001b": expected a file name/,
    );
    const names = opened.map((file) => file.slice(file.lastIndexOf("/") + 1));
    expect(new Set(names)).toEqual(new Set(["config.json", index]));
  });

  test("a file that is a link out of the folder", async () => {
    const outside = tempFolder({ w: weights(["a"]) });
    const path = tempFolder({ "config.json": config });
    symlinkSync(join(outside, "w"), join(path, "model.safetensors"));
    expect((await failure(open(path))).message).toMatch(/^model\.safetensors: expected a file inside the folder/);
    const folder = await openFolder(path, { allowSymlinks: true });
    const checkpoint = await openCheckpoint(folder);
    expect(checkpoint.tensors.size).toBe(1);
    await checkpoint.close();
  });

  test("files that are a folder or a FIFO", { timeout: 5000 }, async () => {
    const path = tempFolder({ "config.json": config });
    mkdirSync(join(path, "model.safetensors"));
    expect((await failure(open(path))).message).toBe("model.safetensors: expected a regular file, got a folder");
    const other = tempFolder({ "model.safetensors": weights(["a"]) });
    execFileSync("mkfifo", [join(other, "config.json")]);
    expect((await failure(open(other))).message).toBe("config.json: expected a regular file, got a FIFO");
  });

  test("an index of 200 MB is refused unread", async () => {
    const path = tempFolder({ ...whole, [index]: "" });
    truncateSync(join(path, index), 200_000_000);
    expect((await failure(open(path))).message).toBe(`${index}: expected at most 100000000 bytes, got 200000000`);
  });
});

describe("a checkpoint that changes", () => {
  const count = 40;
  const names = Array.from({ length: count }, (_, k) => `t${k}`);

  function many(): string {
    const files = Object.fromEntries(names.map((name, k) => [shard(k + 1, count), weights([name], k)]));
    const map = Object.fromEntries(names.map((name, k) => [name, shard(k + 1, count)]));
    const path = tempFolder({ "config.json": config, [index]: indexOf(map), ...files });
    for (const name of Object.keys(files)) utimesSync(join(path, name), new Date(2020, 1), new Date(2020, 1));
    return path;
  }

  // The first file's descriptor has been closed since its header was read, the last one's has not.
  test.each([1, count])("file %i is written anew", async (number) => {
    const path = many();
    const checkpoint = await open(path);
    writeFileSync(join(path, shard(number, count)), weights([`t${number - 1}`], 99));
    const error = await failure(checkpoint.assertUnchanged(), "io");
    expect(error.message.startsWith(`${shard(number, count)}: `)).toBe(true);
  });

  test("a file is cut: the read fails with its offsets", async () => {
    const path = tempFolder({ "config.json": config, "model.safetensors": weights(["a"]) });
    const checkpoint = await open(path);
    const size = readFileSync(join(path, "model.safetensors")).length;
    truncateSync(join(path, "model.safetensors"), size - 2);
    const tensor = checkpoint.tensors.get("a");
    if (!tensor) throw new Error("no tensor a");
    const error = await failure(checkpoint.read(tensor, 0, 4), "io");
    expect(error.message).toBe(
      `model.safetensors: expected bytes ${size - 4} to ${size}, got the end at byte ${size - 2}`,
    );
  });

  test("a file that was closed is replaced: it is not read", async () => {
    const path = many();
    const checkpoint = await open(path);
    writeFileSync(join(path, shard(1, count)), weights(["t0"], 99));
    expect((await failure(bytesOf(checkpoint, "t0"), "io")).message).toMatch(/got another version of it$/);
    expect(await bytesOf(checkpoint, "t7")).toEqual([7, 7]);
  });
});
