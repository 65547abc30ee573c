/** From a piece of text to ids: its first symbols (bytes, characters, bytes of characters), and the merges of them. */
import { createMergeTable, type MergeTable, mergePairs } from "./bpe.ts";
import { characterOfByte } from "./decode.ts";
import type { Definition, Merges } from "./definition.ts";

/** Pieces up to this length are remembered with their ids; words come again and again. */
const cachedPiece = 32;
const cacheSize = 20_000;

/** Encodes one pre-tokenized piece and appends its ids. Without `control`, no merge may end in a control token. */
export type Model = (piece: string, ids: number[], control: boolean) => void;

export function createModel(definition: Definition, controls: ReadonlySet<number>): Model {
  const { vocabulary, unknownId, fuseUnknown, subwordPrefix, wordSuffix } = definition;
  const all = definition.merges.table;
  const plain = withoutResults(definition.merges, controls) ?? all;
  const byteLevel = definition.preTokenizer.at(-1)?.type === "ByteLevel";
  const idsOfBytes = (written: (byte: number) => string) =>
    Array.from({ length: 256 }, (_, byte) => vocabulary.get(written(byte)));
  const fallbackIds = idsOfBytes((byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  /** Where every byte has a token and nothing is written around it: the usual case, by far. */
  const byteIds = idsOfBytes((byte) => characterOfByte[byte] ?? "");
  const isWhole = byteLevel && subwordPrefix === "" && wordSuffix === "" && !byteIds.includes(undefined);
  const encoder = new TextEncoder();
  const cache = new Map<string, readonly number[]>();
  const fallbacks = new Map<string, readonly number[] | null>();

  /** Ids of a symbol's bytes, or null where the vocabulary lacks one. */
  const bytesOf = (symbol: string): readonly number[] | null => {
    if (!definition.byteFallback) return null;
    let ids = fallbacks.get(symbol);
    if (ids === undefined) {
      const found = Array.from(encoder.encode(symbol), (byte) => fallbackIds[byte]).filter((id) => id !== undefined);
      ids = found.length === encoder.encode(symbol).length ? found : null;
      fallbacks.set(symbol, ids);
    }
    return ids;
  };

  /** The first symbols of a piece: its bytes in a byte-level vocabulary, else its characters; those without a token as
   * bytes, else as the unknown token (`merge_word` of `tokenizers`, where an unknown one waits for the next that is known). */
  const symbolsOf = (piece: string): Int32Array => {
    if (isWhole) {
      const bytes = encoder.encode(piece);
      const ids = new Int32Array(bytes.length);
      for (let i = 0; i < bytes.length; i++) ids[i] = byteIds[bytes[i] ?? 0] ?? 0;
      return ids;
    }
    const symbols: number[] = [];
    let unknown = false;
    const characters = byteLevel
      ? Array.from(encoder.encode(piece), (byte) => characterOfByte[byte] ?? "")
      : Array.from(piece);
    for (const [i, character] of characters.entries()) {
      const suffix = i + 1 === characters.length ? wordSuffix : "";
      const symbol = `${i > 0 ? subwordPrefix : ""}${character}${suffix}`;
      const id = vocabulary.get(symbol);
      if (id !== undefined) {
        if (unknown) symbols.push(unknownId ?? 0);
        unknown = false;
        symbols.push(id);
        continue;
      }
      const bytes = bytesOf(symbol);
      if (bytes !== null) {
        for (const byte of bytes) symbols.push(byte);
      } else if (unknownId !== null) {
        if (unknown && !fuseUnknown) symbols.push(unknownId);
        unknown = true;
      }
    }
    if (unknown) symbols.push(unknownId ?? 0);
    return Int32Array.from(symbols);
  };

  const wholeToken = (piece: string): number | undefined => {
    if (!definition.ignoreMerges) return undefined;
    const written = byteLevel
      ? Array.from(encoder.encode(piece), (byte) => characterOfByte[byte] ?? "").join("")
      : piece;
    return vocabulary.get(written);
  };

  const idsOf = (piece: string, merges: MergeTable, control: boolean): Iterable<number> => {
    const whole = piece.length <= 1024 ? wholeToken(piece) : undefined;
    if (whole !== undefined && (control || !controls.has(whole))) return [whole];
    const symbols = symbolsOf(piece);
    return symbols.subarray(0, mergePairs(symbols, symbols.length, merges));
  };

  return (piece, ids, control) => {
    const merges: MergeTable = control ? all : plain;
    const remember = piece.length <= cachedPiece && merges === all;
    const known = remember ? cache.get(piece) : undefined;
    const found = known ?? idsOf(piece, merges, control);
    for (const id of found) ids.push(id);
    if (remember && known === undefined) {
      if (cache.size >= cacheSize) cache.clear();
      cache.set(piece, Array.from(found));
    }
  };
}

/** A table without the merges that make one of these ids, or null where no merge does. */
function withoutResults({ triples, ranks }: Merges, ids: ReadonlySet<number>): MergeTable | null {
  const kept: number[] = [];
  for (let at = 0; at < triples.length; at += 3) {
    if (!ids.has(triples[at + 2] ?? 0)) kept.push(triples[at] ?? 0, triples[at + 1] ?? 0, triples[at + 2] ?? 0);
  }
  return kept.length === triples.length ? null : createMergeTable(Int32Array.from(kept), ranks);
}
