/**
 * Requests to the hub. Redirects are followed here, so that the token goes to the hub's own origin and nowhere else;
 * a busy or failing server is asked again after a pause, and a connection on which nothing comes is given up.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { PhiError, printable } from "../engine/index.ts";
import { type Answer, type ByteRange, rangeHeaders, readAll, readRange } from "./answer.ts";
import { connectionFailure, failureOf, Transient } from "./failure.ts";
import type { HubSettings } from "./settings.ts";

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

export interface ClientOptions {
  readonly signal: AbortSignal;
  /** Told of pauses. */
  readonly onNote?: (text: string) => void;
  /** The first pause after a failure; each further one is twice as long. Default 1000. */
  readonly pauseMs?: number;
  /** Whether the hub has answered before: then one that cannot be reached is waited for. */
  readonly wasReached?: boolean;
}

const mostTries = 6;
const mostRedirects = 10;
/** A server that asks for a longer pause is not waited for. */
const longestWaitMs = 300_000;

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
      throw failureOf(response, address, what, settings);
    }
    throw new PhiError("io", `${what}: expected a file, got more than ${mostRedirects} redirects from ${host}`);
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
          throw gaveUp(what, error, { failures, waitMs, reached });
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

/** What is told where no further try is made. */
function gaveUp(
  what: string,
  { message }: Transient,
  { failures, waitMs, reached }: { readonly failures: number; readonly waitMs: number; readonly reached: boolean },
): PhiError {
  const asked = waitMs > longestWaitMs ? `, which asks to wait ${Math.ceil(waitMs / 1000)} s` : "";
  const times = failures > 1 ? `, ${failures} times` : "";
  return new PhiError("io", `${what}: expected an answer, got ${message}${asked}${times}`, [
    "Check the connection, and try again: what is there already is kept.",
    ...(reached ? [] : ["Without a network, HF_HUB_OFFLINE=1 uses what the cache holds."]),
  ]);
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
