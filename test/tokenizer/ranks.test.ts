/** phi-3-small's rank file: what is refused, and joining by the rank of what two tokens make. */
import { describe, expect, test } from "vitest";
import { loadTokenizer, type Tokenizer, TokenizerError } from "../../tokenizer/index.ts";
import { fileOf, filledRanks, rankLines } from "./ranks.ts";

function load(lines: readonly string[], vocabularySize?: number): Tokenizer {
  const options = vocabularySize === undefined ? {} : { vocabularySize };
  return loadTokenizer({ folderName: "m", ranks: fileOf(lines) }, options);
}

function errorOf(ranks: Uint8Array, vocabularySize?: number): TokenizerError {
  try {
    loadTokenizer({ folderName: "m", ranks }, vocabularySize === undefined ? {} : { vocabularySize });
  } catch (error) {
    if (!(error instanceof TokenizerError)) throw error;
    expect(error.message).toMatch(/^cl100k_base\.tiktoken: /);
    expect(error.message).not.toContain("\n");
    expect(error.exitCode).toBe(3);
    return error;
  }
  throw new Error("nothing was refused");
}

const sound = filledRanks(rankLines(["ab", "bc", "abc", "aa", "aaa"]));

describe("joining", () => {
  const tokenizer = load(sound);
  const [a, b, c, ab, bc, abc, aa, aaa] = ["a", "b", "c", "ab", "bc", "abc", "aa", "aaa"].map((token) =>
    tokenizer.idOf(token),
  );

  test("the lowest rank first, the leftmost of equal ones, whichever two tokens make it", () => {
    // No token is the whole text, so pairs join: "bc" in "bbc", "ab" before "bc" in "abcb".
    expect(tokenizer.encode("bbc")).toEqual([b, bc]);
    expect(tokenizer.encode("abcb")).toEqual([abc, b]);
    expect(tokenizer.encode("aaaa")).toEqual([aa, aa]);
    // [aa, aa, a]: (aa, a) makes aaa at the end.
    expect(tokenizer.encode("aaaaa")).toEqual([aa, aaa]);
    expect(tokenizer.encode("cab")).toEqual([c, ab]);
    expect(tokenizer.encode("a")).toEqual([a]);
  });

  test("a pair that repeats: the left one joins, in short pieces and in long ones", () => {
    const twice = load(filledRanks(rankLines(["ab", "abab"])));
    const [one, two] = [twice.idOf("ab"), twice.idOf("abab")];
    expect(twice.encode("ababab")).toEqual([two, one]);
    expect(twice.encode("ab".repeat(101))).toEqual([...new Array(50).fill(two), one]); // through the heap
  });

  test("special tokens have the ids of the checkpoint's own code", () => {
    expect(tokenizer.vocabularySize).toBe(100352);
    const ids = [
      "<|dummy_id_2|>",
      "<|endoftext|>",
      "<|user|>",
      "<|end|>",
      "<|dummy_id_3|>",
      "<|endofprompt|>",
      "<|dummy_id_86|>",
    ];
    expect(ids.map((token) => tokenizer.idOf(token))).toEqual([100256, 100257, 100262, 100266, 100267, 100276, 100351]);
    expect(tokenizer.encode("<|end|>ab")).toEqual([100266, ab]);
    expect(tokenizer.encode("<|end|>", { allowSpecial: false })).toEqual([...Buffer.from("<|end|>")]);
  });

  test("a million equal letters take less than two seconds", () => {
    for (const unit of ["a", " ", "b"]) {
      const began = performance.now();
      tokenizer.encode(unit.repeat(1_000_000));
      expect(performance.now() - began).toBeLessThan(2000 * slowness);
    }
  });
});

/** The budget is meant for a machine that does nothing else; tests run beside others. */
const slowness = 3;

describe("refused", () => {
  const changed = (line: number, text: string) => fileOf(sound.with(line - 1, text));
  const token = (line: number) => sound[line - 1]?.split(" ")[0] ?? "";
  const cases: readonly (readonly [what: string, file: Uint8Array, message: string])[] = [
    ["an empty file", new Uint8Array(), "expected a tiktoken rank file, got an empty file"],
    ["a Git LFS pointer", fileOf(["version https://git-lfs.github.com/spec/v1"]), "got a Git LFS pointer"],
    ["no UTF-8", Uint8Array.of(0x49, 0xff, 10), "expected UTF-8 text"],
    ["bad base64", changed(7, "B*== 6"), 'line 7: expected base64 of 1 to 256 bytes, got "B*=="'],
    ["cut base64", changed(7, "Bg= 6"), 'line 7: expected base64 of 1 to 256 bytes, got "Bg="'],
    ["base64 that is not canonical", changed(7, "Bh== 6"), 'line 7: expected base64 of 1 to 256 bytes, got "Bh=="'],
    ["a token of kilobytes", changed(300, `${"A".repeat(4000)} 299`), "line 300: expected base64 of 1 to 256 bytes"],
    ["no rank", changed(12, token(12)), `line 12: expected a token in base64, a blank and its rank, got "${token(12)}"`],
    ["an empty line", changed(12, ""), 'line 12: expected a token in base64, a blank and its rank, got ""'],
    ["a third field", changed(12, `${token(12)} 11 x`), "line 12: expected a token in base64, a blank and its rank"],
    ["a rank that is no number", changed(12, `${token(12)} 0xb`), 'line 12: expected a rank from 0 to 100255, got "0xb"'],
    ["a negative rank", changed(12, `${token(12)} -11`), 'line 12: expected a rank from 0 to 100255, got "-11"'],
    ["a rank that is too large", changed(12, `${token(12)} 100256`), 'line 12: expected a rank from 0 to 100255, got "100256"'],
    ["a rank twice", changed(12, `${token(12)} 3`), "line 12: expected a rank of its own, got 3, the rank of line 4"],
    ["a token twice", changed(12, `${token(4)} 11`), `line 12: expected a token of its own, got "${token(4)}", the token of line 4`],
    ["a gap", fileOf(sound.toSpliced(99, 1)), `line 100: expected rank 99, got "${sound[100]}"`],
    ["a first line that is missing", fileOf(sound.slice(1)), `line 1: expected rank 0, got "${sound[1]}"`],
    ["an end that is missing", fileOf(sound.slice(0, 70_000)), "line 70001: expected rank 70000, got the end of the file"],
    ["a byte without a token", changed(66, "/////w== 65"), "expected a token for every byte, got none for 0x41"],
  ]; // biome-ignore format: a table
  test.each(cases)("%s", (_what, file, message) => {
    expect(errorOf(file).message).toContain(message);
  });

  test("an embedding with too few rows for the ranks; one with too few for the special tokens is noted", () => {
    const { message, advice } = errorOf(fileOf(sound), 100_255);
    expect(message).toContain("token 100255");
    expect(message).toContain("has no row in the embedding, which has 100255 rows");
    expect(advice).toHaveLength(1);
    expect(load(sound, 100_351).notes[0]).toContain('added token 100351 "<|dummy_id_86|>": no row in the embedding');
  });

  test("ranks in another order and Windows' line ends are no faults", () => {
    const shuffled = sound.toReversed().map((line) => `${line}\r`);
    expect(load(shuffled, 100_352).encode("abcb")).toEqual(load(sound).encode("abcb"));
  });
});
