import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  linkSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import * as nodeFiles from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { type NodeFiles, openFolder } from "../../../engine/files/disk.ts";
import { httpFolder } from "../../../engine/files/http.ts";
import { type ByteSource, type Folder, unsafePath } from "../../../engine/files/source.ts";
import { failingFiles } from "../../failingFiles.ts";
import { failure, tempFolder } from "../../tempFolder.ts";

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

async function openFile(folder: Folder, name: string): Promise<ByteSource> {
  const source = await folder.open(name);
  if (!source) throw new Error(`no ${name}`);
  onTestFinished(() => source.close().catch(() => undefined));
  return source;
}

async function openIn(path: string, name: string): Promise<ByteSource> {
  return openFile(await openFolder(path), name);
}

describe("reading", () => {
  test("ranges, into a new array or the start of a given one", async () => {
    const source = await openIn(tempFolder({ f: "0123456789" }), "f");
    expect(source).toMatchObject({ name: "f", sizeBytes: 10 });
    expect(text(await source.read(3, 4))).toBe("3456");
    const into = new Uint8Array(6).fill(0x2d);
    expect(text(await source.read(8, 2, into))).toBe("89");
    expect(text(into)).toBe("89----");
    expect(await source.read(10, 0)).toEqual(new Uint8Array(0));
  });

  test("past the end is an io error with the offsets", async () => {
    const source = await openIn(tempFolder({ f: "0123456789" }), "f");
    const error = await failure(source.read(4, 16), "io");
    expect(error.message).toBe("f: expected bytes 4 to 20, got the end at byte 10");
  });

  test("a sparse file of 6 GB in pieces", async () => {
    const path = tempFolder({ big: "" });
    const end = 6 * 2 ** 30;
    truncateSync(join(path, "big"), end);
    const descriptor = openSync(join(path, "big"), "r+");
    for (const [at, word] of [
      [2 ** 31 - 2, "edge"],
      [2 ** 32 - 2, "EDGE"],
      [end - 3, "end"],
    ] as const) {
      writeSync(descriptor, word, at);
    }
    onTestFinished(() => nodeFiles.rm(path, { recursive: true, force: true }));
    const source = await openIn(path, "big");
    expect(source.sizeBytes).toBe(end);
    expect(text(await source.read(2 ** 31 - 2, 4))).toBe("edge");
    expect(text(await source.read(2 ** 32 - 2, 4))).toBe("EDGE");
    expect(text(await source.read(end - 3, 3))).toBe("end");
  });

  test("a file that is listed is opened, one that is not is undefined", async () => {
    const folder = await openFolder(tempFolder({ b: "1", a: "2", "sub/c": "3" }));
    expect(await folder.list()).toEqual(["a", "b", "sub"]);
    expect(text(await (await openFile(folder, "sub/c")).read(0, 1))).toBe("3");
    expect(await folder.open("d")).toBeUndefined();
    expect(await folder.open("a/d")).toBeUndefined();
  });
});

describe("paths", () => {
  const unsafe = [
    "",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "/etc/passwd",
    "./x",
    "a//b",
    "a/",
    "..\\x",
    "a\\b",
    "C:x",
    "C:\\x",
    "file:///etc/passwd",
    "https://example.org/x",
    "x\0",
    "x\n",
    "x".repeat(1001),
  ];
  test.each(unsafe.map((path) => [path.slice(0, 30), path]))(
    "%j is refused before anything is touched",
    async (_, path) => {
      const calls: string[] = [];
      const watched: NodeFiles = new Proxy(nodeFiles, {
        get(target, name: keyof NodeFiles) {
          calls.push(name);
          return target[name];
        },
      });
      const folder = await openFolder(tempFolder({ x: "" }), { files: watched });
      const before = calls.length;
      expect(unsafePath(path)).toBeDefined();
      expect((await failure(folder.open(path))).message).toMatch(/expected a file name inside the folder, got /);
      expect(calls.length).toBe(before);
    },
  );

  test.each(["model.safetensors", "a/b.json", "..x", "x..y", "日本", "a b"])("%j is allowed", (path) => {
    expect(unsafePath(path)).toBeUndefined();
  });

  test("a folder that is none", async () => {
    const path = tempFolder({ f: "" });
    const missing = await failure(openFolder(join(path, "no")));
    expect(missing.message).toMatch(/no": expected a folder, got nothing of that name$/);
    expect(missing.exitCode).toBe(3);
    expect((await failure(openFolder(join(path, "f")))).message).toMatch(/expected a folder, got a file$/);
    expect((await failure(openFolder("a\0b"))).message).toMatch(/^"a\\u0000b": expected a folder/);
    expect((await failure(openFolder(""))).message).toMatch(/expected a folder/);
  });
});

describe("symbolic links and other things that are no files", () => {
  test("a link inside the folder, a hard link and a linked folder are followed", async () => {
    const path = tempFolder({ "real/f": "inside", other: "" });
    symlinkSync("real/f", join(path, "soft"));
    linkSync(join(path, "real/f"), join(path, "hard"));
    expect(text(await (await openIn(path, "soft")).read(0, 6))).toBe("inside");
    expect(text(await (await openIn(path, "hard")).read(0, 6))).toBe("inside");
    symlinkSync(join(path, "real"), join(path, "folder"));
    expect(text(await (await openIn(join(path, "folder"), "f")).read(0, 6))).toBe("inside");
  });

  test("a link out of the folder is refused unless allowed", async () => {
    const outside = tempFolder({ secret: "secret" });
    const path = tempFolder();
    symlinkSync(join(outside, "secret"), join(path, "f"));
    symlinkSync(outside, join(path, "folder"));
    const error = await failure(openIn(path, "f"));
    expect(error.message).toMatch(/^f: expected a file inside the folder, got a symbolic link to ".*secret"$/);
    expect(error.advice.join()).toContain("--allow-symlinks");
    await failure(openIn(path, "folder/secret"));
    const allowed = await openFile(await openFolder(path, { allowSymlinks: true }), "f");
    expect(text(await allowed.read(0, 6))).toBe("secret");
  });

  test("links that lead to each other are no file", async () => {
    const path = tempFolder();
    symlinkSync("b", join(path, "a"));
    symlinkSync("a", join(path, "b"));
    expect((await failure(openIn(path, "a"))).message).toBe(
      "a: expected a file, got symbolic links that lead to each other",
    );
  });

  test("a folder whose name begins like ours is outside", async () => {
    const path = tempFolder({ "model-secret/f": "x" });
    mkdirSync(join(path, "model"));
    symlinkSync("../model-secret/f", join(path, "model/f"));
    await failure(openIn(join(path, "model"), "f"));
  });

  test("the Hugging Face cache layout works, within one repository", async () => {
    const cache = tempFolder({ "models--a--b/blobs/123": "blob", "models--c--d/blobs/456": "other", "blobs/7": "x" });
    const snapshot = join(cache, "models--a--b/snapshots/abc");
    mkdirSync(join(snapshot, "sub"), { recursive: true });
    symlinkSync("../../blobs/123", join(snapshot, "f"));
    symlinkSync("../../../blobs/123", join(snapshot, "sub/f"));
    symlinkSync("../../../models--c--d/blobs/456", join(snapshot, "g"));
    symlinkSync("../../../blobs/7", join(snapshot, "h"));
    symlinkSync("../../blobs/missing", join(snapshot, "i"));
    expect(text(await (await openIn(snapshot, "f")).read(0, 4))).toBe("blob");
    expect(text(await (await openIn(snapshot, "sub/f")).read(0, 4))).toBe("blob");
    expect(text(await (await openIn(join(snapshot, "sub"), "f")).read(0, 4))).toBe("blob");
    await failure(openIn(snapshot, "g"));
    await failure(openIn(snapshot, "h"));
    const dangling = await failure(openIn(snapshot, "i"));
    expect(dangling.message).toBe("i: expected a file, got a symbolic link to one that does not exist");
  });

  test("a folder, a FIFO and a device are refused at once", async () => {
    const path = tempFolder();
    mkdirSync(join(path, "folder"));
    execFileSync("mkfifo", [join(path, "fifo")]);
    symlinkSync("/dev/zero", join(path, "zero"));
    const folder = await openFolder(path, { allowSymlinks: true });
    const expected = { folder: "a folder", fifo: "a FIFO", zero: "a device" };
    for (const [name, got] of Object.entries(expected)) {
      expect((await failure(folder.open(name))).message).toBe(`${name}: expected a regular file, got ${got}`);
    }
  }, 5000);

  test("a FIFO that takes a file's place after the look does not hang", async () => {
    const path = tempFolder({ f: "x" });
    const files: NodeFiles = {
      ...nodeFiles,
      open: ((file: string, flags: number) => {
        unlinkSync(file);
        execFileSync("mkfifo", [file]);
        return nodeFiles.open(file, flags);
      }) as NodeFiles["open"],
    };
    const folder = await openFolder(path, { files });
    expect((await failure(folder.open("f"))).message).toBe("f: expected a regular file, got a FIFO");
  }, 5000);
});

describe("a file that changes while it is open", () => {
  const changes: [label: string, change: (path: string) => void, got: RegExp][] = [
    ["grown", (path) => appendFileSync(path, "more"), /got 14 bytes of /],
    ["cut", (path) => truncateSync(path, 5), /got 5 bytes of /],
    ["written again in the same size", (path) => writeFileSync(path, "9876543210"), /got 10 bytes of /],
    ["touched", (path) => utimesSync(path, new Date(), new Date(2000, 1)), /got 10 bytes of 2000-/],
    [
      "replaced",
      (path) => {
        writeFileSync(`${path}.new`, "0123456789");
        renameSync(`${path}.new`, path);
      },
      /got another file$/,
    ],
    ["removed", (path) => unlinkSync(path), /expected to find the file again, got ENOENT/],
  ];
  test.each(changes)("%s", async (_, change, got) => {
    const path = tempFolder({ f: "0123456789" });
    // An old time, so that a change is seen whatever the clock's grain.
    utimesSync(join(path, "f"), new Date(2020, 1), new Date(2020, 1));
    const source = await openIn(path, "f");
    await source.assertUnchanged();
    change(join(path, "f"));
    expect((await failure(source.assertUnchanged(), "io")).message).toMatch(got);
  });

  test("a read of what was cut off says so", async () => {
    const path = tempFolder({ f: "0123456789" });
    const source = await openIn(path, "f");
    truncateSync(join(path, "f"), 4);
    expect((await failure(source.read(0, 10), "io")).message).toBe("f: expected bytes 0 to 10, got the end at byte 4");
  });

  test("a folder that is gone is an io error, not a missing file", async () => {
    const path = tempFolder({ f: "x" });
    const folder = await openFolder(path);
    rmSync(path, { recursive: true });
    expect((await failure(folder.open("f"), "io")).exitCode).toBe(6);
    await failure(folder.list(), "io");
  });
});

describe("calls that fail", () => {
  test.each(["EIO", "EMFILE", "EACCES"])("%s at the k-th call is an io error, and nothing stays open", async (code) => {
    const path = tempFolder({ f: "0123456789" });
    let failures = 0;
    for (let failing = 0; ; failing++) {
      const { files, state } = failingFiles(failing, code);
      let error: unknown;
      try {
        const folder = await openFolder(path, { files });
        await folder.list();
        const source = await folder.open("f");
        try {
          await source?.read(0, 10);
          await source?.assertUnchanged();
        } finally {
          await source?.close();
        }
      } catch (thrown) {
        error = thrown;
      }
      expect(state.open).toBe(0);
      if (error === undefined) break;
      failures++;
      expect((await failure(Promise.reject(error), "io")).message).toContain(`${code}: injected`);
    }
    expect(failures).toBeGreaterThan(6);
  });
});

describe("httpFolder", () => {
  /** Serves `files` with ranges, or as `mode` says. */
  async function serve(files: Map<string, string>, mode: "ranges" | "whole" | "short" | "long" | "broken" = "ranges") {
    const server = createServer((request, response) => {
      const body = files.get(decodeURIComponent(request.url ?? ""));
      if (mode === "broken") return void response.writeHead(500).end();
      if (body === undefined) return void response.writeHead(404).end();
      const headers = { "content-length": body.length, etag: `"${body}"` };
      if (request.method === "HEAD") return void response.writeHead(200, headers).end();
      const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
      if (mode === "whole") return void response.writeHead(200, headers).end(body);
      const piece = body.slice(Number(from), Number(to) + 1);
      response.writeHead(206).end(mode === "short" ? piece.slice(1) : mode === "long" ? `${piece}x` : piece);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => {
      server.closeAllConnections();
      server.close();
    });
    const address = server.address();
    if (typeof address !== "object" || !address) throw new Error("no port");
    return httpFolder(`http://127.0.0.1:${address.port}/m`, fetch, ["b", "a"]);
  }

  test("reads ranges", async () => {
    const files = new Map([["/m/a b.json", "0123456789"]]);
    const folder = await serve(files);
    expect(await folder.list()).toEqual(["a", "b"]);
    expect(await folder.open("none")).toBeUndefined();
    const source = await openFile(folder, "a b.json");
    expect(source.sizeBytes).toBe(10);
    const into = new Uint8Array(4);
    expect(text(await source.read(3, 4, into))).toBe("3456");
    expect(text(into)).toBe("3456");
    expect(await source.read(0, 0)).toEqual(new Uint8Array(0));
    await source.assertUnchanged();
    files.set("/m/a b.json", "9876543210");
    await failure(source.assertUnchanged(), "io");
    files.delete("/m/a b.json");
    await failure(source.assertUnchanged(), "io");
    await failure(folder.open("../x"));
  });

  test("a server without ranges serves whole files only", async () => {
    const source = await openFile(await serve(new Map([["/m/f", "0123"]]), "whole"), "f");
    expect(text(await source.read(0, 4))).toBe("0123");
    expect((await failure(source.read(0, 3), "io")).message).toMatch(/expected HTTP status 206 .*, got 200/);
  });

  test("answers of another length are refused", async () => {
    const short = await openFile(await serve(new Map([["/m/f", "0123"]]), "short"), "f");
    expect((await failure(short.read(0, 4), "io")).message).toBe("f: expected bytes 0 to 4, got the end at byte 3");
    const long = await openFile(await serve(new Map([["/m/f", "0123"]]), "long"), "f");
    expect((await failure(long.read(0, 4), "io")).message).toMatch(/got more$/);
  });

  test("a server that fails or is not there is an io error", async () => {
    const broken = await serve(new Map(), "broken");
    expect((await failure(broken.open("f"), "io")).message).toBe("f: expected HTTP status 200, got 500");
    await failure(httpFolder("http://127.0.0.1:1/").open("f"), "io");
  });
});
