/** The process's memory: what `load` does before it measures. */
import { freemem } from "node:os";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** Node's own way to collect garbage now, which its options hide. */
export function collectGarbage(): void {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
}

/** Writes once to `bytes` bytes, or half of what is free, and lets go of them. */
export function touchMemory(bytes: number): void {
  fill(Math.min(bytes, freemem() / 2));
  collectGarbage();
}

/** What it made is garbage when it returns. */
function fill(bytes: number): void {
  const partBytes = 1 << 28;
  const parts = [];
  for (let at = 0; at < bytes; at += partBytes) parts.push(new Uint8Array(partBytes).fill(1));
}
