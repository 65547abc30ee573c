import { execFileSync } from "node:child_process";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { tempFolder } from "../tempFolder.ts";
import { phi } from "./process.ts";

const { cases } = JSON.parse(readFileSync(join(import.meta.dirname, "../../models/phi-tiny/expected.json"), "utf8"));
const [{ prompt, prompt_ids, greedy_ids }] = cases;

const lines = (path: string): Record<string, unknown>[] =>
  readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line));

test.skipIf(process.platform !== "linux")("a full disk is one io error; a FIFO of prompts is refused", async () => {
  const folder = tempFolder({ "prompts.jsonl": JSON.stringify({ ids: [1] }) });
  const full = await phi(["--prompts", join(folder, "prompts.jsonl"), "-o", "/dev/full", "-n", "1"]);
  expect({ code: full.code, stdout: full.stdout }).toEqual({ code: 6, stdout: "" });
  expect(full.stderr).toMatch(/^error: \/dev\/full: cannot be written: ENOSPC/m);
  execFileSync("mkfifo", [join(folder, "fifo")]);
  const fifo = await phi(["--prompts", join(folder, "fifo"), "-o", join(folder, "out")]);
  expect(fifo.code).toBe(2);
  expect(fifo.stderr).toContain("--prompts: expected a file, got a pipe or a device");
});

test("a result a line in the order of the prompts; lines that fail are results too", async () => {
  const folder = tempFolder({
    "prompts.jsonl": [
      JSON.stringify({ id: "story", prompt, max_tokens: 5 }),
      JSON.stringify({ ids: prompt_ids }),
      "",
      "{ not json",
      JSON.stringify({ prompt, temperature: 1, seed: "18446744073709551615", max_tokens: 4, id: 7 }),
      JSON.stringify({ prompt: "a\u2028b", max_tokens: 1 }), // a line's end to some readers
      JSON.stringify({ id: "both", prompt, ids: [1] }),
      JSON.stringify({ prompt, max_tokens: -1 }),
      JSON.stringify({ prompt, max_token: 3 }),
      JSON.stringify({ messages: [{ role: "user", content: 1 }] }),
      JSON.stringify({ ids: [1, 2, 4096] }),
      JSON.stringify({ ids: Array(2000).fill(1) }),
      JSON.stringify({ prompt, stop: [" "], max_tokens: 3 }), // and without a line's end
    ].join("\n"),
  });
  const prompts = join(folder, "prompts.jsonl");
  const out = join(folder, "out.jsonl");
  const { code, stdout, stderr } = await phi(["--prompts", prompts, "-o", out, "-n", "3"]);
  expect({ code, stdout }).toEqual({ code: 0, stdout: "" });
  expect(stderr).toMatch(/^note: 5 prompts done, 7 failed; \d+ new tokens in [\d.]+ s$/m);
  const results = lines(out);
  expect(results.map(({ id }) => id)).toEqual(["story", 2, 4, 7, 6, "both", 8, 9, 10, 11, 12, 13]);
  expect(results[0]).toMatchObject({ token_ids: greedy_ids.slice(0, 5), finish_reason: "length", seed: null });
  expect(results[1]).toMatchObject({ token_ids: greedy_ids.slice(0, 3), stats: { prompt_tokens: prompt_ids.length } });
  expect(results[3]).toMatchObject({ seed: "18446744073709551615", token_ids: { length: 4 } });
  expect(results[4]).not.toHaveProperty("error");
  expect(results[11]).toMatchObject({ finish_reason: "stop" });
  expect([2, 5, 6, 7, 8, 9, 10].map((line) => String(results[line]?.error))).toEqual([
    expect.stringMatching(/^the line: expected JSON, got /),
    'the line: expected one of "prompt", "messages", "ids", got prompt and ids',
    expect.stringMatching(/^"max_tokens": expected a whole number from 0 to /),
    expect.stringMatching(/^the line: expected fields among .*, got "max_token"$/),
    '"messages": [0].content: expected a string, got 1',
    expect.stringMatching(/^"ids": expected token ids below this model's vocabulary of 1024/),
    "prompt is 2000 tokens, context is 1024",
  ]);

  // As after a crash: three results, and a part of the fourth. The rest comes out as before.
  const whole = readFileSync(out, "utf8");
  writeFileSync(out, `${whole.split("\n").slice(0, 3).join("\n")}\n{"id":7,"te`);
  const again = await phi(["--prompts", prompts, "-o", out, "-n", "3"]);
  expect(again.stderr).toMatch(/^note: 3 prompts done, 6 failed, 3 there already; /m);
  const content = ({ stats, ...rest }: Record<string, unknown>) => rest;
  expect(lines(out).map(content)).toEqual(results.map(content));

  // Nothing is left to do, and nothing is changed.
  const complete = readFileSync(out, "utf8");
  const idle = await phi(["--prompts", prompts, "-o", out]);
  expect(idle.stderr).toContain("note: 0 prompts done, 0 failed, 12 there already");
  expect(readFileSync(out, "utf8")).toBe(complete);

  // Results of other prompts are not added to.
  writeFileSync(prompts, JSON.stringify({ id: "another", prompt }));
  const other = await phi(["--prompts", prompts, "-o", out]);
  expect(other.code).toBe(2);
  expect(other.stderr).toContain('out.jsonl: line 1: expected the result of "another", got that of "story"');
  appendFileSync(out, "no result\n");
  const damaged = await phi(["--prompts", prompts, "-o", out]);
  expect(damaged.stderr).toContain("out.jsonl: line 13: expected a result of phi generate --prompts");
});

test.each([
  [["--prompts", "none.jsonl", "-o", "x"], '--prompts: expected a file, got none of that name: "none.jsonl"'],
  [["--prompts", import.meta.filename], "--prompts: expected -o FILE"],
  [["--prompts", import.meta.filename, "-o", import.meta.filename], "-o: expected another file"],
  [["--prompts", import.meta.filename, "-o", "x", "--ids", "1"], "--prompts: expected no --ids beside it"],
  [["--prompts", import.meta.filename, "-o", "x", "a prompt"], "--prompts: expected no prompt beside it"],
])("phi %j", async (args, message) => {
  const { code, stdout, stderr } = await phi(args);
  expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
  expect(stderr).toContain(message);
});
