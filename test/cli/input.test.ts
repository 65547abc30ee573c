import { Readable } from "node:stream";
import { describe, expect, test } from "vitest";
import { decodeUtf8, invalidUtf8Offset, readText } from "../../cli/input.ts";

const never = new AbortController().signal;

describe("prompts from stdin (faults.md P3, P4)", () => {
  test.each([
    ["plain", [0x61, 0x62], -1],
    ["empty", [], -1],
    ["four bytes", [0xf0, 0x9f, 0x98, 0x80], -1],
    ["ff", [0x61, 0xff, 0x62], 1],
    ["lone continuation", [0x61, 0x80], 1],
    ["overlong slash", [0x61, 0xc0, 0xaf], 1],
    ["surrogate of CESU-8", [0x61, 0x62, 0xed, 0xa0, 0x80], 2],
    ["cut at the end", [0x61, 0xe2, 0x82], 1],
    ["cut in the middle", [0x61, 0xe2, 0x82, 0x61, 0x61, 0x61], 1],
    ["above U+10FFFF", [0xf4, 0x90, 0x80, 0x80], 0],
  ])("%s", (_, bytes, offset) => {
    expect(invalidUtf8Offset(Uint8Array.from(bytes))).toBe(offset);
  });

  test("the error names byte and offset; lossy replaces", () => {
    const bytes = Uint8Array.from([0x61, 0xff, 0x62]);
    expect(() => decodeUtf8(bytes, "stdin", false)).toThrow("stdin: expected UTF-8, got byte 0xff at offset 1");
    expect(decodeUtf8(bytes, "stdin", true)).toBe("a\ufffdb");
  });

  test("NUL, CR LF, BOM and U+2028 stay, also split over chunks", async () => {
    const text = "\ufeffa\u0000\r\nb\u2028 😀\n";
    const bytes = Buffer.from(text);
    const chunks = [...bytes].map((byte) => Buffer.from([byte]));
    expect(await readText(Readable.from(chunks), false, never)).toBe(text);
  });

  test("more than 64 MiB is refused", async () => {
    const chunk = Buffer.alloc(1 << 20);
    const stream = Readable.from(Array.from({ length: 65 }, () => chunk));
    await expect(readText(stream, false, never)).rejects.toThrow("stdin: expected at most 64 MiB");
  });

  test("an abort ends the reading", async () => {
    const abort = new AbortController();
    const waiting = readText(new Readable({ read() {} }), false, abort.signal);
    abort.abort();
    await expect(waiting).rejects.toThrow();
  });
});
