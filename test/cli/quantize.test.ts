import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { writeFolder } from "../../cli/quantize.ts";
import { failingFiles } from "../failingFiles.ts";
import { failure, tempFolder } from "../tempFolder.ts";
import { phi } from "./process.ts";

describe("phi quantize", () => {
  test("writes a checkpoint that runs, and not over another one", async () => {
    const parent = tempFolder();
    const output = join(parent, "tiny");
    mkdirSync(output); // an empty folder may be there
    const { code, stdout, stderr } = await phi(["quantize", "-o", output, "--group-size", "64"]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: "" });
    expect(stderr).toMatch(/^note: .*tiny: 36 modules in int4, 1\.2 MiB$/m);
    expect(readdirSync(parent)).toEqual(["tiny"]);
    const run = await phi(["-m", output, "Once upon a time", "-n", "4", "--json"]);
    expect(run.code).toBe(0);
    expect(JSON.parse(run.stdout).token_ids).toHaveLength(4);

    const again = await phi(["quantize", "-o", output]);
    expect(again.code).toBe(2);
    expect(again.stderr).toMatch(/^error: --output: expected an empty folder or a new one, got one with 5 entries: /);
    const twice = await phi(["quantize", "-m", output, "-o", join(parent, "twice")]);
    expect(twice.code).toBe(3);
    expect(twice.stderr).toMatch(/"quantization_config": expected none, /);
    expect(readdirSync(parent)).toEqual(["tiny"]);
  });

  test("interrupted, it leaves nothing", async () => {
    const parent = tempFolder();
    const { code } = await phi(["quantize", "-o", join(parent, "tiny")], {
      started(child) {
        const timer = setInterval(() => {
          if (!readdirSync(parent).some((name) => name.endsWith(".incomplete"))) return;
          clearInterval(timer);
          child.kill("SIGINT");
        }, 1);
        child.on("close", () => clearInterval(timer));
      },
    });
    expect(code).toBe(130);
    expect(readdirSync(parent)).toEqual([]);
  });

  test("Dawn's null backend computes nothing: refused", async () => {
    const parent = tempFolder();
    const { code, stderr } = await phi(["quantize", "-o", join(parent, "tiny"), "--adapter", "null"]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/^error: --adapter: expected one that computes, got null$/m);
    expect(readdirSync(parent)).toEqual([]);
  });
});

describe("a folder that is written whole or not at all", () => {
  const write = async (output: Parameters<Parameters<typeof writeFolder>[1]>[0], name: string) => {
    const file = await output.create(name, 6);
    await file.write(4, Uint8Array.of(5, 6));
    await file.write(0, Uint8Array.of(1, 2, 3, 4));
    await file.close();
  };

  test("pieces in any order; its place is taken at the end", async () => {
    const parent = tempFolder();
    const path = join(parent, "out");
    const result = await writeFolder(path, async (output) => {
      await write(output, "a");
      expect(existsSync(path)).toBe(false);
      return 7;
    });
    expect(result).toBe(7);
    expect(readdirSync(parent)).toEqual(["out"]);
    expect([...readFileSync(join(path, "a"))]).toEqual([1, 2, 3, 4, 5, 6]);
  });

  test.each<[string, Parameters<typeof writeFolder>[1], RegExp]>([
    [
      "too little space",
      async (_, checkSpace) => checkSpace(2 ** 60),
      /expected 1024 PiB of free space, got |free space/,
    ],
    [
      "a name that is taken",
      async (output) => write(output, "a").then(() => write(output, "a")),
      /^a: cannot be written: EEXIST/,
    ],
  ])("%s", async (_name, work, message) => {
    const parent = tempFolder();
    expect((await failure(writeFolder(join(parent, "out"), work), "io")).message).toMatch(message);
    expect(readdirSync(parent)).toEqual([]);
  });

  test.each(["ENOSPC", "EIO"])("%s at the k-th call: one io error, nothing is left or stays open", async (code) => {
    const parent = tempFolder();
    const path = join(parent, "out");
    for (let k = 0; ; k++) {
      const { files, state } = failingFiles(k, code);
      const work: Parameters<typeof writeFolder>[1] = async (output) => {
        for (const name of ["a", "b"]) {
          const file = await output.create(name, 4);
          await file.write(0, Uint8Array.of(1, 2, 3, 4)).finally(() => file.close());
        }
      };
      const written = writeFolder(path, work, files);
      const error = await written.then(
        () => undefined,
        (reason: unknown) => reason,
      );
      expect(state.open, `at call ${k}`).toBe(0);
      if (k >= state.calls) {
        expect(error).toBeUndefined();
        expect(k).toBeGreaterThan(10);
        break;
      }
      expect((await failure(Promise.reject(error), "io")).message, `at call ${k}`).toMatch(/cannot be written: /);
      expect(readdirSync(parent), `at call ${k}`).toEqual([]);
    }
    expect(readdirSync(path).sort()).toEqual(["a", "b"]);
  });

  test("a place that cannot be written is refused before the work", async () => {
    const parent = tempFolder({ full: "a file" });
    const work = async () => expect.unreachable();
    for (const path of [join(parent, "none", "out"), join(parent, "full", "out")]) {
      const error = await failure(writeFolder(path, work), "io");
      expect(error.message).toMatch(/out: cannot be written: (ENOENT|ENOTDIR)/);
    }
    mkdirSync(join(parent, "out"));
    writeFileSync(join(parent, "out", "x"), "");
    await failure(writeFolder(join(parent, "out"), work), "io");
    expect(readdirSync(parent).sort()).toEqual(["full", "out"]);
  });
});
