import { describe, expect, test } from "vitest";
import { stopFilter } from "../../library/stop.ts";

/** What a filter gives out in all for these pieces, and whether it stopped. */
function filtered(stops: readonly string[], pieces: readonly string[]) {
  const filter = stopFilter(stops);
  let text = "";
  for (const piece of pieces) {
    text += filter.push(piece);
    if (filter.stopped) break;
  }
  return { text: text + filter.flush(), stopped: filter.stopped };
}

/** The plain meaning: everything before the first occurrence of any stop string. */
function reference(stops: readonly string[], text: string) {
  const found = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
  return found.length === 0 ? { text, stopped: false } : { text: text.slice(0, Math.min(...found)), stopped: true };
}

describe("stopFilter", () => {
  test("without stop strings everything passes at once", () => {
    const filter = stopFilter([]);
    expect(filter.push("abc")).toBe("abc");
    expect(filter.flush()).toBe("");
  });

  test("holds back only what may begin a stop string", () => {
    const filter = stopFilter(["END"]);
    expect(filter.push("the EN")).toBe("the ");
    expect(filter.push("ter ")).toBe("ENter ");
    expect(filter.push("E")).toBe("");
    expect(filter.flush()).toBe("E");
  });

  test("a stop string split over three pieces ends the text before it, and nothing follows", () => {
    const filter = stopFilter(["\n\nUser:"]);
    expect(filter.push("Hello.\n")).toBe("Hello.");
    expect(filter.push("\nUs")).toBe("");
    expect(filter.push("er: more")).toBe("");
    expect(filter.stopped).toBe(true);
    expect(filter.push("x") + filter.flush()).toBe("");
  });

  test("the first of several wins, also where one contains another", () => {
    expect(filtered(["bcd", "c"], ["ab", "cd"])).toEqual({ text: "a", stopped: true });
    expect(filtered(["aab"], ["aa", "ab"])).toEqual({ text: "a", stopped: true });
  });

  test("equals the plain search on every split of short texts", () => {
    const stopSets = [["ab"], ["aa", "b"], ["aba"], ["abab", "bb"], ["a"]];
    for (let code = 0; code < 64; code++) {
      const text = Array.from({ length: 6 }, (_, i) => ((code >> i) & 1 ? "b" : "a")).join("");
      for (let cuts = 0; cuts < 32; cuts++) {
        const pieces: string[] = [""];
        for (const [i, letter] of [...text].entries()) {
          pieces[pieces.length - 1] += letter;
          if ((cuts >> i) & 1) pieces.push("");
        }
        for (const stops of stopSets) {
          const found = filtered(stops, pieces);
          const expected = reference(stops, text);
          // Of several, the one that is whole first wins, though another may have begun before it.
          if (stops.length === 1 || !expected.stopped) {
            expect({ stops, pieces, ...found }).toEqual({ stops, pieces, ...expected });
          } else expect({ stops, pieces, stopped: found.stopped }).toEqual({ stops, pieces, stopped: true });
        }
      }
    }
  });

  test("10,000 stop strings and one of a million letters stay quick", () => {
    const stops = [...Array.from({ length: 10_000 }, (_, i) => `stop ${i}`), "x".repeat(1_000_000)];
    const startMs = performance.now();
    expect(filtered(stops, ["one ", "two ", "st", "op", " 12", "!"])).toEqual({ text: "one two ", stopped: true });
    expect(performance.now() - startMs).toBeLessThan(2000);
  });

  test("a special token, which is not given out, ends the text, alone or within a stop string", () => {
    const alone = stopFilter(["<|end|>"]);
    expect(alone.push("Yes. ")).toBe("Yes. ");
    expect(alone.push("", "<|end|>")).toBe("");
    expect(alone.stopped).toBe(true);

    const within = stopFilter(["a<|x|>b"]);
    expect(within.push("ca")).toBe("c");
    expect(within.push("", "<|x|>")).toBe("");
    expect(within.push("c")).toBe("ac");
    expect(within.push("a")).toBe("");
    expect(within.push("", "<|x|>") + within.push("bc")).toBe("");
    expect(within.stopped).toBe(true);

    const two = stopFilter(["<|y|>\n"]);
    expect(two.push("a", "<|x|>") + two.push("", "<|y|>")).toBe("a");
    expect(two.stopped).toBe(false);
    expect(two.push("\nb")).toBe("");
    expect(two.stopped).toBe(true);
  });

  test("a stop string over a special token that is not given out ends the text too", () => {
    const filter = stopFilter(["ab"]);
    expect(filter.push("xa") + filter.push("", "<|x|>") + filter.push("b")).toBe("x");
    expect(filter.stopped).toBe(true);
  });

  test("equals the plain search where special tokens stand between the letters", () => {
    for (let code = 0; code < 3 ** 7; code++) {
      const filter = stopFilter(["ab<|s|>a"]);
      let whole = "";
      let given = "";
      for (let i = 0, rest = code; i < 7; i++, rest = Math.floor(rest / 3)) {
        const letter = ["a", "b", ""][rest % 3] ?? "";
        whole += letter === "" ? "<|s|>" : letter;
        given += filter.push(letter, letter === "" ? "<|s|>" : "");
      }
      given += filter.flush();
      const at = whole.indexOf("ab<|s|>a");
      expect([whole, given]).toEqual([whole, whole.slice(0, at < 0 ? undefined : at).replaceAll("<|s|>", "")]);
      expect(filter.stopped).toBe(at >= 0);
    }
  });
});
