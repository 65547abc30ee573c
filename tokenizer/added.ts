/** Added tokens, such as `<|end|>`: found in a text before anything else is done to it. */
import type { AddedToken } from "./definition.ts";
import { blanksAtStart, blanksBefore } from "./normalize.ts";

/** Finds the longest string of a set that starts at an offset of a text. */
export interface TokenFinder {
  readonly size: number;
  longestAt(text: string, offset: number): { readonly token: AddedToken; readonly length: number } | null;
}

interface TrieNode {
  readonly next: Map<number, TrieNode>;
  token?: AddedToken;
}

export function createFinder(entries: readonly (readonly [string, AddedToken])[]): TokenFinder {
  const root: TrieNode = { next: new Map() };
  for (const [text, token] of entries) {
    let node = root;
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      let child = node.next.get(unit);
      if (child === undefined) {
        child = { next: new Map() };
        node.next.set(unit, child);
      }
      node = child;
    }
    if (node !== root) node.token ??= token;
  }
  return {
    size: entries.length,
    longestAt(text, offset) {
      let node = root.next.get(text.charCodeAt(offset));
      let best: { token: AddedToken; length: number } | null = null;
      for (let at = offset + 1; node !== undefined; at++) {
        if (node.token !== undefined) best = { token: node.token, length: at - offset };
        node = at < text.length ? node.next.get(text.charCodeAt(at)) : undefined;
      }
      return best;
    },
  };
}

/** The text cut at added tokens: leftmost match first, the longest of those at one place. */
export function splitAtTokens(
  text: string,
  finder: TokenFinder,
  wanted: (token: AddedToken) => boolean,
): readonly (string | AddedToken)[] {
  if (finder.size === 0) return text === "" ? [] : [text];
  const parts: (string | AddedToken)[] = [];
  let done = 0;
  let at = 0;
  while (at < text.length) {
    const found = finder.longestAt(text, at);
    if (found === null) {
      at += 1;
      continue;
    }
    const { token, length } = found;
    let start = at;
    let end = at + length;
    at = end;
    if (!wanted(token)) continue;
    if (token.singleWord && (wordEndsAt(text, start) || wordStartsAt(text, end))) continue;
    if (token.lstrip) start = blanksBefore(text, start, done);
    if (token.rstrip) end = blanksAtStart(text, end);
    if (start > done) parts.push(text.slice(done, start));
    parts.push(token);
    done = end;
    at = end;
  }
  if (done < text.length) parts.push(text.slice(done));
  return parts;
}

function wordEndsAt(text: string, offset: number): boolean {
  return /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]$/u.test(text.slice(Math.max(0, offset - 2), offset));
}

function wordStartsAt(text: string, offset: number): boolean {
  return /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]/u.test(text.slice(offset, offset + 2));
}
