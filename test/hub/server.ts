/**
 * A small Hugging Face hub on 127.0.0.1 with one model: the listing of a revision, files behind redirects (small ones on
 * the hub itself, large ones on a content server with another origin), ETags, ranges, and faults on demand.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { onTestFinished } from "vitest";

export const modelName = "microsoft/phi-test";
export const token = "a-token-of-any-form";

export interface HubRequest {
  readonly server: "hub" | "content";
  /** e.g. `/api/models/microsoft/phi-test/revision/main` */
  readonly path: string;
  /** The file that is asked for, where it is one. */
  readonly file: string | undefined;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
  readonly method: string;
  /** How often this path was asked for on this server, this time included. */
  readonly count: number;
}

/** Answers in place of the server, or returns false to let it. */
export type Fault = (request: HubRequest, response: ServerResponse) => boolean | undefined;

export interface FakeHub {
  readonly endpoint: string;
  readonly commit: string;
  readonly requests: HubRequest[];
  readonly files: Map<string, Uint8Array>;
  fault: Fault;
}

export const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
export const gitSha1 = (bytes: Uint8Array) =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

/** What the hub keeps outside git. */
const isLarge = (path: string) => /\.(safetensors|bin|gguf)$|^tokenizer\.json$/.test(path);

/** Sends the bytes, or the range that is asked for. */
export function sendBytes(response: ServerResponse, bytes: Uint8Array, range: string | undefined): void {
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(range ?? "") ?? [];
  if (from === undefined) {
    response.writeHead(200, { "content-length": bytes.length, "accept-ranges": "bytes" });
    response.end(bytes);
    return;
  }
  const end = Math.min(bytes.length, to ? Number(to) + 1 : bytes.length);
  if (Number(from) >= end) {
    response.writeHead(416, { "content-range": `bytes */${bytes.length}` }).end();
    return;
  }
  const part = bytes.subarray(Number(from), end);
  response.writeHead(206, {
    "content-length": part.length,
    "content-range": `bytes ${from}-${end - 1}/${bytes.length}`,
  });
  response.end(part);
}

/** Sends status, the hub's error headers and a JSON body, as the hub does. */
export function sendError(response: ServerResponse, status: number, code?: string, headers: object = {}): true {
  const body = JSON.stringify({ error: code ?? `status ${status}` });
  response.writeHead(status, {
    "content-type": "application/json",
    ...(code && { "x-error-code": code, "x-error-message": `${code} was said` }),
    ...headers,
  });
  response.end(body);
  return true;
}

/** Starts the hub; it ends with the test. `needsToken`: as for a private model. */
export async function startHub(
  files: Readonly<Record<string, Uint8Array>>,
  { needsToken = false }: { readonly needsToken?: boolean } = {},
): Promise<FakeHub> {
  const counts = new Map<string, number>();
  const commit = "0123456789abcdef0123456789abcdef01234567";
  const hub: FakeHub & { endpoint: string } = {
    endpoint: "",
    commit,
    requests: [],
    files: new Map(Object.entries(files)),
    fault: () => false,
  };
  let content = "";
  const revisions = new Set(["main", "refs/pr/1", "v1.0", commit]);

  const noted = (server: HubRequest["server"], request: IncomingMessage, file: string | undefined): HubRequest => {
    const path = new URL(request.url ?? "/", "http://x").pathname;
    const key = `${server} ${path}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
    const { range, authorization } = request.headers;
    const entry: HubRequest = {
      server,
      path,
      file,
      range,
      authorization,
      method: request.method ?? "",
      count: counts.get(key) ?? 0,
    };
    hub.requests.push(entry);
    return entry;
  };

  const serveHub = (request: IncomingMessage, response: ServerResponse): unknown => {
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://x");
    const [, kind, file] =
      new RegExp(`^/(?:${modelName}/(resolve)|api/(resolve-cache)/models/${modelName})/[^/]+/(.+)$`)
        .exec(pathname)
        ?.filter((part) => part !== undefined) ?? [];
    const entry = noted("hub", request, file && decodeURIComponent(file));
    if (hub.fault(entry, response)) return;
    if (needsToken && entry.authorization !== `Bearer ${token}`) return sendError(response, 401, "RepoNotFound");
    const [, name, what, revision] = /^\/api\/models\/([^/]+\/[^/]+)\/(revision|tree)\/([^/]+)$/.exec(pathname) ?? [];
    if (what !== undefined) {
      if (name !== modelName) return sendError(response, 404, "RepoNotFound");
      if (!revisions.has(decodeURIComponent(revision ?? ""))) return sendError(response, 404, "RevisionNotFound");
      if (what === "revision") return sendJson(response, { _id: "1", id: modelName, sha: commit, private: false });
      // Two pages, as for a large model.
      const all = [...hub.files].map(([path, bytes]) => listed(path, bytes));
      const half = Math.ceil(all.length / 2);
      if (searchParams.has("cursor")) return sendJson(response, all.slice(half));
      const next = `${hub.endpoint}${pathname}?recursive=true&cursor=2`;
      return sendJson(response, [{ type: "directory", path: "onnx", size: 0, oid: commit }, ...all.slice(0, half)], {
        link: `<${next}>; rel="next"`,
      });
    }
    const bytes = entry.file === undefined ? undefined : hub.files.get(entry.file);
    if (bytes === undefined || entry.file === undefined) return sendError(response, 404, "EntryNotFound");
    const known = { etag: `"${gitSha1(bytes)}"`, "x-repo-commit": commit };
    if (kind === "resolve-cache") {
      for (const [name, value] of Object.entries(known)) response.setHeader(name, value);
      return sendBytes(response, bytes, entry.range);
    }
    if (!isLarge(entry.file)) {
      response.writeHead(307, {
        location: `/api/resolve-cache/models/${modelName}/${commit}/${file}`,
        ...known,
      });
      return response.end();
    }
    response.writeHead(302, {
      location: `${content}/blobs/${file}?signature=1`,
      ...known,
      "x-linked-etag": `"${sha256(bytes)}"`,
      "x-linked-size": bytes.length,
    });
    return response.end();
  };
  const serveContent = (request: IncomingMessage, response: ServerResponse): unknown => {
    const file = /^\/blobs\/([^?]+)/.exec(request.url ?? "")?.[1];
    const entry = noted("content", request, file && decodeURIComponent(file));
    if (hub.fault(entry, response)) return;
    const bytes = hub.files.get(entry.file ?? "");
    // A signed address and a token together are refused by real content servers.
    if (bytes === undefined || entry.authorization !== undefined) return sendError(response, 400);
    return sendBytes(response, bytes, entry.range);
  };
  content = await listen(createServer(serveContent));
  hub.endpoint = await listen(createServer(serveHub));
  return hub;
}

function listed(path: string, bytes: Uint8Array): object {
  if (!isLarge(path)) return { type: "file", path, size: bytes.length, oid: gitSha1(bytes) };
  const pointer = new TextEncoder().encode(`version https://git-lfs.github.com/spec/v1\noid sha256:${sha256(bytes)}\n`);
  const lfs = { oid: sha256(bytes), size: bytes.length, pointerSize: pointer.length };
  return { type: "file", path, size: bytes.length, oid: gitSha1(pointer), lfs };
}

function sendJson(response: ServerResponse, value: unknown, headers: object = {}): void {
  response.writeHead(200, { "content-type": "application/json; charset=utf-8", ...headers });
  response.end(JSON.stringify(value));
}

async function listen(server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
