/** Files behind a URL, read by HTTP range requests. */

import { PhiError, printable } from "../errors.ts";
import { attempt, type ByteSource, type Folder, readTarget, refuseUnsafePath, shortRead } from "./source.ts";

/**
 * Files below a URL, read by HTTP range requests, for a browser (or Node). The server must send Content-Length and
 * serve ranges (206); `files` is what `list()` answers. Anything else than 200, 206, 404 and 410 is a PhiError "io".
 */
export function httpFolder(url: string, fetcher: typeof fetch = fetch, files: readonly string[] = []): Folder {
  const base = url.endsWith("/") ? url : `${url}/`;
  return {
    name: url,
    list: async () => [...files].sort(),
    async open(file) {
      refuseUnsafePath(file);
      const address = base + file.split("/").map(encodeURIComponent).join("/");
      const head = await httpHead(file, address, fetcher);
      return head && httpSource(file, address, fetcher, head);
    },
  };
}

interface HttpHead {
  readonly sizeBytes: number;
  readonly version: string;
}

async function httpHead(file: string, address: string, fetcher: typeof fetch): Promise<HttpHead | undefined> {
  const name = printable(file);
  const response = await attempt(name, "ask for the file", fetcher(address, { method: "HEAD" }));
  if (response.status === 404 || response.status === 410) return undefined;
  if (!response.ok) throw new PhiError("io", `${name}: expected HTTP status 200, got ${response.status}`);
  const length = response.headers.get("content-length");
  const sizeBytes = Number(length ?? Number.NaN);
  if (!Number.isSafeInteger(sizeBytes) || response.headers.has("content-encoding")) {
    const got = response.headers.has("content-encoding") ? "a compressed answer" : (length ?? "none");
    throw new PhiError("io", `${name}: expected a Content-Length, got ${printable(got)}`);
  }
  return {
    sizeBytes,
    version: `${sizeBytes}:${response.headers.get("etag") ?? response.headers.get("last-modified")}`,
  };
}

function httpSource(
  file: string,
  address: string,
  fetcher: typeof fetch,
  { sizeBytes, version }: HttpHead,
): ByteSource {
  const name = printable(file);
  return {
    name: file,
    sizeBytes,
    version,
    async read(offsetBytes, lengthBytes, into) {
      const target = readTarget(file, lengthBytes, into);
      if (lengthBytes === 0) return target;
      const end = offsetBytes + lengthBytes;
      const action = `read bytes ${offsetBytes} to ${end}`;
      const headers = { range: `bytes=${offsetBytes}-${end - 1}` };
      const response = await attempt(name, action, fetcher(address, { headers }));
      const isWhole = response.status === 200 && offsetBytes === 0 && end === sizeBytes;
      if ((response.status !== 206 && !isWhole) || !response.body) {
        await response.body?.cancel();
        throw new PhiError("io", `${name}: expected HTTP status 206 to "${action}", got ${response.status}`, [
          "The server must answer range requests.",
        ]);
      }
      const reader = response.body.getReader();
      let done = 0;
      for (;;) {
        const piece = (await attempt(name, action, reader.read())).value;
        if (piece === undefined) break;
        if (done + piece.length > lengthBytes) {
          await reader.cancel();
          throw new PhiError("io", `${name}: expected ${lengthBytes} bytes to "${action}", got more`);
        }
        target.set(piece, done);
        done += piece.length;
      }
      if (done < lengthBytes) throw shortRead(file, offsetBytes, lengthBytes, done);
      return target;
    },
    async assertUnchanged() {
      const now = (await httpHead(file, address, fetcher))?.version ?? "nothing";
      if (now === version) return;
      throw new PhiError("io", `${name}: expected the file as it was opened (${version}), got ${printable(now)}`);
    },
    close: async () => undefined,
  };
}
