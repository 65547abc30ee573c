/** What goes wrong with a request: what may pass by itself, and what none but the user can change. */
import { PhiError, printable } from "../engine/index.ts";
import type { HubSettings } from "./settings.ts";

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

const transientStatus: ReadonlySet<number> = new Set([408, 425, 429, 500, 502, 503, 504]);

/** What an answer without a good status means. */
export function failureOf(response: Response, address: URL, what: string, settings: HubSettings): Transient | PhiError {
  const { status, headers } = response;
  // A content server says 401 or 403 of an address whose signature is too old; the hub gives a new one.
  const isStale = address.origin !== new URL(settings.endpoint).origin && (status === 401 || status === 403);
  if (isStale || transientStatus.has(status)) {
    return new Transient(`HTTP status ${status} from ${address.host}`, { waitMs: askedWaitMs(headers) });
  }
  return refusal(response, address, what, settings);
}

/** What no further try will change: a PhiError with what may be done about it. */
function refusal({ status, headers }: Response, address: URL, what: string, settings: HubSettings): PhiError {
  const { endpoint, token } = settings;
  const code = headers.get("x-error-code");
  const said = headers.get("x-error-message");
  const got = `HTTP status ${status}${said ? ` ("${printable(said)}")` : ""} from ${address.host}`;
  const hasToken = token !== undefined;
  if (code === "GatedRepo" || status === 403) {
    return new PhiError("io", `${what}: expected to be allowed to read it, got ${got}`, [
      `Accept its licence on its page below ${endpoint}, ${hasToken ? "with the account of your token" : "then set HF_TOKEN to a token of that account"}.`,
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
    return new PhiError("checkpoint", `${what}: expected ${missing} on ${new URL(endpoint).host}, got ${got}`, [
      "Check the spelling; names are organisation/name, such as microsoft/phi-2.",
    ]);
  }
  return new PhiError("io", `${what}: expected HTTP status 200, got ${got}`);
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
export function connectionFailure(error: unknown): Transient {
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

/** `Retry-After` in seconds or as a date, else the seconds to the next window in the hub's `RateLimit`. */
function askedWaitMs(headers: Headers): number | undefined {
  const after = headers.get("retry-after") ?? /;\s*t=(\d+)/.exec(headers.get("ratelimit") ?? "")?.[1];
  if (after === undefined) return undefined;
  if (/^\d{1,9}$/.test(after)) return Number(after) * 1000;
  const date = Date.parse(after);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}
