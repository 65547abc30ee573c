import { spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { findBundle } from "../../cli/swiftshader.ts";
import { executable, phi } from "./process.ts";

test.skipIf(process.platform !== "linux").each([["--help"], ["tokenize"], ["-n", "3", "Once upon a time"]])(
  "a full disk under stdout: one line, exit code 6 (phi %s)",
  (...args) => {
    const stdout = openSync("/dev/full", "w");
    const { status, stderr } = spawnSync(process.execPath, [executable, ...args], {
      stdio: ["pipe", stdout, "pipe"],
      input: "hello",
    });
    closeSync(stdout);
    const lines = String(stderr).split("\n");
    expect(status).toBe(6);
    expect(lines.filter((line) => line !== "" && !line.startsWith("Warning: "))).toEqual([
      expect.stringMatching(/^error: stdout: ENOSPC/),
    ]);
  },
);

describe("help and usage errors", () => {
  test("--help is quick, on stdout, and names every command", async () => {
    const { code, stdout, stderr } = await phi(["--help"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    for (const command of [
      "generate",
      "chat",
      "info",
      "verify",
      "logits",
      "devices",
      "tokenize",
      "detokenize",
      "completion",
    ])
      expect(stdout).toContain(command);
  });

  test.each(["generate", "chat", "info", "verify", "logits", "devices", "tokenize", "detokenize", "completion"])(
    "%s --help has an example",
    async (command) => {
      const { code, stdout } = await phi([command, "--help"]);
      expect(code).toBe(0);
      expect(stdout).toMatch(/Examples:\n {2}\$ .*phi/);
    },
  );

  test("help NAME is NAME --help", async () => {
    expect(await phi(["help", "pull"])).toEqual(await phi(["pull", "--help"]));
  });

  test("--version, with the adapter", async () => {
    const { stdout, code } = await phi(["--version"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^phi \d+\.\d+\.\d+ \(webgpu \d.*, Node .*\)\nadapter: .+\n$/);
  });

  test.each([
    [["--temperature", "hot", "x"], '--temperature: expected a finite number >= 0, got "hot"'],
    [["--temperature", "-1", "x"], '--temperature: expected a finite number >= 0, got "-1"'],
    [["--top-k", "-1", "x"], "--top-k: expected a whole number"],
    [["--top-p", "1.1", "x"], "--top-p: expected a number from 0 to 1"],
    [["--min-p", "NaN", "x"], "--min-p: expected a number from 0 to 1"],
    [["-n", "2147483648", "x"], "--max-tokens: expected a whole number from 0 to 2147483647"],
    [["--stop", "", "x"], "--stop: expected at least one character"],
    [["--seed", "abc", "x"], "--seed: expected a whole number"],
    [["--repeat-penalty", "0", "x"], "--repeat-penalty: expected a finite number > 0"],
    [["--logit-bias", "5=NaN", "x"], "--logit-bias: expected ID=VALUE"],
    [["--kv", "int3", "x"], "--kv: expected f16 or f32"],
    [["--activations", "int4", "x"], '--activations: expected f32 or int8, got "int4"'],
    [["--quantize", "int2", "x"], "--quantize: expected int4 or int8 or none"],
    [["--quantize-head", "q4", "x"], "--quantize-head: expected int4 or int8 or none"],
    [["--group-size", "32.0", "x"], "--group-size: expected 32 or 64 or 128"],
    [["--quantize-scheme", "", "x"], "--quantize-scheme: expected asymmetric or symmetric or"],
    [["--context", "0", "x"], "--context: expected a whole number from 1"],
    [["--ids", "1,x"], "--ids: expected token ids"],
    [["--ids", "1", "a prompt"], "--ids: expected no prompt beside it"],
    [["--raw", "--chat", "x"], "cannot be used with"],
    [["--nonsense", "x"], "unknown option '--nonsense'"],
    [["one", "two"], "too many arguments"],
    [["logits", "--ids", "1"], "-o, --output"],
    [["-m", "", "x"], '--model: expected a folder, got ""'],
  ])("phi %j", async (args, message) => {
    const { code, stdout, stderr } = await phi(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr.split("\n")[0]).toMatch(/^error: /);
    expect(stderr).toContain(message);
    expect(stderr.trimEnd().split("\n").length).toBeLessThanOrEqual(3);
  });

  test("what was typed is printed without its control characters", async () => {
    const { code, stderr } = await phi(["--\u001b[31mx"]);
    expect(code).toBe(2);
    expect(stderr).toContain("\\u001b[31mx");
    expect(stderr).not.toContain("\u001b");
  });
});

describe("adapters", () => {
  test("an unknown adapter is refused with the list of those there are", async () => {
    const { code, stdout, stderr } = await phi(["--adapter", "no such GPU", "x"]);
    expect({ code, stdout }).toEqual({ code: 4, stdout: "" });
    expect(stderr).toMatch(
      /^error: adapter: expected one of this machine's, got "no such GPU"\n {2}There is: .*null\.\n$/,
    );
  });

  test("without any driver and without the bundled one, the error says what to install", async () => {
    // A variable that names SwiftShader's manifest in a folder that is not there: nothing to restart with.
    const nowhere = "/nonexistent/vk_swiftshader_icd.json";
    const env = {
      VK_DRIVER_FILES: nowhere,
      VK_ICD_FILENAMES: nowhere,
      LD_LIBRARY_PATH: "/nonexistent",
      PHI_ADAPTER: "",
    };
    const { code, stdout, stderr } = await phi(["x"], { env });
    expect({ code, stdout }).toEqual({ code: 4, stdout: "" });
    expect(stderr).toMatch(/^error: no WebGPU adapter on this machine\n {2}Install/m);
    const named = await phi(["--adapter", "llvmpipe", "x"], { env });
    expect({ code: named.code, stdout: named.stdout }).toEqual({ code: 4, stdout: "" });
    expect(named.stderr).toMatch(
      /^error: adapter: expected one of this machine's, got "llvmpipe"\n {2}There is: .*null\.\n$/,
    );
  });

  test.skipIf(findBundle() === undefined)(
    "devices lists the bundled driver with its limits, as text and JSON",
    async () => {
      const env = { VK_DRIVER_FILES: "/none", VK_ICD_FILENAMES: "/none" };
      const { code, stdout, stderr } = await phi(["devices", "--json"], { env });
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      const reports = JSON.parse(stdout);
      expect(reports).toHaveLength(1);
      expect(reports[0]).toMatchObject({ backend: "vulkan", software: true, subgroupSizes: [4, 4] });
      expect(reports[0].name).toMatch(/SwiftShader/);
      expect(reports[0].limits.maxStorageBufferBindingSize).toBe(2 ** 30);
      const text = await phi(["devices"], { env });
      expect(text.stdout).toMatch(/^SwiftShader.*\n {2}driver {5}\S.*\n {2}backend {4}vulkan, computes on the CPU\n/);
    },
  );
});

test("a folder that is not there", async () => {
  const folder = mkdtempSync(join(tmpdir(), "phi-test-"));
  rmSync(folder, { recursive: true });
  const { code, stdout, stderr } = await phi(["-m", folder, "x"]);
  expect({ code, stdout }).toEqual({ code: 3, stdout: "" });
  expect(stderr).toContain("error: ");
});
