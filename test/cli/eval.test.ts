import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { tempFolder } from "../tempFolder.ts";
import { phi } from "./process.ts";

const story =
  "Once upon a time, there was a little girl named Anna. She lived near the garden with her family. It was a snowy day.\n";
const phi4 = join(import.meta.dirname, "../fixtures/models/phi-4");

function textFile(content: string | Uint8Array): string {
  return join(tempFolder({ "text.txt": content }), "text.txt");
}

test("the bundled model knows its stories; the cache's rounding is all that tells it from itself", async () => {
  const args = ["eval", "--text", textFile(story), "--context", "16", "--stride", "8", "--against", "none", "--json"];
  const { code, stdout } = await phi(args);
  expect(code).toBe(0);
  const { against, ...report } = JSON.parse(stdout);
  expect(report).toMatchObject({ tokens: 24, windows: 2, context: 16, stride: 8, top1_agreement: 1 });
  expect(report.perplexity).toBeCloseTo(Math.exp(report.mean_nll), 9);
  // A uniform guess has 1024.
  expect(report.perplexity).toBeLessThan(60);
  expect(report.max_kl).toBeGreaterThan(0);
  expect(report.mean_kl).toBeLessThan(1e-5);
  expect(against.perplexity).toBeCloseTo(report.perplexity, 2);
  const { stdout: table } = await phi(args.slice(0, -1));
  expect(table).toMatch(/^tokens +24 of the text's \d+: windows of 16: 2, 8 apart$/m);
  expect(table).toMatch(/^mean kl +\d\.\d{3}e-\d+ nats, base \|\| this$/m);
});

describe("refused before an adapter is looked for", () => {
  test.each<[string | Uint8Array | undefined, readonly string[], number, RegExp]>([
    ["", [], 2, /^error: --text: expected a text of at least 2 tokens, got none in .*text\.txt$/],
    ["a", [], 2, /^error: --text: expected a text of at least 2 tokens, got 1 in /],
    [Uint8Array.of(0x61, 0xff), [], 2, /^error: .*text\.txt: expected UTF-8, got byte 0xff at offset 1$/],
    [undefined, [], 6, /^error: --text: .*: cannot be read: ENOENT/],
    [story, ["--context", "8", "--stride", "9"], 2, /^error: --stride: expected at most the context of 8, got 9$/],
    [story, ["--windows", "0"], 2, /^error: --windows: expected a whole number from 1/],
    [story, ["--against", phi4], 2, /^error: --against: expected a model with the same vocabulary of 1024, got \d+$/],
    [story, ["-m", phi4], 3, /expected tokenizer\.json, got no such file/],
  ])("%j %j", async (text, args, exitCode, message) => {
    const path = text === undefined ? join(tempFolder(), "nowhere") : textFile(text);
    const { code, stdout, stderr } = await phi(["eval", "--text", path, ...args, "--adapter", "nothing of that name"]);
    expect({ code, stdout }).toEqual({ code: exitCode, stdout: "" });
    expect(stderr.split("\n", 1)[0]).toMatch(message);
  }); // biome-ignore format: a table
});
