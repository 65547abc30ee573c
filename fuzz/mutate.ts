/** Seeded randomness and the mutations that all targets share. A case is its target, seed and number: nothing else. */

/** Draws that follow from a seed. */
export interface Random {
  /** An integer from 0 to n - 1. */
  below(n: number): number;
  chance(p: number): boolean;
  pick<T>(items: readonly T[]): T;
}

/** splitmix32 over (seed, case), so that a case can be made without those before it. */
export function randomOf(seed: number, index: number): Random {
  let state = (Math.imul(seed, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca77)) >>> 0;
  const next = (): number => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  };
  return {
    below: (n) => next() % Math.max(1, n),
    chance: (p) => next() < p * 2 ** 32,
    pick(items) {
      const item = items[next() % items.length];
      if (item === undefined) throw new Error("nothing to pick from");
      return item;
    },
  };
}

/** JSON texts of values that readers stumble over. */
export const nastyJson: readonly string[] = [
  ...[
    "null",
    "true",
    "false",
    "{}",
    "[]",
    '""',
    '"x"',
    "0",
    "-0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "1.5",
    "2.0",
    "2e0",
    "1e400",
  ],
  ...["NaN", "Infinity", "-Infinity", "1e-30", "4294967296", "2147483648", "9007199254740993", "18446744073709551616"],
  ...["1e9", "1000000000", "[0]", "[[]]", "[1,2,3]", '["a","a"]', '{"a":1}', '{"type":null}', '"\\u0000"', '"\\ud800"'],
  ...['"../x"', '"/etc/passwd"', '"model.safetensors"', '"__proto__"', '"F64"', '"F16"', '"longrope"', '"\u202e"'],
];

const nastyText: readonly string[] = [
  ...[
    "\0",
    "\n",
    "\r\n",
    "\ufeff",
    "\u2028",
    "\u202e",
    "\ud800",
    "é",
    "e\u0301",
    "▁",
    "Ġ",
    "<|user|>",
    "</s>",
    "<0x0A>",
  ],
  ...[
    "{{ messages }}",
    "{% for x in y %}",
    "{%",
    "}}",
    "  ",
    "\t\t",
    "a".repeat(300),
    " ".repeat(300),
    "👩‍👩‍👧",
    "\u0300".repeat(40),
  ],
];

/** Flips, inserts, deletes, repeats or cuts a few bytes. */
export function mutateBytes(bytes: Uint8Array, random: Random): Uint8Array {
  let out = [...bytes];
  for (let edits = 1 + random.below(4); edits > 0; edits--) {
    const at = random.below(out.length + 1);
    const kind = random.below(5);
    if (kind === 0) out[at] = (out[at] ?? 0) ^ (1 << random.below(8));
    else if (kind === 1) out.splice(at, 0, random.below(256));
    else if (kind === 2) out.splice(at, 1 + random.below(8));
    else if (kind === 3) out.splice(at, 0, ...out.slice(at, at + random.below(32)));
    else if (random.chance(0.2)) out = out.slice(0, at);
    else out[at] = random.below(256);
  }
  return Uint8Array.from(out);
}

/** A JSON text with one of its tokens exchanged, doubled, moved or dropped, or a member repeated. */
export function mutateJson(text: string, random: Random): string {
  let out = text;
  for (let edits = 1 + random.below(3); edits > 0; edits--) {
    const tokens = out.match(/"(?:[^"\\]|\\.)*"|[-+.\w]+|[[\]{},:]|\s+/gs) ?? [];
    if (tokens.length === 0) return random.pick(nastyJson);
    const at = random.below(tokens.length);
    const kind = random.below(6);
    if (kind <= 2) tokens[at] = random.pick(nastyJson);
    else if (kind === 3) tokens.splice(at, 1);
    else if (kind === 4) tokens.splice(at, 0, random.pick(tokens));
    else {
      const from = random.below(tokens.length);
      tokens.splice(at, 0, ...tokens.slice(from, from + 1 + random.below(12)));
    }
    out = tokens.join("");
  }
  return out;
}

/** A JSON value with one of its leaves or branches exchanged, dropped or repeated; the text stays well-formed. */
export function mutateValue(value: unknown, random: Random, depth = 0): unknown {
  const entries = value !== null && typeof value === "object" ? Object.entries(value) : [];
  if (entries.length === 0 || (depth > 0 && random.chance(0.15))) {
    if (typeof value === "number" && random.chance(0.5)) {
      return random.pick([value + 1, value - 1, -value, value * 2, value / 2, value + 0.5, 0]);
    }
    if (typeof value === "string" && random.chance(0.5)) return mutateText(value, random);
    try {
      return JSON.parse(random.pick(nastyJson));
    } catch {
      return null;
    }
  }
  const at = random.below(entries.length);
  const [key, inner] = entries[at] ?? ["", undefined];
  if (random.chance(0.12)) entries.splice(at, 1);
  else if (random.chance(0.1)) entries.push([random.chance(0.5) ? mutateText(key, random) : key, inner]);
  else entries[at] = [key, mutateValue(inner, random, depth + 1)];
  return Array.isArray(value) ? entries.map(([, item]) => item) : Object.fromEntries(entries);
}

/** A text with pieces inserted, exchanged, repeated or dropped. */
export function mutateText(text: string, random: Random): string {
  let out = text;
  for (let edits = 1 + random.below(4); edits > 0; edits--) {
    const at = random.below(out.length + 1);
    const end = Math.min(out.length, at + random.below(12));
    const kind = random.below(4);
    if (kind === 0) out = out.slice(0, at) + random.pick(nastyText) + out.slice(at);
    else if (kind === 1) out = out.slice(0, at) + out.slice(end);
    else if (kind === 2) out = out.slice(0, end) + out.slice(at, end) + out.slice(end);
    else
      out = out.slice(0, at) + String.fromCharCode(random.below(random.chance(0.7) ? 128 : 65536)) + out.slice(at + 1);
  }
  return out;
}
