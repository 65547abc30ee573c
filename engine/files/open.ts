/** From what a caller names to a folder: the one place that tells Node from a browser. */

import { PhiError } from "../errors.ts";
import { type FolderOptions, openFolder } from "./disk.ts";
import { httpFolder } from "./http.ts";
import type { Folder } from "./source.ts";

/**
 * A checkpoint: the path or `file:` URL of a folder (Node), the URL of one on a server that answers range requests (in a
 * browser also relative to the page), or a folder that is open already.
 */
export type CheckpointSource = string | URL | Folder;

/** Opens a checkpoint's folder. Throws as `openFolder` does. */
export async function openSource(source: CheckpointSource, options: FolderOptions = {}): Promise<Folder> {
  if (typeof source === "object" && !(source instanceof URL)) return source;
  const address = String(source);
  if (/^https?:/i.test(address)) return httpFolder(address);
  const isNode = globalThis.process?.versions?.node !== undefined;
  if (!isNode) return httpFolder(new URL(address, location.href).href);
  if (!(source instanceof URL)) return openFolder(source, options);
  const { fileURLToPath } = await import("node:url");
  return openFolder(fileURLToPath(source), options);
}

/** The text of one of the project's own files (a WGSL kernel), beside the compiled module or on a web server. */
export async function readText(url: URL): Promise<string> {
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return readFile(url, "utf8");
  }
  const response = await fetch(url);
  if (!response.ok) throw new PhiError("io", `${url}: expected status 200, got ${response.status}`);
  return response.text();
}
