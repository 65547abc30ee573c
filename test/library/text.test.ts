import { describe, expect, test } from "vitest";
import type { GeneratedToken, GenerationResult } from "../../engine/index.ts";
import { checkLoadOptions, checkSource, checkTextOptions, checkTextPrompt } from "../../library/check.ts";
import { endIdsOf, promptIds, stopsUnder, textPieces } from "../../library/text.ts";
import { loadTokenizer, type Tokenizer } from "../../tokenizer/index.ts";

const vocab = ["<unk>", "<s>", "\u2581", "\u2581a", "\u2581b", "a", "b", "<0xC3>", "<0xA9>", "\n"];

/** A SentencePiece-like tokenizer: a blank is put before a text, and dropped when it is decoded. */
function sentencePiece(config: object = {}, vocabularySize?: number): Tokenizer {
  const bytes = (value: object) => new TextEncoder().encode(JSON.stringify(value));
  const tokenizerJson = bytes({
    version: "1.0",
    added_tokens: ["<|user|>", "<|assistant|>", "<|end|>", "</s>"].map((content, i) => ({
      id: vocab.length + i,
      content,
      special: true,
      normalized: false,
    })),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "\u2581" },
        { type: "Replace", pattern: { String: " " }, content: "\u2581" },
      ],
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "\u2581" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      vocab: Object.fromEntries(vocab.map((token, id) => [token, id])),
      merges: ["\u2581 a", "\u2581 b"],
    },
  });
  return loadTokenizer(
    { folderName: "m", tokenizerJson, tokenizerConfigJson: bytes(config) },
    vocabularySize === undefined ? {} : { vocabularySize },
  );
}

/** What is given out for these new tokens after a prompt, and how many were asked for. */
async function generated(
  tokenizer: Tokenizer,
  prompt: readonly number[],
  ids: readonly number[],
  stops: string[] = [],
) {
  let asked = 0;
  async function* tokens(): AsyncGenerator<GeneratedToken, GenerationResult, boolean | undefined> {
    for (const id of ids) {
      asked++;
      if (yield { id }) break;
    }
    return { finishReason: "length", seed: undefined, stats: {} as GenerationResult["stats"] };
  }
  const pieces: string[] = [];
  for await (const { text } of textPieces(tokens(), tokenizer, stops, prompt)) pieces.push(text);
  return { pieces, asked };
}

describe("new text goes on from the prompt's", () => {
  const tokenizer = sentencePiece();
  test("with the blank of its first word", async () => {
    const prompt = tokenizer.encode("a b");
    expect((await generated(tokenizer, prompt, [3, 5, 4])).pieces.join("")).toBe(" aa b");
    expect((await generated(tokenizer, [], [3, 5, 4])).pieces.join("")).toBe("aa b");
    expect((await generated(tokenizer, prompt, [2, 2, 3])).pieces).toEqual([" ", " ", " a"]);
  });
  test("after special tokens of a chat, and of a second turn", async () => {
    for (const turns of [1, 2]) {
      const prompt = tokenizer.encode("<|user|>a<|assistant|>".repeat(turns));
      const all = tokenizer.decode([...prompt, 4, 6], { skipSpecialTokens: true });
      const text = (await generated(tokenizer, prompt, [4, 6])).pieces.join("");
      expect(text).toBe(" bb");
      expect(tokenizer.decode(prompt, { skipSpecialTokens: true }) + text).toBe(all);
    }
  });
  test("and says nothing again that a run of bytes of the prompt still held", async () => {
    expect((await generated(tokenizer, [3, 7, 8], [5])).pieces.join("")).toBe("a");
    expect((await generated(tokenizer, [3, 7], [8, 5])).pieces.join("")).toBe("\u00e9a");
  });
});

test("a stop string that is or holds a special token ends the text, and asks for no more", async () => {
  const tokenizer = sentencePiece();
  const [end = 0, close = 0] = ["<|end|>", "</s>"].map((token) => tokenizer.idOf(token));
  expect(await generated(tokenizer, [3], [4, end, 4], ["<|end|>"])).toEqual({ pieces: [" b", ""], asked: 2 });
  expect(await generated(tokenizer, [3], [4, end, close, 4], ["b<|end|></s>"])).toEqual({
    pieces: [" ", "", ""],
    asked: 3,
  });
  expect((await generated(tokenizer, [3], [4, end, 4], ["b<|end|></s>"])).pieces.join("")).toBe(" b b");
  expect((await generated(tokenizer, [3], [4, 5], [" b"])).pieces).toEqual([""]);
});

describe("end tokens", () => {
  const template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}";
  test("are the files' of the model, the tokenizer's eos_token, and what its template writes after an answer", () => {
    const tokenizer = sentencePiece({ eos_token: "</s>", chat_template: template });
    expect(endIdsOf([3, 13], tokenizer)).toEqual([3, 13, 12]);
    expect(endIdsOf([3], undefined)).toEqual([3]);
    expect(sentencePiece({ eos_token: { content: "</s>", special: true } }).endIds).toEqual([13]);
    expect(sentencePiece().endIds).toEqual([]);
  });
  test.each([
    ["nothing after an answer", "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"],
    ["other text", "{% for m in messages %}{{ m.content }}\nUser: <|end|>{% endfor %}"],
    ["a template that fails", "{{ raise_exception('no') }}"],
    ["a template that is none", "{% for %}"],
  ])("%s gives none", (_, chat_template) => expect(sentencePiece({ chat_template }).endIds).toEqual([]));
  test("one without a row in the embedding is left out", () => {
    expect(sentencePiece({ eos_token: "</s>", chat_template: template }, 13).endIds).toEqual([12]);
  });
});

test("stop strings of generation_config.json count where none are asked for", () => {
  const defaults = { bosId: undefined, eosIds: [], doSample: false, notes: [], stopStrings: ["x"] };
  expect(stopsUnder(defaults, undefined)).toEqual(["x"]);
  expect(stopsUnder(defaults, ["y"])).toEqual(["y"]);
  expect(stopsUnder(defaults, "y")).toEqual(["y"]);
  expect(stopsUnder(defaults, [])).toEqual([]);
});

test("a prompt with a token that has no row is refused, as text and as messages", () => {
  const tokenizer = sentencePiece({ chat_template: "{{ messages[0].content }}</s>" }, 13);
  const expected = 'the prompt: expected tokens of the model\'s 13, got "</s>", token 13';
  expect(() => promptIds("a</s>", tokenizer, undefined)).toThrow(expected);
  expect(() => promptIds([{ role: "user", content: "a" }], tokenizer, undefined)).toThrow(expected);
  expect(promptIds("a", tokenizer, undefined)).toEqual([3]);
});

describe("what a caller passes", () => {
  const message = (run: () => void) => {
    try {
      run();
    } catch (error) {
      return error instanceof Error ? error.message : "";
    }
    return "accepted";
  };
  test.each<[unknown, string]>([
    [null, "got null"],
    [undefined, "got nothing"],
    [7, "got 7"],
    [{ role: "user" }, "got an object"],
    [[null], "prompt[0]: expected a message { role, content }, or a token id, got null"],
    [["a"], 'prompt[0]: expected a message { role, content }, or a token id, got "a"'],
    [[1, -1], "prompt[1]: expected a token id, got -1"],
    [[1, undefined], "prompt[1]: expected a token id, got nothing"],
    [[1, 2.5], "prompt[1]: expected a token id, got 2.5"],
  ])("prompt %j", (prompt, expected) => {
    expect(message(() => checkTextPrompt(prompt))).toContain(expected);
  });
  test.each<[unknown, string]>([
    [null, "options: expected an object, got null"],
    [[], "options: expected an object, got an empty list"],
    [{ stop: 5 }, "stop: expected a string or a list of strings, none of them empty, got 5"],
    [{ stop: "" }, 'got ""'],
    [{ stop: ["a", ""] }, "got a list of 2"],
    [{ stop: ["a", null] }, "got a list of 2"],
    [{ stop: null }, "got null"],
    [{ maxTokens: "5" }, 'maxTokens: expected an integer of at least 0, got "5"'],
    [{ maxTokens: 1.5 }, "got 1.5"],
    [{ sampling: null }, "sampling: expected an object, got null"],
    [{ sampling: { temperature: "1" } }, 'sampling.temperature: expected a number, got "1"'],
    [{ sampling: { logitBias: {} } }, "sampling.logitBias: expected a Map of numbers by token id, got an object"],
    [{ sampling: { top_p: 1 } }, "sampling.top_p: expected one of temperature"],
    [{ ignoreEos: 1 }, "ignoreEos: expected true or false, got 1"],
    [{ stopIds: 5 }, "stopIds: expected a list of token ids, got 5"],
    [{ stopIds: [-1] }, "stopIds: expected a list of token ids, got a list of 1"],
    [{ signal: {} }, "signal: expected an AbortSignal, got an object"],
    [{ logprobs: "yes" }, 'logprobs: expected true or false, got "yes"'],
    [{ temperature: 1 }, "temperature: expected one of maxTokens, stop"],
    [{ __proto__x: 1 }, "__proto__x: expected one of"],
  ])("options %j", (options, expected) => {
    expect(message(() => checkTextOptions(options))).toContain(expected);
  });
  test("sound ones", () => {
    const signal = new AbortController().signal;
    checkTextOptions({ stop: "x", signal, maxTokens: 0, sampling: { seed: 1n, logitBias: new Map() }, stopIds: [] });
    checkTextOptions({ stop: [], maxTokens: undefined, signal: undefined });
    for (const prompt of ["", [], [1], [{ role: "user", content: "a" }]]) checkTextPrompt(prompt);
    checkLoadOptions({ tokenizer: "none", context: 64, adapter: "SwiftShader", tuned: null });
    for (const source of ["a", new URL("http://localhost/"), { list: () => [], open: () => undefined }])
      checkSource(source);
  });
  test.each<[unknown, string]>([
    [{ tokenizer: "yes" }, 'tokenizer: expected "required", "optional" or "none", got "yes"'],
    [{ adapter: 1 }, "adapter: expected a GPUAdapter or an adapter's name, got 1"],
    [{ onProgress: true }, "onProgress: expected a function, got true"],
    [{ contxt: 5 }, "contxt: expected one of adapter"],
  ])("load options %j", (options, expected) => expect(message(() => checkLoadOptions(options))).toContain(expected));
  test.each<[unknown, string]>([
    [null, "source: expected a path, an address or a Folder, got null"],
    ["", 'got ""'],
    [{ list: 1 }, "got an object"],
  ])("source %j", (source, expected) => expect(message(() => checkSource(source))).toContain(expected));
});
