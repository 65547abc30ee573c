/** What is refused before the weights are loaded, and before an adapter is needed. */
import { cpSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { tempFolder } from "../tempFolder.ts";
import { phi } from "./process.ts";

const phiTiny = join(import.meta.dirname, "../../models/phi-tiny");
const noAdapter = ["--adapter", "no such adapter"];

function copyOf(files: readonly string[]): string {
  const folder = tempFolder();
  for (const name of files) cpSync(join(phiTiny, name), join(folder, name));
  return folder;
}

describe("from the headers, without an adapter", () => {
  test.each([
    [["--ids", "1,2,1024"], 2, "--ids: expected token ids below this model's vocabulary of 1024"],
    [["--ids", "1,2,3", "--context", "2"], 2, "prompt is 3 tokens, context is 2"],
    [["--ids", "1", "--context", "1025"], 2, "--context: expected an integer from 1 to 1024"],
    [["--ids", "1", "--rope", "short"], 2, "--rope: expected a model with longrope's short and long factors"],
    [
      ["--ids", "1", "--activations", "int8"],
      2,
      "--activations: expected f32, got int8: this model's weights are floats",
    ],
    [["--ids", "1", "-o", "out.txt"], 2, "--output: expected --prompts beside it, got none"],
    [["--ids", "1", "--profile", ""], 2, '--profile: expected at least one character, got ""'],
    [["--ids", "1", "--rope", "yarn"], 2, "--rope: expected hf-exact or short or long"],
    [["--ids", "1", "--logit-bias", "1024=1"], 2, "--logit-bias: expected token ids below"],
  ])("phi %j", async (args, exit, message) => {
    const { code, stdout, stderr } = await phi([...args, ...noAdapter]);
    expect({ code, stdout }).toEqual({ code: exit, stdout: "" });
    expect(stderr).toContain(message);
  });

  test("a file that was cut off", async () => {
    const folder = copyOf(["config.json", "model.safetensors"]);
    truncateSync(join(folder, "model.safetensors"), 1_000_000);
    const { code, stderr } = await phi(["--ids", "1", "-m", folder, ...noAdapter]);
    expect(code).toBe(3);
    expect(stderr).toMatch(/^error: model\.safetensors: .*short/);
  });
});

describe("from the tokenizer", () => {
  test("--chat without a template", async () => {
    const folder = copyOf(["config.json", "model.safetensors", "tokenizer.json"]);
    const { code, stdout, stderr } = await phi(["--chat", "hello", "-m", folder]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain("--chat: expected a model with a chat template, got one without");
  });

  test("a prompt longer than the context", async () => {
    const { code, stdout, stderr } = await phi(["--context", "3", "Once upon a time there was a cat"]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toMatch(/^error: prompt is \d+ tokens, context is 3$/m);
  });

  test("an empty prompt starts from the token that begins a text", async () => {
    const { code, stdout } = await phi(["-n", "1", "--json", ""]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout).stats.prompt_tokens).toBe(1);
  });

  test("--stop without a tokenizer", async () => {
    const folder = copyOf(["config.json", "model.safetensors"]);
    const { code, stderr } = await phi(["--ids", "1", "--stop", "x", "-m", folder]);
    expect(code).toBe(2);
    expect(stderr).toContain("--stop: expected a model with a tokenizer");
  });
});

describe("the seed in the JSON object", () => {
  test("what was given, what was chosen, and null where nothing is drawn", async () => {
    const run = async (args: readonly string[]) => {
      const { stdout, stderr } = await phi([...args, "-n", "3", "--json", "Once"]);
      return { ...JSON.parse(stdout), stderr };
    };
    expect((await run([])).seed).toBeNull();
    expect((await run(["--temperature", "1", "--seed", "42"])).seed).toBe(42);
    expect((await run(["--temperature", "1", "--seed", "18446744073709551615"])).seed).toBe("18446744073709551615");
    const first = await run(["--temperature", "5"]);
    expect(first.stderr).toContain(`seed: ${first.seed}`);
    expect((await run(["--temperature", "5", "--seed", String(first.seed)])).token_ids).toEqual(first.token_ids);
  });
});

describe("phi tokenize --chat", () => {
  const folder = () => {
    const copy = copyOf(["config.json", "tokenizer.json"]);
    const template =
      "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}{% if add_generation_prompt %}Output:{% endif %}";
    writeFileSync(join(copy, "chat_template.jinja"), template);
    return copy;
  };
  const messages = '[{"role":"user","content":"a<|endoftext|>b"}]';
  const ids = async (args: readonly string[]): Promise<number[]> => {
    const { stdout } = await phi(["tokenize", "--chat", "-m", folder(), ...args], { stdin: messages });
    return JSON.parse(stdout);
  };
  const ends = (list: readonly number[]) => list.filter((id) => id === 0).length;

  test("--no-generation-prompt leaves the opening of the answer out", async () => {
    const all = await ids([]);
    const closed = await ids(["--no-generation-prompt"]);
    expect(closed.at(-1)).toBe(0);
    expect(all.slice(0, closed.length)).toEqual(closed);
    expect(all.length).toBeGreaterThan(closed.length);
  });

  test("--special-in-content lets text make control tokens", async () => {
    expect(ends(await ids([]))).toBe(1);
    expect(ends(await ids(["--special-in-content"]))).toBe(2);
  });
});
