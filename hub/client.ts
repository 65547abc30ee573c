/**
 * Requests to the hub. Redirects are followed here, so that the token goes to the hub's own origin and nowhere else;
 * a busy or failing server is asked again after a pause, and a connection on which nothing comes is given up.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { PhiError, printable } from "../engine/index.ts";
import type { HubSettings } from "./settings.ts";

/** An answer with a good status, its body not read yet. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  /** The pieces of the body, to be read once or given up by leaving the loop. */
  readonly body: AsyncIterable<Uint8Array>;
}

export interface HubClient {
  readonly settings: HubSettings;
  /**
   * One request. Throws a Transient where another try may help, and a PhiError where none will: "checkpoint" for what
   * does not exist, "io" for what may not be read.
   */
  request(url: string, what: string, headers?: Readonly<Record<string, string>>): Promise<Answer>;
  /** `work`, again after a Transient, with growing pauses; the count starts anew whenever `advanced()` has grown. */
  retry<T>(what: string, work: () => Promise<T>, advanced?: () => number): Promise<T>;
  /** Bytes of a file: exactly `lengthBytes` from `offsetBytes` of its `sizeBytes`. */
  bytes(url: string, what: string, range: ByteRange): Promise<Uint8Array>;
  /** `fetch` for @huggingface/hub, with all of this in it. */
  readonly fetch: typeof fetch;
}

export interface ByteRange {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly sizeBytes: number;
}

export interface ClientOptions {
  readonly signal: AbortSignal;
  /** Told of pauses. */
  readonly onNote?: (text: string) => void;
  /** The first pause after a failure; each further one is twice as long. Default 1000. */
  readonly pauseMs?: number;
  /** Whether the hub has answered before: then one that cannot be reached is waited for. */
  readonly wasReached?: boolean;
}

/** A failure that may pass: another try is worth it. */
export class Transient extends Error {
  /** What the server asked for. */
  readonly waitMs: number | undefined;
  /** Whether no server was reached at all. */
  readonly isUnreachable: boolean;

  constructor(
    reason: string,
    { waitMs, isUnreachable = false }: { waitMs?: number | undefined; isUnreachable?: boolean } = {},
  ) {
    super(reason);
    this.waitMs = waitMs;
    this.isUnreachable = isUnreachable;
  }
}

const mostTries = 6;
const mostRedirects = 10;
/** A server that asks for a longer pause is not waited for. */
const longestWaitMs = 300_000;
/** The listing of a repository is read whole. */
const mostAnswerBytes = 100_000_000;
const transientStatus: ReadonlySet<number> = new Set([408, 425, 429, 500, 502, 503, 504]);

export function hubClient(settings: HubSettings, options: ClientOptions): HubClient {
  const { signal, onNote = () => {}, pauseMs = 1000, wasReached = false } = options;
  const { origin: home, host } = new URL(settings.endpoint);
  /** Until the first answer, a hub that cannot be reached is no passing fault. */
  let reached = wasReached;

  async function request(url: string, what: string, headers: Readonly<Record<string, string>> = {}): Promise<Answer> {
    let address = new URL(url);
    for (let hops = 0; hops <= mostRedirects; hops++) {
      const watch = stallWatch(settings.timeoutMs, signal);
      const response = await watch.wait(
        fetch(address, {
          headers: {
            "user-agent": "phi-webgpu",
            "accept-encoding": "identity", // ranges and lengths of the file itself
            ...headers,
            ...(address.origin === home && settings.token && { authorization: `Bearer ${settings.token}` }),
          },
          redirect: "manual",
          signal: watch.signal,
        }),
      );
      reached = true;
      const location = response.headers.get("location");
      if (response.status >= 300 && response.status < 400 && location !== null) {
        watch.end();
        address = redirected(address, location, what);
        continue;
      }
      if (response.ok) return { status: response.status, headers: response.headers, body: pieces(response, watch) };
      watch.end();
      // A content server says 401 or 403 of an address whose signature is too old; the hub gives a new one.
      const isStale = address.origin !== home && (response.status === 401 || response.status === 403);
      if (isStale || transientStatus.has(response.status)) {
        throw new Transient(`HTTP status ${response.status} from ${address.host}`, {
          waitMs: askedWaitMs(response.headers),
        });
      }
      throw refusal(response, address, what);
    }
    throw new PhiError("io", `${what}: expected a file, got more than ${mostRedirects} redirects from ${host}`);
  }

  function refusal({ status, headers }: Response, address: URL, what: string): PhiError {
    const code = headers.get("x-error-code");
    const said = headers.get("x-error-message");
    const got = `HTTP status ${status}${said ? ` ("${printable(said)}")` : ""} from ${address.host}`;
    const hasToken = settings.token !== undefined;
    if (code === "GatedRepo" || status === 403) {
      return new PhiError("io", `${what}: expected to be allowed to read it, got ${got}`, [
        `Accept its licence on its page below ${settings.endpoint}, ${hasToken ? "with the account of your token" : "then set HF_TOKEN to a token of that account"}.`,
        ...(hasToken ? ["A fine-grained token also needs the permission to read gated repositories."] : []),
      ]);
    }
    if (status === 401) {
      return new PhiError("io", `${what}: expected to be allowed to read it, got ${got}`, [
        "The hub answers so for a name that does not exist, too: check the spelling.",
        hasToken
          ? "If it is private or gated, HF_TOKEN (or the token of your login) does not give access, or has expired."
          : "If it is private or gated, set HF_TOKEN to a token of an account that may read it.",
      ]);
    }
    if (status === 404 || status === 410) {
      const missing =
        code === "RevisionNotFound"
          ? "such a revision"
          : code === "EntryNotFound"
            ? "such a file"
            : "such a model or revision";
      return new PhiError("checkpoint", `${what}: expected ${missing} on ${host}, got ${got}`, [
        "Check the spelling; names are organisation/name, such as microsoft/phi-2.",
      ]);
    }
    return new PhiError("io", `${what}: expected HTTP status 200, got ${got}`);
  }

  async function retry<T>(what: string, work: () => Promise<T>, advanced: () => number = () => 0): Promise<T> {
    let last = advanced();
    for (let failures = 1; ; failures++) {
      try {
        return await work();
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        if (!(error instanceof Transient)) throw error;
        if (advanced() > last) failures = 1;
        last = advanced();
        const doubled = pauseMs * 2 ** (failures - 1);
        const waitMs = Math.ceil(error.waitMs ?? doubled * (1 + Math.random() / 4));
        if (failures === mostTries || waitMs > longestWaitMs || (error.isUnreachable && !reached)) {
          const asked = waitMs > longestWaitMs ? `, which asks to wait ${Math.ceil(waitMs / 1000)} s` : "";
          throw new PhiError(
            "io",
            `${what}: expected an answer, got ${error.message}${asked}${failures > 1 ? `, ${failures} times` : ""}`,
            [
              "Check the connection, and try again: what is there already is kept.",
              ...(reached ? [] : ["Without a network, HF_HUB_OFFLINE=1 uses what the cache holds."]),
            ],
          );
        }
        onNote(`${what}: ${error.message}; trying again in ${(waitMs / 1000).toFixed(1)} s`);
        await sleep(waitMs, undefined, { signal }).catch(() => {
          throw signal.reason;
        });
      }
    }
  }

  return {
    settings,
    request,
    retry,
    bytes: (url, what, range) =>
      retry(what, async () => readRange(await request(url, what, rangeHeaders(range)), what, range)),
    async fetch(input) {
      const url = input instanceof Request ? input.url : String(input);
      const what = described(url, settings.endpoint);
      return retry(what, async () => {
        const { headers, body } = await request(url, what, { accept: "application/json" });
        return new Response(await readAll(body, what), { headers: headersOf(headers) });
      });
    },
  };
}

/** What an API address is about, for messages. */
function described(url: string, endpoint: string): string {
  const [, id, , revision] =
    /\/api\/models\/([^/]+\/[^/]+)\/(revision|tree)\/([^/?]+)/.exec(url.slice(endpoint.length)) ?? [];
  if (id === undefined || revision === undefined) return printable(url);
  return printable(/^(main|[0-9a-f]{40})$/.test(revision) ? id : `${id}@${decodeURIComponent(revision)}`);
}

/** The headers that speak of an answer's meaning; those of its encoding on the way have had their use. */
function headersOf(headers: Headers): Record<string, string> {
  const kept = ["content-type", "link"].map((name) => [name, headers.get(name)] as const);
  return Object.fromEntries(kept.filter((entry): entry is readonly [string, string] => entry[1] !== null));
}

function redirected(from: URL, location: string, what: string): URL {
  const to = URL.canParse(location, from) ? new URL(location, from) : undefined;
  if (to?.protocol === "https:" || (to?.protocol === "http:" && from.protocol === "http:")) return to;
  const shown = printable(location);
  throw new PhiError("io", `${what}: expected a redirect to a safe address, got "${shown}" from ${from.host}`);
}

/**
 * Gives a request up where nothing comes for `timeoutMs`, or when `outer` aborts. Its steps are raced against both, and
 * not only aborted: Node 20 loses the abort of a fetch whose signals were collected as garbage.
 */
function stallWatch(timeoutMs: number, outer: AbortSignal) {
  const own = new AbortController();
  return {
    signal: own.signal,
    end: () => own.abort(),
    /** The result of a step, or a Transient for what ended it. */
    wait<T>(step: Promise<T>): Promise<T> {
      return new Promise((resolve, reject) => {
        const giveUp = (reason: unknown) => {
          reject(reason);
          own.abort();
        };
        const timer = setTimeout(() => giveUp(new Transient(`nothing for ${timeoutMs / 1000} s`)), timeoutMs);
        const onAbort = () => giveUp(outer.reason);
        outer.addEventListener("abort", onAbort, { once: true });
        if (outer.aborted) onAbort();
        const settle = () => {
          clearTimeout(timer);
          outer.removeEventListener("abort", onAbort);
        };
        step.then(
          (value) => {
            settle();
            resolve(value);
          },
          (error) => {
            settle();
            reject(connectionFailure(error));
          },
        );
      });
    },
  };
}

/** Before a connection stands, these mean that there is none to be had. */
const unreachableCodes: ReadonlySet<string> = new Set([
  "ENOTFOUND",
  "EAI_AGAIN",
  "ECONNREFUSED",
  "ENETUNREACH",
  "EHOSTUNREACH",
]);

/** `fetch` hides what happened in the cause of its error, and of several addresses in a list there. */
function connectionFailure(error: unknown): Transient {
  let inner: unknown = error;
  while (inner instanceof Error) {
    const next: unknown = inner instanceof AggregateError ? inner.errors[0] : inner.cause;
    if (next === undefined) break;
    inner = next;
  }
  const code = inner instanceof Error && "code" in inner ? String(inner.code) : "";
  const reason = printable((inner instanceof Error && inner.message) || code || "no answer");
  const isUnreachable = code === "" || unreachableCodes.has(code) || /CERT|TLS|SSL/.test(code);
  return new Transient(isUnreachable ? reason : `a broken connection (${reason})`, { isUnreachable });
}

async function* pieces(response: Response, watch: ReturnType<typeof stallWatch>): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  try {
    while (reader !== undefined) {
      const { value } = await watch.wait(reader.read());
      if (value === undefined) return;
      yield value;
    }
  } finally {
    watch.end();
  }
}

/** `Retry-After` in seconds or as a date, else the seconds to the next window in the hub's `RateLimit`. */
function askedWaitMs(headers: Headers): number | undefined {
  const after = headers.get("retry-after") ?? /;\s*t=(\d+)/.exec(headers.get("ratelimit") ?? "")?.[1];
  if (after === undefined) return undefined;
  if (/^\d{1,9}$/.test(after)) return Number(after) * 1000;
  const date = Date.parse(after);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

async function readAll(body: AsyncIterable<Uint8Array>, what: string): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of body) {
    sizeBytes += chunk.length;
    if (sizeBytes > mostAnswerBytes) {
      throw new PhiError("io", `${what}: expected an answer of at most ${mostAnswerBytes} bytes, got more`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** No range where all of it is asked for: such an answer may come from any cache on the way. */
function rangeHeaders({ offsetBytes, lengthBytes, sizeBytes }: ByteRange): Record<string, string> {
  if (offsetBytes === 0 && lengthBytes === sizeBytes) return {};
  return { range: `bytes=${offsetBytes}-${offsetBytes + lengthBytes - 1}` };
}

async function readRange({ status, headers, body }: Answer, what: string, range: ByteRange): Promise<Uint8Array> {
  const { offsetBytes, lengthBytes, sizeBytes } = range;
  // Servers that know no ranges send the file from its start; then what follows is not read.
  const skip = status === 206 ? 0 : offsetBytes;
  checkLength(status, headers, what, { ...range, lengthBytes: status === 206 ? lengthBytes : sizeBytes });
  const bytes = new Uint8Array(lengthBytes);
  let position = 0;
  for await (const piece of body) {
    const from = Math.max(0, skip - position);
    const part = piece.subarray(from, Math.max(from, skip + lengthBytes - position));
    bytes.set(part, Math.max(0, position - skip));
    position += piece.length;
    if (position > skip + lengthBytes && (status === 206 || lengthBytes === sizeBytes))
      throw wrongLength(what, sizeBytes, "more");
    if (position >= skip + lengthBytes && lengthBytes < sizeBytes) break;
  }
  if (position < skip + lengthBytes) throw new Transient(`the end at byte ${offsetBytes + position - skip}`);
  return bytes;
}

export function wrongLength(what: string, sizeBytes: number, got: string): PhiError {
  return new PhiError("io", `${what}: expected a file of ${sizeBytes} bytes, as the hub lists it, got ${got}`, [
    "The server's file is not the listed one: try again later.",
  ]);
}

/** Refuses an answer whose headers already say that it is not the listed file, or not the range that was asked for. */
export function checkLength(status: number, headers: Headers, what: string, range: ByteRange): void {
  const { offsetBytes, lengthBytes, sizeBytes } = range;
  const encoding = headers.get("content-encoding") ?? "identity";
  if (status === 206) {
    const [, from, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get("content-range") ?? "") ?? [];
    if (from !== String(offsetBytes) || encoding !== "identity") {
      const got = `"${printable(headers.get("content-range") ?? "none")}"`;
      throw new PhiError("io", `${what}: expected the bytes from ${offsetBytes} on, got the range ${got}`);
    }
    if (total !== "*" && total !== String(sizeBytes)) throw wrongLength(what, sizeBytes, `one of ${total}`);
  }
  const length = headers.get("content-length");
  const expected = status === 206 ? lengthBytes : sizeBytes;
  if (length !== null && encoding === "identity" && length !== String(expected)) {
    throw wrongLength(what, expected, `${printable(length)} bytes`);
  }
}
