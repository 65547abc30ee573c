/**
 * Reports from users of other engines, rebuilt as small inputs (test/fixtures/cases): each is run as its case.json says,
 * and gives what transformers gives. A case is a model, or with `over` files to lay over one of this repository.
 */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { phi } from "./process.ts";

interface Case {
  readonly about: string;
  readonly over?: string;
  readonly args: readonly string[];
  readonly stdin?: string;
  readonly expect: {
    readonly ids?: readonly number[];
    readonly token_ids?: readonly number[];
    readonly text?: string;
    readonly finish_reason?: string;
  };
}

const root = join(import.meta.dirname, "../..");
const cases = join(root, "test/fixtures/cases");
const work = mkdtempSync(join(tmpdir(), "phi-cases-"));
afterAll(() => rmSync(work, { recursive: true, force: true }));

/** The tests of text; files of weights and templates have their own. */
const names = readdirSync(cases).filter((name) =>
  /added-tokens|eos-of|leading-space|stop-string|tokenizer-id/.test(name),
);

test.each(names)("%s", async (name) => {
  const one = JSON.parse(readFileSync(join(cases, name, "case.json"), "utf8")) as Case;
  let model = join(cases, name);
  if (one.over !== undefined) {
    model = join(work, name);
    cpSync(join(root, one.over), model, { recursive: true });
    cpSync(join(cases, name, "files"), model, { recursive: true });
  }
  const args = one.args.map((arg) => arg.replace("{model}", model));
  const { code, stdout, stderr } = await phi(args, one.stdin === undefined ? {} : { stdin: one.stdin });
  expect({ code, stderr: code === 0 ? "" : stderr }, one.about).toEqual({ code: 0, stderr: "" });
  const { ids, ...expected } = one.expect;
  if (ids !== undefined) expect(JSON.parse(stdout), one.about).toEqual(ids);
  else expect(JSON.parse(stdout), one.about).toMatchObject(expected);
});

const overTiny = (name: string, files: Readonly<Record<string, string>>): string => {
  const model = mkdtempSync(join(work, name));
  cpSync(join(root, "models/phi-tiny"), model, { recursive: true });
  for (const [from, to] of Object.entries(files)) cpSync(join(cases, from), join(model, to));
  return model;
};

test("info and --stats name the end tokens, of which the tokenizer's is one", async () => {
  const config = "eos-of-tokenizer-none-in-config/files/config.json";
  const generation = "eos-of-tokenizer-none-in-config/files/generation_config.json";
  const model = overTiny("eos", { [config]: "config.json", [generation]: "generation_config.json" });
  expect((await phi(["info", "-m", model])).stdout).toContain('a text ends at 0 "<|endoftext|>"');
  expect(JSON.parse((await phi(["info", "-m", model, "--json"])).stdout).end_ids).toEqual([0]);
  const { stderr } = await phi(["generate", "-m", model, "-n", "1", "--stats", "Once"]);
  expect(stderr).toContain('a text ends at 0 "<|endoftext|>"');
});

test("a prompt with a token that has no row in the embedding is refused by its text and id; info notes it", async () => {
  const file = "tokenizer-id-beyond-embedding/files/tokenizer.json";
  const model = overTiny("row", { [file]: "tokenizer.json" });
  const { code, stderr } = await phi(["generate", "-m", model, "-n", "1", "Once [PAD] upon"]);
  expect(code).toBe(2);
  expect(stderr).toContain('the prompt: expected tokens of the model\'s 1024, got "[PAD]", token 1024');
  expect((await phi(["info", "-m", model])).stderr).toContain('added token 1024 "[PAD]": no row in the embedding');
});

test("--stop reads escapes, and meets special tokens in prompts files, which may begin with a byte order mark", async () => {
  const escaped = await phi(["generate", "-n", "30", "--ignore-eos", "--json", "--stop", "\\n", "def add(a, b)"]);
  const real = await phi(["generate", "-n", "30", "--ignore-eos", "--json", "--stop", "\n", "def add(a, b)"]);
  const { text, finish_reason, token_ids } = JSON.parse(escaped.stdout);
  expect({ text, finish_reason, token_ids }).toEqual({
    text: JSON.parse(real.stdout).text,
    finish_reason: "stop",
    token_ids: JSON.parse(real.stdout).token_ids,
  });
  const prompts = join(work, "prompts.jsonl");
  const results = join(work, "results.jsonl");
  const line = { id: "a", prompt: "Once upon a time\n", max_tokens: 12, ignore_eos: true, stop: "<|endoftext|>" };
  writeFileSync(prompts, `\ufeff${JSON.stringify(line)}\n`);
  await phi(["generate", "--prompts", prompts, "-o", results]);
  expect(JSON.parse(readFileSync(results, "utf8"))).toMatchObject({ id: "a", text: "", finish_reason: "stop" });
});

test("a chat's answers are shown without the blank that parts them from the prompt, in every turn", async () => {
  const model = join(cases, "leading-space-word");
  const args = ["chat", "-m", model, "--form", "instruct", "-n", "1"];
  const word = await phi([...args, "--logit-bias", "33=1000"], { stdin: "a\na\n" });
  expect(word.stdout).toBe("time\ntime\n");
});

test("what generation_config.json says of tokens that may be chosen counts in the command", async () => {
  const model = mkdtempSync(join(work, "may"));
  cpSync(join(root, "models/phi-tiny"), model, { recursive: true });
  const prompt = ["generate", "-m", model, "-n", "3", "--json", "Once upon a time"];
  const before = JSON.parse((await phi(prompt)).stdout).token_ids as number[];
  const [first = 0, second = 0] = before;
  writeFileSync(
    join(model, "generation_config.json"),
    JSON.stringify({ suppress_tokens: [first], bad_words_ids: [[second]], min_new_tokens: 3, min_length: 5 }),
  );
  const { code, stdout } = await phi(prompt);
  expect(code).toBe(0);
  const after = JSON.parse(stdout).token_ids as number[];
  expect(after).toHaveLength(3);
  expect(after).not.toContain(first);
  expect(after).not.toContain(second);
});
