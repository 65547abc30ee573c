/** File calls that fail: what is written or read is judged at every k. */
import * as nodeFiles from "node:fs/promises";

/**
 * The calls of `node:fs/promises`, those of the files that they open included, of which the k-th fails with `code`; where
 * that is "short" a read gives nothing instead. `state` counts the calls, `close` not among them, and the files that are
 * open.
 */
export function failingFiles(k: number, code: string) {
  const state = { calls: 0, open: 0 };
  const wrapped = <T extends object>(target: T): T =>
    new Proxy(target, {
      get(of, name) {
        const call: unknown = Reflect.get(of, name);
        if (typeof call !== "function") return call;
        return async (...args: unknown[]) => {
          if (name === "close") state.open--;
          else if (state.calls++ === k) {
            if (code !== "short") throw Object.assign(new Error(`${code}: injected`), { code });
            if (name === "read") return { bytesRead: 0 };
          }
          const result: unknown = await Reflect.apply(call, of, args);
          if (name !== "open") return result;
          state.open++;
          return wrapped(result as object);
        };
      },
    });
  return { files: wrapped({ ...nodeFiles }), state };
}
