/** From a text to ids: added tokens are found, what is between them is normalized, cut into pieces and merged. */
import { type AddedToken, createFinder, splitAtTokens } from "./added.ts";
import type { Definition } from "./definition.ts";
import { TokenizerError } from "./error.ts";
import type { SpecialTokens } from "./files.ts";
import { createModel } from "./model.ts";
import { normalize } from "./normalize.ts";
import { preTokenize } from "./pretokenize.ts";

/** Longest prompt, in UTF-16 units. */
const longestText = 2 ** 26;

/**
 * The tokens that steer a model and must not come from data: those marked special, the end and beginning of a text, and
 * those written like one (`<|tool|>`, `</s>`). Runs of blanks (phi-2) are added tokens too, and harmless.
 */
export function controlTokens(definition: Definition, specials: SpecialTokens<string>): readonly AddedToken[] {
  const named = new Set(Object.values(specials));
  return [...definition.added.byId.values()].filter(
    (token) => token.special || named.has(token.content) || /^<[^\s].*>$|^\[[A-Z_]+\]$/s.test(token.content),
  );
}

export interface EncodeOptions {
  /** Whether the text of a control token becomes that token. */
  readonly allowControl: boolean;
  /** A character to drop once added tokens have been found. */
  readonly mark?: string;
}

/**
 * The encoder of a tokenizer. Tokens that are not normalized are found first, in the raw text; those that are, in what is
 * left, normalized as their own text is; so also where there is no normalizer. `splitSpecial`: no special token is found.
 */
export function createEncoder(
  definition: Definition,
  specials: SpecialTokens<string>,
  splitSpecial: boolean,
): (text: string, options: EncodeOptions) => number[] {
  const { added, normalizer, preTokenizer } = definition;
  const controls = new Set(controlTokens(definition, specials).map((token) => token.id));
  const tokens = [...added.byId.values()];
  const findRaw = createFinder(tokens.filter(({ normalized }) => !normalized).map((token) => [token.content, token]));
  const findNormalized = createFinder(
    tokens.filter(({ normalized }) => normalized).map((token) => [normalize(token.content, normalizer).text, token]),
  );
  const model = createModel(definition, controls);

  return (text, { allowControl, mark }) => {
    if (text.length > longestText) {
      throw new TokenizerError(`text: expected at most ${longestText} characters, got ${text.length}`, [], 2);
    }
    const wanted = ({ id, content }: AddedToken): boolean =>
      (allowControl || !controls.has(id)) && !(splitSpecial && added.special.has(content));
    const ids: number[] = [];
    for (const part of splitAtTokens(text, findRaw, wanted)) {
      if (typeof part !== "string") {
        ids.push(part.id);
        continue;
      }
      const { text: normalized, keepsStart } = normalize(part, normalizer);
      for (const inner of splitAtTokens(normalized, findNormalized, wanted)) {
        if (typeof inner !== "string") {
          ids.push(inner.id);
          continue;
        }
        const plain = mark === undefined ? inner : inner.replaceAll(mark, "");
        for (const piece of preTokenize(plain, preTokenizer, keepsStart && ids.length === 0)) {
          model(piece, ids, allowControl && mark === undefined);
        }
      }
    }
    return ids;
  };
}
