/** Numbers as people read them. */
import { printable } from "../engine/errors.ts";

/** `134217728` → `128 MiB`. */
export function formatBytes(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${Number.isInteger(value) || unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** JSON on one line, safe on a terminal: C1 controls are escaped like C0 ones. */
export function jsonLine(value: unknown): string {
  const text = JSON.stringify(value);
  return `${text.replace(/[\u007f-\u009f]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`)}\n`;
}

/** Whether sizes of phi tune are in use. */
export function tuningText(kernels: readonly string[]): string {
  return kernels.length === 0 ? "default sizes" : `sizes of phi tune for ${kernels.join(", ")}`;
}

/** The tokens that end a text: `ends at 7 "<|end|>", 0 "<|endoftext|>"`. */
export function endTokensText(
  ids: readonly number[],
  tokenizer: { tokenOf(id: number): string | undefined } | undefined,
): string {
  const tokens = ids.map((id) => {
    const token = tokenizer?.tokenOf(id);
    return token === undefined ? String(id) : `${id} "${printable(token)}"`;
  });
  return tokens.length === 0 ? "no token ends a text" : `a text ends at ${tokens.join(", ")}`;
}
