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
  const { idOf, unknownId } = definition;
  const all = definition.merges.table;
  const plain = withoutResults(definition.merges, controls) ?? all;
  const byteLevel = definition.preTokenizer.at(-1)?.type === "ByteLevel";
  const byteIds = Array.from({ length: 256 }, (_, byte) =>
    byteLevel
      ? (idOf.get(characterOfByte[byte] ?? "") ?? unknownId)
      : (idOf.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`) ?? null),
  );
  const encoder = new TextEncoder();
  const cache = new Map<string, readonly number[]>();
  const fallbacks = new Map<string, readonly number[] | null>();

  /** Ids of a character's bytes, or null where the vocabulary lacks one. */
  const bytesOf = (character: string): readonly number[] | null => {
    if (!definition.byteFallback) return null;
    let ids = fallbacks.get(character);
    if (ids === undefined) {
      const found = Array.from(encoder.encode(character), (byte) => byteIds[byte] ?? null).filter((id) => id !== null);
      ids = found.length === encoder.encode(character).length ? found : null;
      fallbacks.set(character, ids);
    }
    return ids;
  };

  /** The first symbols of a piece: bytes in a byte-level vocabulary, else characters, else their bytes. */
  const symbolsOf = (piece: string): Int32Array => {
    const bytes = byteLevel ? encoder.encode(piece) : null;
    // A character has at most as many UTF-8 bytes as three times its UTF-16 units.
    const symbols = new Int32Array(bytes?.length ?? piece.length * 3);
    let count = 0;
    let unknownBefore = false;
    const unknown = (): void => {
      if (unknownId !== null && !(unknownBefore && definition.fuseUnknown)) symbols[count++] = unknownId;
      unknownBefore = true;
    };
    if (bytes !== null) {
      for (const byte of bytes) {
        const id = byteIds[byte] ?? null;
        if (id !== null) symbols[count++] = id;
      }
      return symbols.subarray(0, count);
    }
    for (const character of piece) {
      const id = idOf.get(character);
      if (id !== undefined) {
        symbols[count++] = id;
        unknownBefore = false;
        continue;
      }
      const bytesOfIt = bytesOf(character);
      if (bytesOfIt === null) {
        unknown();
      } else {
        for (const byte of bytesOfIt) symbols[count++] = byte;
        unknownBefore = false;
      }
    }
    return symbols.subarray(0, count);
  };

  const wholeToken = (piece: string): number | undefined => {
    if (!definition.ignoreMerges) return undefined;
    const written = byteLevel
      ? Array.from(encoder.encode(piece), (byte) => characterOfByte[byte] ?? "").join("")
      : piece;
    return idOf.get(written);
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
