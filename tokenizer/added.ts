/**
 * Added tokens, such as `<|end|>`: kept and found as Hugging Face `tokenizers` 0.23 does (`added_vocabulary.rs`), ids,
 * repeated entries and overlapping matches included.
 */
import { blanksAtStart, blanksBefore } from "./normalize.ts";

/** A token that is found in the text before anything else, e.g. `<|end|>`. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Matches only between non-word characters. */
  readonly singleWord: boolean;
  /** Takes the white space before (after) it away. */
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  /** Looked for in the normalized text, not in the raw one. */
  readonly normalized: boolean;
  /** Left out of the decoded text on request. */
  readonly special: boolean;
}

/** All added tokens of a tokenizer. */
export interface AddedTokens {
  /** By id; of two entries of one token the later one counts. */
  readonly byId: ReadonlyMap<number, AddedToken>;
  /** The tokens that any entry says are special. */
  readonly special: ReadonlySet<string>;
  /** Ids of the tokens that any entry says are normalized: they are decoded to their normalized text. */
  readonly normalizedIds: ReadonlySet<number>;
}

/**
 * Adds tokens to a vocabulary one after the other. An id that a file states is not looked at: a token of the vocabulary
 * keeps its id, and others are counted on from the vocabulary's size.
 */
export interface AddedTokenList {
  /** The id that a token has or would get. */
  idFor(content: string): number;
  /** Returns the token's id. */
  add(token: Omit<AddedToken, "id">): number;
  has(token: Omit<AddedToken, "id">): boolean;
  readonly contents: ReadonlySet<string>;
  done(): AddedTokens;
}

/** An empty list over the vocabulary of the model. */
export function addedTokenList(vocabulary: ReadonlyMap<string, number>): AddedTokenList {
  const byId = new Map<number, AddedToken>();
  const idOf = new Map<string, number>();
  const special = new Set<string>();
  const normalizedIds = new Set<number>();
  let largest = 0;
  const isSame = (a: Omit<AddedToken, "id">, b: Omit<AddedToken, "id">): boolean =>
    a.content === b.content &&
    a.singleWord === b.singleWord &&
    a.lstrip === b.lstrip &&
    a.rstrip === b.rstrip &&
    a.normalized === b.normalized &&
    a.special === b.special;
  const known = (content: string) => byId.get(idOf.get(content) ?? -1);
  const has = (token: Omit<AddedToken, "id">): boolean => {
    const there = known(token.content);
    return there !== undefined && isSame(there, token);
  };
  const idFor = (content: string): number => {
    const { size } = vocabulary;
    return idOf.get(content) ?? vocabulary.get(content) ?? (largest >= size && size > 0 ? largest + 1 : size);
  };
  return {
    has,
    idFor,
    get contents() {
      return new Set(idOf.keys());
    },
    add(token) {
      const { content } = token;
      if (token.special) special.add(content);
      const id = idFor(content);
      if (has(token)) return id;
      largest = Math.max(largest, id);
      idOf.set(content, id);
      byId.set(id, { ...token, id });
      if (token.normalized) normalizedIds.add(id);
      return id;
    },
    done: () => ({ byId, special, normalizedIds }),
  };
}

/** Finds the longest string of a set that starts at an offset of a text. */
export interface TokenFinder {
  readonly size: number;
  longestAt(text: string, offset: number): { readonly token: AddedToken; readonly length: number } | null;
}

interface TrieNode {
  readonly next: Map<number, TrieNode>;
  token?: AddedToken;
}

/** A finder of these texts, each with its token; of two equal texts the first counts. Empty ones are never found. */
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
  /** Where the last run of blanks that was looked through ends: a million blanks are not looked through a million times. */
  let blanksEnd = 0;
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
    if (token.lstrip) start = Math.max(blanksBefore(text, start, done), done);
    if (token.rstrip) {
      if (end > blanksEnd) blanksEnd = blanksAtStart(text, end);
      end = Math.max(end, blanksEnd);
    }
    if (start > done) parts.push(text.slice(done, start));
    // The next match is looked for from this one's own end, among the blanks that rstrip took: so does `tokenizers`. One
    // of which lstrip leaves nothing there is none.
    if (end > start) parts.push(token);
    done = end;
  }
  if (done < text.length) parts.push(text.slice(done));
  return parts;
}

function wordEndsAt(text: string, offset: number): boolean {
  return /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u.test(text.slice(Math.max(0, offset - 2), offset));
}

function wordStartsAt(text: string, offset: number): boolean {
  return /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u.test(text.slice(offset, offset + 2));
}
