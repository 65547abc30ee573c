/**
 * Byte-pair encoding over token ids: repeatedly join the adjacent pair of lowest rank, the leftmost first
 * (Sennrich et al. 2016). Short pieces are scanned; long ones go through a heap, so that a piece of a million
 * symbols costs O(n log n).
 */

/** All merges of a vocabulary: which two ids join, how early (the rank), and into which id. */
export interface MergeTable {
  /** Rank of the pair, or -1 where the two do not join: of two pairs the one of lower rank joins first. */
  rank(left: number, right: number): number;
  /** The id that the merge of this rank makes. */
  result(rank: number): number;
  /** How many different pairs there are. */
  readonly size: number;
}

/** What ranks a merge: its place in the list, as in tokenizer.json, or the id that it makes, as in tiktoken. */
export type MergeRanks = "places" | "results";

/**
 * Build a table from merges: `triples` holds [left, right, result] ids one after the other, ranked by place or result. Of
 * two merges of one pair the later wins, as in Hugging Face `tokenizers`.
 */
export function createMergeTable(triples: Int32Array, ranks: MergeRanks): MergeTable {
  const count = triples.length / 3;
  let slots = 16;
  while (slots < count * 2) slots *= 2;
  const mask = slots - 1;
  // Open addressing over flat integers: a Map keyed by number or string takes several times the memory and time.
  const table = new Int32Array(slots).fill(-1);
  const slotOf = (left: number, right: number): number => {
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    hash ^= hash >>> 15;
    hash = Math.imul(hash, 0x2c1b3c6d);
    let slot = (hash ^ (hash >>> 13)) & mask;
    for (;;) {
      const rank = table[slot] ?? -1;
      if (rank < 0 || (triples[rank * 3] === left && triples[rank * 3 + 1] === right)) return slot;
      slot = (slot + 1) & mask;
    }
  };
  let size = 0;
  for (let rank = 0; rank < count; rank++) {
    const slot = slotOf(triples[rank * 3] ?? 0, triples[rank * 3 + 1] ?? 0);
    if (table[slot] === -1) size += 1;
    table[slot] = rank;
  }
  const place = (left: number, right: number) => table[slotOf(left, right)] ?? -1;
  const result = (merge: number) => triples[merge * 3 + 2] ?? 0;
  if (ranks === "places") return { size, rank: place, result };
  const rank = (left: number, right: number) => {
    const merge = place(left, right);
    return merge < 0 ? -1 : result(merge);
  };
  return { size, rank, result: (id) => id };
}

/** Join symbols in place by the table. Returns how many ids are left at the front of `symbols`. */
export function mergePairs(symbols: Int32Array, count: number, merges: MergeTable): number {
  return count <= 64 ? mergeByScan(symbols, count, merges) : mergeByHeap(symbols, count, merges);
}

function mergeByScan(symbols: Int32Array, count: number, merges: MergeTable): number {
  const ranks = new Int32Array(count);
  for (let i = 0; i + 1 < count; i++) ranks[i] = merges.rank(symbols[i] ?? 0, symbols[i + 1] ?? 0);
  let left = count;
  for (;;) {
    let best = -1;
    let bestRank = -1;
    for (let i = 0; i + 1 < left; i++) {
      const rank = ranks[i] ?? -1;
      if (rank >= 0 && (best < 0 || rank < bestRank)) {
        best = i;
        bestRank = rank;
      }
    }
    if (best < 0) return left;
    symbols[best] = merges.result(bestRank);
    symbols.copyWithin(best + 1, best + 2, left);
    ranks.copyWithin(best + 1, best + 2, left);
    left -= 1;
    if (best > 0) ranks[best - 1] = merges.rank(symbols[best - 1] ?? 0, symbols[best] ?? 0);
    if (best + 1 < left) ranks[best] = merges.rank(symbols[best] ?? 0, symbols[best + 1] ?? 0);
  }
}

/** Positions fit in 32 bits and ranks in 21, so a (rank, position) pair is one exact double that sorts by both. */
const positions = 2 ** 32;

function mergeByHeap(symbols: Int32Array, count: number, merges: MergeTable): number {
  const next = new Int32Array(count);
  const previous = new Int32Array(count);
  /** Rank of the pair that starts here; a heap entry that disagrees is stale. */
  const pairRank = new Int32Array(count).fill(-1);
  // Each merge takes one entry away and adds at most two.
  const heap = new Float64Array(2 * count + 2);
  let size = 0;
  for (let i = 0; i < count; i++) {
    next[i] = i + 1 < count ? i + 1 : -1;
    previous[i] = i - 1;
    if (i + 1 === count) continue;
    const rank = merges.rank(symbols[i] ?? 0, symbols[i + 1] ?? 0);
    pairRank[i] = rank;
    if (rank >= 0) heap[size++] = rank * positions + i;
  }
  for (let i = (size >> 1) - 1; i >= 0; i--) siftDown(heap, size, i);

  const offer = (position: number): void => {
    const after = next[position] ?? -1;
    const rank = after < 0 ? -1 : merges.rank(symbols[position] ?? 0, symbols[after] ?? 0);
    pairRank[position] = rank;
    if (rank < 0) return;
    heap[size] = rank * positions + position;
    siftUp(heap, size++);
  };

  while (size > 0) {
    const top = heap[0] ?? 0;
    heap[0] = heap[--size] ?? 0;
    siftDown(heap, size, 0);
    const rank = Math.floor(top / positions);
    const at = top - rank * positions;
    if (pairRank[at] !== rank) continue;
    const gone = next[at] ?? -1;
    const after = next[gone] ?? -1;
    symbols[at] = merges.result(rank);
    next[at] = after;
    if (after >= 0) previous[after] = at;
    pairRank[gone] = -1;
    offer(at);
    const before = previous[at] ?? -1;
    if (before >= 0) offer(before);
  }

  let left = 0;
  for (let i = 0; i >= 0; i = next[i] ?? -1) symbols[left++] = symbols[i] ?? 0;
  return left;
}

function siftUp(heap: Float64Array, start: number): void {
  const value = heap[start] ?? 0;
  let at = start;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    const above = heap[parent] ?? 0;
    if (above <= value) break;
    heap[at] = above;
    at = parent;
  }
  heap[at] = value;
}

function siftDown(heap: Float64Array, size: number, start: number): void {
  const value = heap[start] ?? 0;
  let at = start;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= size) break;
    if (child + 1 < size && (heap[child + 1] ?? 0) < (heap[child] ?? 0)) child += 1;
    const below = heap[child] ?? 0;
    if (below >= value) break;
    heap[at] = below;
    at = child;
  }
  if (at < heap.length) heap[at] = value;
}
