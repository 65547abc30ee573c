import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findBundle } from "../../cli/swiftshader.ts";
import { executable, phi } from "./process.ts";

const phiTiny = join(import.meta.dirname, "../../models/phi-tiny");

interface Case {
  readonly prompt: string;
  readonly prompt_ids: readonly number[];
  readonly greedy_ids: readonly number[];
  readonly greedy_text: string;
}
const { cases } = JSON.parse(readFileSync(join(phiTiny, "expected.json"), "utf8")) as {
  readonly cases: readonly Case[];
};
const [story] = cases;
if (story === undefined) throw new Error("expected.json has no cases");

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "phi-test-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** phi-tiny without the files that a tokenizer is read from. */
function withoutTokenizer(): string {
  const copy = mkdtempSync(join(folder, "plain-"));
  for (const name of readdirSync(phiTiny)) {
    if (!name.startsWith("tokenizer")) copyFileSync(join(phiTiny, name), join(copy, name));
  }
  return copy;
}

describe("phi generate on the bundled model", () => {
  test("writes the reference story to stdout and nothing but it", async () => {
    const { code, stdout, stderr } = await phi([story.prompt]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout.trimEnd()).toBe(story.greedy_text.replace("<|endoftext|>", "").trimEnd());
  });

  test("takes the prompt from stdin, byte for byte", async () => {
    const { code, stdout } = await phi(["--json"], { stdin: story.prompt });
    expect(code).toBe(0);
    const { token_ids, finish_reason, stats } = JSON.parse(stdout);
    expect(token_ids).toEqual(story.greedy_ids);
    expect(finish_reason).toBe("eos");
    expect(stats).toMatchObject({ prompt_tokens: story.prompt_ids.length });
  });

  test("--ids needs no tokenizer; the text is null then", async () => {
    const ids = story.prompt_ids.join(",");
    const { code, stdout, stderr } = await phi(["-m", withoutTokenizer(), "--ids", ids, "-n", "5", "--json"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(JSON.parse(stdout)).toMatchObject({
      text: null,
      token_ids: story.greedy_ids.slice(0, 5),
      finish_reason: "length",
    });
  });

  test("a prompt without a tokenizer is refused", async () => {
    const { code, stderr } = await phi(["-m", withoutTokenizer(), "x"]);
    expect(code).toBe(3);
    expect(stderr).toContain("expected tokenizer.json");
  });

  test("stop strings end the text before them, also when split over tokens", async () => {
    const text = story.greedy_text;
    const at = text.indexOf(" ", 40);
    const stop = text.slice(at - 3, at + 4);
    const { stdout } = await phi([story.prompt, "--json", "--stop", "no such text", "--stop", stop]);
    const result = JSON.parse(stdout);
    expect(result.text).toBe(text.slice(0, text.indexOf(stop)));
    expect(result.finish_reason).toBe("stop");
    expect(result.token_ids).toEqual(story.greedy_ids.slice(0, result.token_ids.length));
    expect(result.token_ids.length).toBeLessThan(story.greedy_ids.length);
  });

  test("-n 0 is the prompt only", async () => {
    const { code, stdout } = await phi([story.prompt, "-n", "0", "--json"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ text: "", token_ids: [], finish_reason: "length" });
  });

  test("an empty prompt begins with the model's own token", async () => {
    const { code, stdout } = await phi(["", "-n", "3", "--json"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout).stats.prompt_tokens).toBe(1);
  });

  test("the same seed gives the same text; a chosen seed is printed", async () => {
    const run = (seed: readonly string[]) => phi([story.prompt, "-n", "20", "--temperature", "1.5", ...seed]);
    const [first, again, other, free] = await Promise.all([
      run(["--seed", "7"]),
      run(["--seed", "7"]),
      run(["--seed", "8"]),
      run([]),
    ]);
    expect(first.code).toBe(0);
    expect(first.stdout).toBe(again.stdout);
    expect(first.stdout).not.toBe(other.stdout);
    const seed = /^seed: (\d+)$/m.exec(free.stderr)?.[1];
    expect(seed).toBeDefined();
    expect((await run(["--seed", seed ?? ""])).stdout).toBe(free.stdout);
  });

  test("a prompt longer than the context is refused with both numbers", async () => {
    const ids = Array.from({ length: 9 }, () => "5").join(",");
    const { code, stdout, stderr } = await phi(["--ids", ids, "--context", "8"]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain("error: prompt is 9 tokens, context is 8");
  });

  test("a full context ends the text and says so", async () => {
    const { code, stdout, stderr } = await phi([story.prompt, "--context", "12", "--json"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout).finish_reason).toBe("context");
    expect(stderr).toContain("context of 12 tokens is full");
  });

  test.each([
    [["--ids", "1024"], "--ids: expected token ids below this model's vocabulary of 1024"],
    [["--logit-bias", "1024=1", "x"], "--logit-bias: expected token ids below"],
  ])("phi %j is refused once the model is known", async (args, message) => {
    const { code, stdout, stderr } = await phi(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(message);
  });

  test("--chat renders the model's template, and is refused without one", async () => {
    const { code, stdout } = await phi(["--chat", "What does a cow say?", "-n", "1", "--json"]);
    expect(code).toBe(0);
    const rendered = await phi(["tokenize", "--chat"], {
      stdin: JSON.stringify([{ role: "user", content: "What does a cow say?" }]),
    });
    expect(JSON.parse(stdout).stats.prompt_tokens).toBe(JSON.parse(rendered.stdout).length);
    const plain = withoutTokenizer();
    copyFileSync(join(phiTiny, "tokenizer.json"), join(plain, "tokenizer.json"));
    const refused = await phi(["-m", plain, "--chat", "x"]);
    expect({ code: refused.code, stdout: refused.stdout }).toEqual({ code: 2, stdout: "" });
    expect(refused.stderr).toContain("--chat: expected a model with a chat template");
  });

  test("invalid UTF-8 on stdin is refused with its offset", async () => {
    const { code, stderr } = await phi([], { stdin: Uint8Array.from([0x4f, 0x6e, 0xff]) });
    expect(code).toBe(2);
    expect(stderr).toContain("stdin: expected UTF-8, got byte 0xff at offset 2");
  });

  test("--stats go to stderr, --explain to stdout", async () => {
    const { stdout, stderr } = await phi([story.prompt, "-n", "4", "--stats"]);
    expect(stderr).toMatch(/^prefill {2}4 tokens in .*tokens\/s/m);
    expect(stderr).toMatch(/^memory .*weights/m);
    expect(stdout).not.toContain("tokens/s");
    const plan = await phi(["--explain"]);
    expect(plan.code).toBe(0);
    expect(plan.stdout.split("\n").length).toBeGreaterThan(10);
  });

  test.skipIf(findBundle() === undefined)(
    "without any driver it runs on the bundled one, saying so in one line",
    async () => {
      const env = { VK_DRIVER_FILES: "/none", VK_ICD_FILENAMES: "/none", PHI_ADAPTER: "" };
      const { code, stdout, stderr } = await phi(["--json"], { env, stdin: story.prompt });
      expect(code).toBe(0);
      expect(stderr).toBe("note: no GPU or Vulkan driver found; running on SwiftShader, a slow software driver\n");
      expect(JSON.parse(stdout).token_ids).toEqual(story.greedy_ids);
      const failing = await phi(["--ids", "1024"], { env });
      expect(failing.code).toBe(2);
    },
  );
});

describe("the process (faults.md R)", () => {
  const endless = ["--ignore-eos", "-n", "1000", "Once upon a time"];

  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ] as const)("%s during the text ends it within a second with %i", async (signal, expected) => {
    let sentMs = 0;
    const { code, stdout, stderr } = await phi(endless, {
      started: (child) =>
        child.stdout?.once("data", () => {
          sentMs = performance.now();
          child.kill(signal);
        }),
    });
    expect({ code, stderr }).toEqual({ code: expected, stderr: "" });
    expect(performance.now() - sentMs).toBeLessThan(1000);
    expect(stdout.length).toBeGreaterThan(0);
  });

  // PHI_TEST_SIGNALS=20 takes that many random instants of the start, the load and the text.
  const instants = Array.from({ length: Number(process.env.PHI_TEST_SIGNALS ?? 0) }, () => Math.random() * 1000);
  test.each([20, 150, 400, 700, ...instants.map(Math.round)])(
    "SIGINT %i ms after the start ends it with 130",
    async (delayMs) => {
      const { code, signal, stderr } = await phi(endless, {
        started: (child) => setTimeout(() => child.kill("SIGINT"), delayMs),
      });
      // Before the handlers are there the signal itself ends the process, which a shell shows as 130 too.
      expect(signal === "SIGINT" || code === 130).toBe(true);
      expect(stderr).toBe("");
    },
  );

  test.skipIf(findBundle() === undefined)("a signal reaches the process that was started anew", async () => {
    const env = { VK_DRIVER_FILES: "/none", VK_ICD_FILENAMES: "/none", PHI_ADAPTER: "" };
    const { code } = await phi(endless, {
      env,
      started: (child) => child.stdout?.once("data", () => child.kill("SIGTERM")),
    });
    expect(code).toBe(143);
  });

  test("a closed stdout ends it quietly with 141", async () => {
    const { code, stderr } = await phi(endless, {
      started: (child) => child.stdout?.once("data", () => child.stdout?.destroy()),
    });
    expect({ code, stderr }).toEqual({ code: 141, stderr: "" });
  });
});

describe("phi logits", () => {
  test("writes every position, whose last argmax is the next token", async () => {
    const output = join(folder, "logits.safetensors");
    const { code, stdout, stderr } = await phi(["logits", "--ids", story.prompt_ids.join(","), "-o", output]);
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: "", stderr: "" });
    const bytes = readFileSync(output);
    const headerBytes = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString("utf8", 8, 8 + headerBytes));
    const rows = story.prompt_ids.length;
    expect(header).toEqual({ logits: { dtype: "F32", shape: [rows, 1024], data_offsets: [0, rows * 4096] } });
    expect(bytes.length).toBe(8 + headerBytes + rows * 4096);
    const last = Array.from({ length: 1024 }, (_, i) => bytes.readFloatLE(bytes.length - 4096 + i * 4));
    expect(last.indexOf(Math.max(...last))).toBe(story.greedy_ids[0]);
    expect(readdirSync(folder).filter((name) => name.includes("incomplete"))).toEqual([]);
  });

  test("into a pipe, which is no file to be replaced", () => {
    const script = '"$0" "$1" logits --ids 1,2 -o /dev/stdout 2>/dev/null | wc -c';
    const { stdout } = spawnSync("sh", ["-c", script, process.execPath, executable], { encoding: "utf8" });
    expect(Number(stdout)).toBeGreaterThan(2 * 4096);
    expect(statSync("/dev/stdout").isFile()).toBe(false);
  });

  test("a folder that cannot be written is an input/output error that leaves nothing", async () => {
    const { code, stderr } = await phi(["logits", "--ids", "1", "-o", join(folder, "none/logits.safetensors")]);
    expect(code).toBe(6);
    expect(stderr).toMatch(/^error: .*logits\.safetensors: cannot be written/);
  });
});

describe("phi tokenize and detokenize", () => {
  test("agree with the reference ids, without adapter or weights", async () => {
    const env = { PHI_ADAPTER: "no such adapter" };
    const { code, stdout } = await phi(["tokenize"], { stdin: story.prompt, env });
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual(story.prompt_ids);
    expect((await phi(["detokenize"], { stdin: stdout, env })).stdout).toBe(story.prompt);
  });

  test.each([
    [["detokenize"], "[1,", "stdin: expected JSON"],
    [["detokenize"], "{}", "stdin: expected a JSON array of token ids, got an object"],
    [["detokenize"], "[1,-1]", "stdin: [1]: expected a token id, got -1"],
    [["tokenize", "--chat"], "[1]", "stdin: [0]: expected an object { role, content }, got 1"],
    [
      ["tokenize", "--chat"],
      '{"role":"user"}',
      "stdin: expected a JSON array of messages { role, content }, got an object",
    ],
    [["tokenize", "--chat"], '[{"role":"user"}]', "stdin: [0].content: expected a string, got nothing"],
    [
      ["tokenize", "--chat"],
      '[{"role":"user","content":["a"]}]',
      "stdin: [0].content: expected a string, got a list of 1",
    ],
  ])("phi %j refuses %s", async (args, stdin, message) => {
    const { code, stdout, stderr } = await phi(args, { stdin });
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(message);
  });
});
