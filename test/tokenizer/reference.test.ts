/**
 * Case by case against Hugging Face `tokenizers` and `transformers`, and phi-3-small against tiktoken: the trimmed
 * tokenizers in test/fixtures, and every whole one of ../shared/reference.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type ChatMessage, loadTokenizer, ranksFile, type Tokenizer } from "../../tokenizer/index.ts";
import { fileOf, filledRanks, tokenCount } from "./ranks.ts";

const root = "../shared/reference/tokenizers";
/** The lines of phi-3-small's rank file that its cases need. */
const trimmedRanks = "ranks-with-gaps.txt";

interface Case {
  readonly text: string;
  readonly ids: readonly number[];
  readonly ids_with_special?: readonly number[];
  readonly decoded: string;
  readonly decoded_skip_special?: string;
  readonly stream: readonly string[];
  readonly stream_flush?: string;
}

interface DecodeCase {
  readonly ids: readonly number[];
  readonly decoded: string;
  readonly decoded_skip_special?: string;
  readonly stream?: readonly string[];
  readonly stream_flush?: string;
}

interface ChatCase {
  readonly template: string;
  readonly messages: readonly ChatMessage[];
  readonly add_generation_prompt: boolean;
  readonly rendered: string;
  readonly ids: readonly number[];
}

function read(folder: string, name: string): Uint8Array | undefined {
  const path = join(folder, name);
  return existsSync(path) ? readFileSync(path) : undefined;
}

function json<T>(folder: string, name: string): T {
  return JSON.parse(readFileSync(join(folder, name), "utf8")) as T;
}

function load(folder: string, template?: string): Tokenizer {
  const tokenizerJson = read(folder, "tokenizer.json");
  const tokenizerConfigJson = read(folder, "tokenizer_config.json");
  const trimmed = read(folder, trimmedRanks);
  const ranks = trimmed
    ? fileOf(filledRanks(new TextDecoder().decode(trimmed).trimEnd().split("\n")))
    : read(folder, ranksFile);
  return loadTokenizer({
    folderName: folder,
    ...(tokenizerJson && { tokenizerJson }),
    ...(ranks && { ranks }),
    ...(tokenizerConfigJson && { tokenizerConfigJson }),
    ...(template !== undefined && { chatTemplateJinja: new TextEncoder().encode(template) }),
  });
}

/** Everything pushed after each id; the rest on flush. */
function streamed(tokenizer: Tokenizer, ids: readonly number[]): { readonly pieces: string[]; readonly rest: string } {
  const stream = tokenizer.stream();
  const pieces = ids.map((id) => stream.push(id));
  return { pieces, rest: stream.flush() };
}

/** No piece hands out more than the reference does after the same id, and together they are the decoded text. */
function expectStream(tokenizer: Tokenizer, ids: readonly number[], reference: readonly string[], decoded: string) {
  const { pieces, rest } = streamed(tokenizer, ids);
  expect(pieces.join("") + rest).toBe(decoded);
  let ours = "";
  let theirs = "";
  for (const [i, piece] of pieces.entries()) {
    ours += piece;
    theirs += reference[i] ?? "";
    expect(ours.length, `after id ${i}`).toBeLessThanOrEqual(theirs.length);
    expect(piece, `piece ${i}`).not.toMatch(/\p{Cs}/u);
  }
}

function foldersOf(parent: string): readonly string[] {
  const names = existsSync(parent) ? readdirSync(parent) : [];
  const files = ["tokenizer.json", ranksFile, trimmedRanks];
  return names
    .map((name) => join(parent, name))
    .filter((folder) => files.some((file) => existsSync(join(folder, file))));
}

if (!existsSync(root)) console.warn(`SKIPPED: ${root} is not there; only the trimmed tokenizers are tested`);

describe.each([...foldersOf("test/fixtures/tokenizers"), ...foldersOf(root)])("%s", (folder) => {
  const tokenizer = load(folder);
  const cases = json<{ encode: Case[]; decode: DecodeCase[] }>(folder, "cases.json");
  const isTiktoken = !existsSync(join(folder, "tokenizer.json"));

  test("ids of every text", () => {
    for (const { text, ids, ids_with_special } of cases.encode) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.encode(text, { addSpecialTokens: true }), JSON.stringify(text)).toEqual(ids_with_special ?? ids);
    }
  });

  test("text of every id sequence, with and without special tokens", () => {
    for (const { ids, decoded, decoded_skip_special } of [...cases.encode, ...cases.decode]) {
      expect(tokenizer.decode(ids)).toBe(decoded);
      // tiktoken, phi-3-small's reference, has no such option: there it is what the other ids give.
      const withoutSpecial = isTiktoken ? tokenizer.decode(ids.filter((id) => id < tokenCount)) : decoded;
      expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(decoded_skip_special ?? withoutSpecial);
    }
  });

  test("streamed text", () => {
    for (const { ids, decoded, stream } of [...cases.encode, ...cases.decode]) {
      if (stream !== undefined) expectStream(tokenizer, ids, stream, decoded);
    }
  });

  // phi-2 has no chat template.
  if (existsSync(join(folder, "chat.json")))
    test("chats: rendering and ids of every template", () => {
      const chat = json<{ templates: Record<string, string>; cases: ChatCase[] }>(folder, "chat.json");
      const loaded = new Map(Object.entries(chat.templates).map(([key, source]) => [key, load(folder, source)]));
      let plain = 0;
      for (const { template, messages, add_generation_prompt, rendered, ids } of chat.cases) {
        const own = loaded.get(template);
        if (own === undefined) throw new Error(`no template ${template}`);
        const options = { addGenerationPrompt: add_generation_prompt };
        expect(own.renderChat(messages, options)).toBe(rendered);
        expect(own.encodeChat(messages, { ...options, specialInContent: true })).toEqual(ids);
        if (!messages.some(({ content }) => JSON.stringify(content).includes("<"))) {
          expect(own.encodeChat(messages, options)).toEqual(ids);
          plain += 1;
        }
      }
      expect(plain).toBeGreaterThan(0);
    });

  test("every single id and 10 000 random ones decode without an exception, streamed and whole alike", () => {
    const size = tokenizer.vocabularySize;
    for (let id = 0; id < size + 10; id++) tokenizer.decode([id]);
    let state = 1;
    const ids = Array.from({ length: 10_000 }, () => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return state % (size + 100);
    });
    const { pieces, rest } = streamed(tokenizer, [...ids, -1, 0.5, Number.NaN, 2 ** 40]);
    expect(pieces.join("") + rest).toBe(tokenizer.decode(ids));
    expect(pieces.some((piece) => /\p{Cs}/u.test(piece))).toBe(false);
  });
});
