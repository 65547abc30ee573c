import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  bitsPerElement,
  readSafetensorsHeader,
  safetensorsBytes,
  safetensorsHeader,
} from "../../../engine/files/safetensors.ts";
import type { ByteSource } from "../../../engine/files/source.ts";
import { failure } from "../../tempFolder.ts";

/** A file in memory. */
function memory(bytes: Uint8Array, name = "model.safetensors"): ByteSource {
  return {
    name,
    sizeBytes: bytes.length,
    version: "1",
    async read(offset, length, into = new Uint8Array(length)) {
      if (offset + length > bytes.length) throw new Error(`read of [${offset}, ${offset + length}) past the end`);
      into.set(bytes.subarray(offset, offset + length));
      return into.subarray(0, length);
    },
    assertUnchanged: async () => undefined,
    close: async () => undefined,
  };
}

/** A file with this header text and `dataBytes` zeros after it. */
function file(header: string | Uint8Array, dataBytes = 0): ByteSource {
  const text = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return memory(bytes);
}

const one = (dtype: unknown, shape: string, begin: number | string, end: number | string) =>
  `{"a":{"dtype":${JSON.stringify(dtype)},"shape":${shape},"data_offsets":[${begin},${end}]}}`;

interface Case {
  readonly file: string;
  readonly sha256: string;
  readonly engine: "accept" | "reject";
  readonly reason: string;
}
const corpus = new URL("../../fixtures/badfiles/", import.meta.url);
const cases: Case[] = JSON.parse(readFileSync(new URL("manifest.json", corpus), "utf8")).files;
const corpusFile = (path: string) => new Uint8Array(readFileSync(new URL(path, corpus)));

describe("the corpus", () => {
  test("is complete", () => {
    expect(cases.length).toBe(95);
  });

  test.each(cases)("$engine $file: $reason", async ({ file, sha256, engine }) => {
    const bytes = corpusFile(file);
    expect(createHash("sha256").update(bytes).digest("hex")).toBe(sha256);
    const name = file.replace("files/", "");
    if (engine === "reject") {
      const error = await failure(readSafetensorsHeader(memory(bytes, name)));
      expect(error.message.startsWith(`${name}: `), error.message).toBe(true);
      expect(error.message).toMatch(/expected .+, got .+/);
      return;
    }
    const { tensors } = await readSafetensorsHeader(memory(bytes, name));
    const total = [...tensors.values()].reduce((sum, tensor) => sum + tensor.sizeBytes, 0);
    const header = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    expect(total).toBe(bytes.length - 8 - header);
  });

  const messages: [file: string, message: RegExp, advice?: RegExp][] = [
    ["frame_7_bytes", /expected at least 8 bytes .* got a file of 7 bytes/],
    ["frame_len_2e63", /a header length of 9223372036854775808 in a file of 84 bytes/],
    ["frame_len_1000", /expected a header of at most 76 bytes, got a header length of 1000/, /download it again/],
    ["other_git_lfs_pointer", /got a Git LFS pointer to a file of 988097824 bytes/, /git lfs pull/],
    ["other_gguf", /got a GGUF file/, /Only safetensors is read/],
    ["other_zip_pickle", /got a zip archive/],
    ["other_json_no_length", /got JSON without its length/],
    ["nul_padded", /byte 68\): expected the end of the JSON text, got byte 0x00/],
    ["dup_field", /in "a": expected each name once, got "dtype" again/],
    ["json_nan_literal", /in "a" "shape": expected a value, got "NaN"/],
    ["meta_number", /"__metadata__": expected a string for "n", got 1/],
    ["missing_dtype", /tensor "a": expected a dtype .*, got nothing/],
    ["dtype_gguf", /tensor "a": expected a dtype .*, got "Q4_0"/],
    ["shape_exponent", /tensor "a": expected a shape .*, got \[2e0, 2\]/],
    ["offs_truncated_2", /tensor "test": .* the file is 2 bytes short/, /interrupted download/],
    ["offs_trailing_1", /1 byte after it/],
    ["offs_overlap_part", /tensor "b": expected to begin at byte 16, the end of "a", got 8 \(an overlap\)/],
    ["offs_hole_middle", /tensor "b": expected to begin at byte 16, the end of "a", got 24 \(a hole\)/],
    ["offs_size_f16", /tensor "a": expected 8 bytes for F16 \[2, 2\], got 16 bytes at data_offsets \[0, 16\]/],
  ];
  test.each(messages)("%s is explained", async (name, message, advice) => {
    const error = await failure(readSafetensorsHeader(memory(corpusFile(`files/${name}.safetensors`))));
    expect(error.message).toMatch(message);
    if (advice) expect(error.advice.join("\n")).toMatch(advice);
  });

  test("names are data", async () => {
    const { tensors } = await readSafetensorsHeader(memory(corpusFile("files/ok_name_proto.safetensors")));
    expect([...tensors.keys()].sort()).toEqual(["__proto__", "constructor", "toString"]);
    const paths = await readSafetensorsHeader(memory(corpusFile("files/ok_name_path.safetensors")));
    expect([...paths.tensors.keys()]).toContain("../../etc/passwd");
  });

  test("an unaligned tensor has the bytes that were written", async () => {
    const bytes = corpusFile("files/ok_nan_inf.safetensors");
    const { tensors } = await readSafetensorsHeader(memory(bytes));
    const { offsetBytes = -1, sizeBytes = 0 } = tensors.get("a") ?? {};
    expect(offsetBytes % 4).not.toBe(0);
    const view = new DataView(bytes.slice(offsetBytes, offsetBytes + sizeBytes).buffer);
    expect([0, 4, 8, 12].map((at) => view.getFloat32(at, true))).toEqual([Number.NaN, Infinity, -Infinity, -0]);
  });
});

describe("headers made here", () => {
  const refused: [label: string, source: ByteSource, message: RegExp][] = [
    [
      "2^32 x 2^32 at [0, 0]",
      file(one("F32", "[4294967296,4294967296]", 0, 0)),
      /tensor "a": expected a size .*4294967296/,
    ],
    ["a product of 2^53", file(one("U8", "[9007199254740991,2]", 0, 16), 16), /expected a size/],
    ["a dimension of 10^30", file(one("U8", `[1${"0".repeat(30)}]`, 0, 16), 16), /expected a shape/],
    ["F6 that ends inside a byte", file(one("F6_E2M3", "[3]", 0, 3), 3), /expected a size in whole bytes/],
    ["a tensor that is a list", file('{"a":[]}'), /tensor "a": expected an object .*, got \[\]/],
    ["no shape", file('{"a":{"dtype":"F32","data_offsets":[0,4]}}', 4), /expected a shape .*, got nothing/],
    ["no offsets", file('{"a":{"dtype":"F32","shape":[1]}}', 4), /expected data_offsets .*, got nothing/],
    ["three offsets", file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}', 4), /got \[0, 4, 8\]/],
    ["offsets beyond 2^53", file(one("U8", "[1]", "9007199254740992", "9007199254740993"), 1), /expected data_offsets/],
    ["a dtype of the prototype", file(one("toString", "[1]", 0, 4), 4), /expected a dtype .*, got "toString"/],
    ["ESC in a name", file('{"\\u001b[31m":1}'), /tensor "\\u001b\[31m"/],
    ["two __metadata__", file('{"__metadata__":{},"__metadata__":{}}'), /each name once/],
    ["10 000 levels", file("[".repeat(10_000)), /expected an object/],
    ["10 000 levels in a tensor", file(`{"a":${"[".repeat(10_000)}`), /at most 100 levels/],
    ["a web page", memory(new TextEncoder().encode("<!DOCTYPE html>\n<html><body>404</body></html>")), /got an HTML/],
    ["a web page after blanks", memory(new TextEncoder().encode("\n\n<html>404</html>")), /got an HTML/],
  ];
  test.each(refused)("%s is refused", async (_, source, message) => {
    expect((await failure(readSafetensorsHeader(source))).message).toMatch(message);
  });

  test("a name of 100 000 letters is loaded, and cut in messages", async () => {
    const name = "x".repeat(100_000);
    const ok = await readSafetensorsHeader(file(`{"${name}":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1));
    expect(ok.tensors.has(name)).toBe(true);
    const bad = await failure(
      readSafetensorsHeader(file(`{"${name}":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}`, 1)),
    );
    expect(bad.message.length).toBeLessThan(400);
  });

  test("a shape of a million dimensions costs a short message", async () => {
    const shape = `[${"9007199254740991,".repeat(1_000_000)}1]`;
    expect((await failure(readSafetensorsHeader(file(one("U8", shape, 0, 1), 1)))).message.length).toBeLessThan(600);
  });

  test("a length beyond the file is refused before anything is read but the first bytes", async () => {
    const reads: number[] = [];
    const bytes = corpusFile("files/frame_len_100000000_short.safetensors");
    const source = memory(bytes);
    const counting: ByteSource = {
      ...source,
      read: (offset, length, into) => {
        reads.push(length);
        return source.read(offset, length, into);
      },
    };
    await failure(readSafetensorsHeader(counting));
    expect(reads).toEqual([bytes.length]);
  });
});

describe("large headers", () => {
  async function cpuSeconds(work: () => Promise<unknown>): Promise<number> {
    const before = process.cpuUsage();
    await work();
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1e6;
  }

  test("100 MB of blanks are refused in 2 s of processor time, within 3 times their memory", async () => {
    const blanks = 100_000_000;
    const source: ByteSource = {
      ...memory(new Uint8Array(0)),
      sizeBytes: blanks + 8,
      async read(offset, length) {
        const bytes = new Uint8Array(length).fill(0x20);
        if (offset === 0) new DataView(bytes.buffer).setBigUint64(0, BigInt(blanks), true);
        return bytes;
      },
    };
    const rssBefore = process.memoryUsage.rss();
    let message = "";
    const seconds = await cpuSeconds(async () => {
      message = (await failure(readSafetensorsHeader(source))).message;
    });
    expect(message).toContain('expected an object that begins with "{", got the end');
    expect(seconds).toBeLessThan(2);
    expect(process.resourceUsage().maxRSS * 1024 - rssBefore).toBeLessThan(3 * blanks);
  });

  test("a header of more values than half a million tensors have is given up", async () => {
    const shape = `[${"1,".repeat(4_000_000)}1]`;
    const error = await failure(readSafetensorsHeader(file(one("U8", shape, 0, 1), 1)));
    expect(error.message).toMatch(/in "a" "shape": expected at most 4000000 values, got more$/);
  });

  test("100 000 overlapping tensors are refused in 2 s of processor time", async () => {
    const entries = Array.from(
      { length: 100_000 },
      (_, i) => `"t${i}":{"dtype":"U8","shape":[16],"data_offsets":[0,16]}`,
    );
    const source = file(`{${entries.join(",")}}`, 16);
    let message = "";
    const seconds = await cpuSeconds(async () => {
      message = (await failure(readSafetensorsHeader(source))).message;
    });
    expect(message).toMatch(/tensor "t\d+": expected to begin at byte 16, the end of "t\d+", got 0 \(an overlap\)/);
    expect(seconds).toBeLessThan(2);
  });
});

describe("writing", () => {
  test("what is written is read back, aligned to its elements", async () => {
    const metadata = new Map([
      ["format", "pt"],
      ["__proto__", "x"],
    ]);
    const tensors = [
      { name: "half", dtype: "F16" as const, shape: [3], data: Uint8Array.of(1, 2, 3, 4, 5, 6) },
      { name: "__proto__", dtype: "U8" as const, shape: [], data: Uint8Array.of(7) },
      { name: "0 \u001b", dtype: "F32" as const, shape: [2, 1], data: Uint8Array.of(8, 9, 10, 11, 12, 13, 14, 15) },
      { name: "empty", dtype: "I64" as const, shape: [0, 5], data: new Uint8Array(0) },
    ];
    const bytes = safetensorsBytes(tensors, metadata);
    const header = await readSafetensorsHeader(memory(bytes));
    expect(header.metadata).toEqual(metadata);
    expect(header.tensors.size).toBe(tensors.length);
    for (const { name, dtype, shape, data } of tensors) {
      const elementBytes = bitsPerElement(dtype) / 8;
      const info = header.tensors.get(name);
      expect(info).toMatchObject({ name, dtype, shape, sizeBytes: data.length });
      const offset = info?.offsetBytes ?? 0;
      expect(bytes.slice(offset, offset + data.length)).toEqual(data);
      expect(offset % elementBytes).toBe(0);
    }
    expect((8 + Number(new DataView(bytes.buffer).getBigUint64(0, true))) % 8).toBe(0);
  });

  test("a header alone fits data written after it", async () => {
    const header = safetensorsHeader([{ name: "logits", dtype: "F32", shape: [2, 3] }]);
    const whole = new Uint8Array(header.length + 24);
    whole.set(header);
    const { tensors } = await readSafetensorsHeader(memory(whole));
    expect(tensors.get("logits")).toMatchObject({ offsetBytes: header.length, sizeBytes: 24 });
  });

  test("what would not be read back is our own mistake", async () => {
    const spec = { name: "a", dtype: "F32" as const, shape: [2] };
    await failure(() => safetensorsBytes([{ ...spec, data: new Uint8Array(4) }]), "internal");
    await failure(() => safetensorsHeader([spec, spec]), "internal");
    await failure(() => safetensorsHeader([{ ...spec, name: "__metadata__" }]), "internal");
    await failure(() => safetensorsHeader([{ ...spec, name: "\ud800" }]), "internal");
    await failure(() => safetensorsHeader([{ ...spec, dtype: "F4", shape: [3] }]), "internal");
  });
});
