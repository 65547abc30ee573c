import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect, onTestFinished } from "vitest";
import { type ErrorKind, PhiError } from "../engine/errors.ts";

/** A folder with these files (bytes, text, or an object to be written as JSON), removed when the test is over. */
export function tempFolder(files: Readonly<Record<string, Uint8Array | string | object>> = {}): string {
  const folder = mkdtempSync(join(tmpdir(), "phi-webgpu-test-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    const isPlain = typeof content === "string" || content instanceof Uint8Array;
    writeFileSync(join(folder, name), isPlain ? content : JSON.stringify(content));
  }
  return folder;
}

/** The PhiError that `work` ends with; checks its form: one line, at most two lines of advice, nothing unprintable. */
export async function failure(
  work: Promise<unknown> | (() => unknown),
  kind: ErrorKind = "checkpoint",
): Promise<PhiError> {
  let error: unknown;
  try {
    await (typeof work === "function" ? work() : work);
  } catch (thrown) {
    error = thrown;
  }
  if (!(error instanceof PhiError)) throw new Error(`expected a PhiError, got ${error ?? "success"}`, { cause: error });
  expect(error.kind, error.message).toBe(kind);
  expect(error.advice.length).toBeLessThanOrEqual(2);
  for (const line of [error.message, ...error.advice]) {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: none may reach a terminal
    expect(line).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202e]/);
    expect(line.length).toBeLessThan(6000);
  }
  return error;
}
