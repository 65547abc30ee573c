/** Pre-tokenizers: how a normalized text is cut into pieces, over whose borders no merge goes. */
import type { PreTokenizerStep } from "./components.ts";
import { escapeRegex, splitText, trustedPattern } from "./pattern.ts";

/** GPT-2's splitting, which ByteLevel does where it is not told otherwise (`pat_str` of OpenAI's encoder.py). */
const gpt2Words = trustedPattern(
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/u,
);
const digit = trustedPattern(/\p{N}/u);
const punctuation = trustedPattern(/[!-/:-@[-`{-~\p{P}]/u);
const wordsAndSymbols = trustedPattern(
  /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/u,
);
const blank = trustedPattern(/\p{White_Space}/u);

export function preTokenize(text: string, steps: readonly PreTokenizerStep[], atStart: boolean): readonly string[] {
  let pieces: readonly string[] = text === "" ? [] : [text];
  for (const step of steps) {
    pieces = pieces.flatMap((piece, i) => preTokenizeStep(piece, step, atStart && i === 0));
  }
  return pieces;
}

function preTokenizeStep(piece: string, step: PreTokenizerStep, first: boolean): readonly string[] {
  switch (step.type) {
    case "ByteLevel": {
      const text = step.prefixSpace && !piece.startsWith(" ") ? ` ${piece}` : piece;
      return step.useRegex ? splitText(text, gpt2Words, "Isolated", false) : [text];
    }
    case "Split":
      return splitText(piece, step.pattern, step.behavior, step.invert);
    case "Digits":
      return splitText(piece, digit, step.individual ? "Isolated" : "Contiguous", false);
    case "Punctuation":
      return splitText(piece, punctuation, step.behavior, false);
    case "Whitespace":
      return splitText(piece, wordsAndSymbols, "Removed", true);
    case "WhitespaceSplit":
      return splitText(piece, blank, "Removed", false);
    case "Metaspace": {
      const { replacement, scheme } = step;
      let text = piece.replaceAll(" ", replacement);
      if ((scheme === "always" || (scheme === "first" && first)) && !text.startsWith(replacement)) {
        text = replacement + text;
      }
      if (!step.split) return [text];
      // A new piece starts at each replacement character.
      return text.split(new RegExp(`(?=${escapeRegex(replacement)})`, "u"));
    }
  }
}
