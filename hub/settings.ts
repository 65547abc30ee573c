/** Where the hub and its cache are: the environment variables of Hugging Face's own tools, with the same defaults. */
import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { PhiError, printable } from "../engine/index.ts";

export interface HubSettings {
  /** The folder of `models--*`. */
  readonly cache: string;
  /** The hub's address, without a slash at its end. */
  readonly endpoint: string;
  readonly token: string | undefined;
  /** No request may be made. */
  readonly offline: boolean;
  /** A connection on which nothing comes for so long is given up. */
  readonly timeoutMs: number;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * Reads HF_HOME, HF_HUB_CACHE, HF_TOKEN (else the file `token` that a login leaves in HF_HOME), HF_ENDPOINT,
 * HF_HUB_OFFLINE and HF_HUB_DOWNLOAD_TIMEOUT, and the older names of them that huggingface_hub reads. An empty variable
 * counts as absent. Throws a PhiError "usage" for a value that cannot be meant, "io" for a token file that cannot be read.
 */
export async function hubSettings(environment: Environment = process.env): Promise<HubSettings> {
  const value = (...names: string[]) => names.map((name) => environment[name]?.trim()).find((text) => text);
  const home =
    folder(value("HF_HOME")) ?? join(folder(value("XDG_CACHE_HOME")) ?? join(homedir(), ".cache"), "huggingface");
  return {
    cache: folder(value("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")) ?? join(home, "hub"),
    endpoint: endpoint(value("HF_ENDPOINT")),
    token: isTrue(value("HF_HUB_DISABLE_IMPLICIT_TOKEN"))
      ? undefined
      : token(
          value("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") ??
            (await tokenFile(folder(value("HF_TOKEN_PATH")) ?? join(home, "token"))),
        ),
    offline: isTrue(value("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")),
    timeoutMs: timeout(value("HF_HUB_DOWNLOAD_TIMEOUT")),
  };
}

function isTrue(text: string | undefined): boolean {
  return /^(1|on|yes|true)$/i.test(text ?? "");
}

/** `~` stands for the home folder, as in a shell and in Python's expanduser. */
function folder(text: string | undefined): string | undefined {
  return text?.replace(/^~(?=\/|\\|$)/, () => homedir());
}

function endpoint(text = "https://huggingface.co"): string {
  if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol)) {
    throw new PhiError(
      "usage",
      `HF_ENDPOINT: expected an address such as https://huggingface.co, got "${printable(text)}"`,
    );
  }
  return text.replace(/\/+$/, "");
}

/** A header takes visible ASCII only; what else is in a token is a mistake of copying, and the token is not shown. */
function token(text: string | undefined): string | undefined {
  if (text === undefined || /^[\x21-\x7e]+$/.test(text)) return text;
  throw new PhiError("usage", "HF_TOKEN: expected a token such as hf_…, got one with blanks or control characters");
}

async function tokenFile(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, "utf8")).trim() || undefined;
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "";
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new PhiError("io", `${printable(path)}: expected to read the token, got ${code}`, [], { cause: error });
  }
}

function timeout(text = "10"): number {
  const seconds = /^\d{1,5}(\.\d+)?$/.test(text) ? Number(text) : 0;
  if (seconds > 0) return seconds * 1000;
  throw new PhiError("usage", `HF_HUB_DOWNLOAD_TIMEOUT: expected seconds above 0, got "${printable(text)}"`);
}
