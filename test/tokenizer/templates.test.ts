/** What jinja2 makes of templates as transformers 5.23 sets it up: made once by templates.py beside this file. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parseChatTemplate } from "../../tokenizer/chat.ts";
import { type ChatMessage, parseExactJson, TokenizerError } from "../../tokenizer/index.ts";
import { raw } from "../../tokenizer/jinja/text.ts";
import type { Value } from "../../tokenizer/jinja/values.ts";
import { jsonValue, messagesValue } from "../../tokenizer/trust.ts";

/** A template, and its text; null for an error. */
type Snippet = readonly [string, string | null];
type Chat = readonly [string, readonly ChatMessage[], Readonly<Record<string, unknown>>, string | null];

function fixture(name: string): unknown {
  return parseExactJson(readFileSync(`test/fixtures/templates/${name}`, "utf8"));
}

/** The text, or why there is none. */
function render(template: string, variables: ReadonlyMap<string, Value>): { text: string | null; why: string } {
  try {
    return { text: raw(parseChatTemplate(template, "t").render(variables)), why: "" };
  } catch (error) {
    if (!(error instanceof TokenizerError)) throw error;
    expect(error.message).toMatch(/^t: chat template, line \d+, column \d+: ./);
    return { text: null, why: error.message };
  }
}

/** Templates that jinja2 renders and we refuse by name. */
const refused = ["\\N escapes in a string", 'the tag "block"', "self", "a slice of a "];

describe.each([
  ["data", false],
  ["trusted text", true],
])("snippets, their variables being %s", (_, isTrusted) => {
  const { variables, cases } = fixture("snippets.json") as { variables: object; cases: readonly Snippet[] };
  const values = new Map(Object.entries(variables).map(([name, value]) => [name, jsonValue(value, isTrusted)]));

  test("each as jinja2 renders it, or refused", () => {
    const wrong: unknown[] = [];
    let refusals = 0;
    for (const [template, expected] of cases) {
      const { text, why } = render(template, values);
      if (text === expected) continue;
      const isRefused = text === null && refused.some((what) => why.includes(what) && why.endsWith("not supported"));
      if (isRefused) refusals += 1;
      else wrong.push({ template, expected, text, why });
    }
    expect(wrong).toEqual([]);
    expect(cases.length).toBeGreaterThan(1000);
    expect(refusals).toBeLessThan(20);
  }, 60_000);
});

test("conversations in templates of published shapes", () => {
  const { templates, cases } = fixture("chats.json") as {
    templates: Readonly<Record<string, string>>;
    cases: readonly Chat[];
  };
  let rendered = 0;
  for (const [name, messages, options, expected] of cases) {
    const { text, why } = render(
      templates[name] ?? "",
      new Map<string, Value>([
        ["tools", null],
        ["documents", null],
        ["bos_token", "<s>"],
        ["eos_token", "</s>"],
        ...Object.entries(options).map(([key, value]) => [key, jsonValue(value, false)] as const),
        ["messages", messagesValue(messages)],
      ]),
    );
    expect(
      text,
      `${name}: ${JSON.stringify(messages, (_, value) => (typeof value === "bigint" ? `${value}` : value))}: ${why}`,
    ).toBe(expected);
    if (text !== null) rendered += 1;
  }
  expect(cases.length).toBeGreaterThan(600);
  expect(rendered).toBeGreaterThan(500);
}, 60_000);
