/**
 * Seeded variants of small tokenizers against transformers 5.23 and tokenizers 0.23 (differential.py): ids, decoded text,
 * and the text of any second half as what goes on from the first.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { loadTokenizer, type Tokenizer } from "../../tokenizer/index.ts";

type Json = Readonly<Record<string, unknown>>;

interface Case {
  readonly base: string;
  readonly patch: Json;
  readonly fields?: Json;
  readonly files?: Json;
  readonly runs: readonly {
    readonly text: string;
    readonly ids: readonly number[];
    readonly decoded: string;
    /** Where they differ: ids with what the post-processor adds, text without special tokens. */
    readonly around?: readonly number[];
    readonly skipped?: string;
  }[];
}

const path = join(import.meta.dirname, "../fixtures/tokenizers/differential.json");
const { bases, cases } = JSON.parse(readFileSync(path, "utf8")) as {
  readonly bases: Readonly<Record<string, Json>>;
  readonly cases: readonly Case[];
};
const bytesOf = (value: unknown) => (value === undefined ? undefined : new TextEncoder().encode(JSON.stringify(value)));

function load({ base, patch, fields, files = {} }: Case): Tokenizer {
  const tokenizerConfigJson = bytesOf(files["tokenizer_config.json"]);
  const specialTokensMapJson = bytesOf(files["special_tokens_map.json"]);
  const addedTokensJson = bytesOf(files["added_tokens.json"]);
  return loadTokenizer({
    folderName: "variant",
    tokenizerJson: new TextEncoder().encode(
      JSON.stringify({ version: "1.0", ...patch, model: { ...bases[base], ...fields } }),
    ),
    ...(tokenizerConfigJson && { tokenizerConfigJson }),
    ...(specialTokensMapJson && { specialTokensMapJson }),
    ...(addedTokensJson && { addedTokensJson }),
  });
}

test("there are hundreds of variants", () => expect(cases.length).toBeGreaterThan(200));

describe.each(Object.keys(bases))("variants of %s", (base) => {
  const own = cases.filter((one) => one.base === base);

  test("ids", () => {
    for (const one of own) {
      const tokenizer = load(one);
      for (const { text, ids, around = ids } of one.runs) {
        const what = `${JSON.stringify(text)} of ${JSON.stringify(one)}`;
        expect(tokenizer.encode(text), what).toEqual(ids);
        expect(tokenizer.encode(text, { addSpecialTokens: true }), what).toEqual(around);
      }
    }
  });

  test("text, with and without special tokens", () => {
    for (const one of own) {
      const tokenizer = load(one);
      for (const { ids, decoded, skipped = decoded } of one.runs) {
        const what = JSON.stringify([ids, one]);
        expect(tokenizer.decode(ids), what).toBe(decoded);
        expect(tokenizer.decode(ids, { skipSpecialTokens: true }), what).toBe(skipped);
      }
    }
  });

  test("text that goes on from other text", () => {
    for (const one of own) {
      const tokenizer = load(one);
      for (const { ids, decoded } of one.runs) {
        for (let cut = 0; cut <= ids.length; cut++) {
          const before = tokenizer.decode(ids.slice(0, cut));
          // Text that changes with what follows it, as half a character does, has no continuation.
          if (!decoded.startsWith(before)) continue;
          const stream = tokenizer.stream({ after: ids.slice(0, cut) });
          const pieces = ids.slice(cut).map((id) => stream.push(id));
          expect(before + pieces.join("") + stream.flush(), JSON.stringify([ids, cut, one])).toBe(decoded);
        }
      }
    }
  });
});
