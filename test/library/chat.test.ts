import { copyFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { chatForm, withCachedTurn, withoutOldest } from "../../library/chat.ts";
import { loadTokenizer } from "../../library/index.ts";
import { type Tokenizer, TokenizerError } from "../../tokenizer/index.ts";

const phiTiny = join(import.meta.dirname, "../../models/phi-tiny");
const messages = [
  { role: "system", content: "Be kind." },
  { role: "user", content: "Hi" },
  { role: "assistant", content: "Hello." },
  { role: "user", content: "Bye <|endoftext|>" },
];

let withTemplate: Tokenizer;
let withoutTemplate: Tokenizer;
beforeAll(async () => {
  withTemplate = await loadTokenizer(phiTiny);
  const folder = await mkdtemp(join(tmpdir(), "phi-test-"));
  await copyFile(join(phiTiny, "tokenizer.json"), join(folder, "tokenizer.json"));
  const config = JSON.parse(await readFile(join(phiTiny, "tokenizer_config.json"), "utf8"));
  await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify({ ...config, chat_template: null }));
  withoutTemplate = await loadTokenizer(folder);
  await rm(folder, { recursive: true });
});

describe("the form of a model", () => {
  const small = { type: "phi", hidden: 128, layers: 6 };
  const written = (name: string, facts = small) => {
    const form = chatForm(withoutTemplate, { name, ...facts });
    return [form.name, withoutTemplate.decode(form.encode(messages))];
  };

  test("is its own template where it has one", () => {
    const form = chatForm(withTemplate, { name: "phi-1", ...small });
    expect(form.name).toBe("template");
    expect(form.encode(messages)).toEqual(withTemplate.encodeChat(messages));
  });

  test("of phi-2, by its name or its geometry, and of phi-1.5", () => {
    const instruct = ["instruct", "Be kind.\nInstruct: Hi\nOutput: Hello.\nInstruct: Bye <|endoftext|>\nOutput:"];
    expect(written("phi-2")).toEqual(instruct);
    expect(written("renamed", { type: "phi", hidden: 2560, layers: 32 })).toEqual(instruct);
    const dialogue = ["dialogue", "Be kind.\n\nAlice: Hi\n\nBob: Hello.\n\nAlice: Bye <|endoftext|>\n\nBob:"];
    for (const name of ["phi-1_5", "phi-1.5", "my-Phi-1.5-tuned"]) expect(written(name)).toEqual(dialogue);
  });

  test("a control token's text in a message stays text", () => {
    const { encode } = chatForm(withoutTemplate, { name: "phi-2", ...small });
    expect(encode(messages)).not.toContain(withoutTemplate.idOf("<|endoftext|>"));
  });

  test("a template that fails advises what phi chat has, and forms without one want text", async () => {
    const folder = await mkdtemp(join(tmpdir(), "phi-test-"));
    await copyFile(join(phiTiny, "tokenizer.json"), join(folder, "tokenizer.json"));
    await writeFile(join(folder, "chat_template.jinja"), "{{ raise_exception('no') }}");
    const failing = await loadTokenizer(folder);
    await rm(folder, { recursive: true });
    const form = chatForm(failing, { name: "phi-2", ...small });
    const error = (() => {
      try {
        return form.encode(messages);
      } catch (thrown) {
        return thrown as TokenizerError;
      }
    })();
    expect(error).toBeInstanceOf(TokenizerError);
    expect((error as TokenizerError).message).toContain("the template says: no");
    expect((error as TokenizerError).advice.join()).toMatch(/--form instruct/);
    expect((error as TokenizerError).advice.join()).not.toMatch(/--raw|--chat/);
    const { encode } = chatForm(failing, { name: "phi-2", ...small }, "instruct");
    expect(() => encode([{ role: "assistant", content: null, tool_calls: [] }])).toThrow(
      "expected messages whose content",
    );
  });

  test("of phi-1, and of a model without a name, is not guessed", () => {
    for (const name of ["phi-1", "phi-20", "model"])
      expect(() => written(name)).toThrow("expected a model with a chat template");
    const asked = chatForm(withoutTemplate, { name: "phi-1", ...small }, "dialogue");
    expect(asked.stops).toEqual(["\nAlice:"]);
    expect(() => chatForm(withoutTemplate, { name: "phi-2", ...small }, "template")).toThrow("expected a model with");
  });
});

test("an answer stays in the ids that the model chose, without its end token and blanks", () => {
  const { encode } = chatForm(withTemplate, { name: "", type: "phi", hidden: 1, layers: 1 });
  const question = [{ role: "user", content: "Hi" }];
  const prompt = encode(question);
  // One token a byte: no tokenizer writes it so.
  const letters = [..." Hello."].map((letter) => withTemplate.idOf(letter === " " ? "Ġ" : letter) ?? 0);
  const newline = withTemplate.encode("\n");
  const end = withTemplate.idOf("<|endoftext|>") ?? -1;
  const full = encode([...question, { role: "assistant", content: "Hello." }, { role: "user", content: "Bye" }]);
  const kept = withCachedTurn(full, { prompt, generated: [...letters, ...newline, end] }, withTemplate);
  expect(kept.slice(0, prompt.length + letters.length)).toEqual([...prompt, ...letters]);
  expect(withTemplate.decode(kept)).toBe(withTemplate.decode(full));
  expect(kept.length).toBeGreaterThan(full.length);
  // Another conversation, another answer: nothing to keep.
  expect(withCachedTurn(full, { prompt: [5, ...prompt], generated: letters }, withTemplate)).toEqual(full);
  expect(withCachedTurn(full, { prompt, generated: letters.slice(1) }, withTemplate)).toEqual(full);
});

test("the oldest turns are left out, never the system's message nor the last", () => {
  const [system, hi, hello, bye] = messages;
  const count = (most: number) => withoutOldest(messages, (kept) => kept.length <= most);
  expect(count(4)).toEqual(messages);
  expect(count(3)).toEqual([system, bye]);
  expect(count(2)).toEqual([system, bye]);
  expect(count(1)).toBeUndefined();
  expect(
    withoutOldest(
      [hi, hello, bye].flatMap((m) => m ?? []),
      (kept) => kept.length < 3,
    ),
  ).toEqual([bye]);
});
