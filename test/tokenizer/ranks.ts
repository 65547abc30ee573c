/** Rank files for tests: whole ones from a few lines. */

export const tokenCount = 100_256;

/** A rank file of 100256 lines in which these lines stand, and in the gaps tokens of bytes that are in no UTF-8. */
export function filledRanks(lines: readonly string[]): string[] {
  const filled: string[] = [];
  for (const line of lines) filled[Number(line.split(" ")[1])] = line;
  for (let rank = 0; rank < tokenCount; rank++) {
    filled[rank] ??=
      `${Buffer.from([0xff, 0xfe, rank >> 16, (rank >> 8) & 255, rank & 255]).toString("base64")} ${rank}`;
  }
  return filled;
}

/** Lines of tokens given as text, with ranks from 0 on: first the 256 bytes, then these. */
export function rankLines(tokens: readonly string[]): string[] {
  const bytes = Array.from({ length: 256 }, (_, byte) => Buffer.from([byte]));
  return [...bytes, ...tokens.map((token) => Buffer.from(token))].map(
    (token, rank) => `${token.toString("base64")} ${rank}`,
  );
}

export function fileOf(lines: readonly string[]): Uint8Array {
  return new TextEncoder().encode(`${lines.join("\n")}\n`);
}
