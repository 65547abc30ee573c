/** Stop strings in a stream of text pieces. */

export interface StopFilter {
  /** The text that may be printed after this piece; what could be the beginning of a stop string is held back. */
  push(piece: string): string;
  /** The rest, when no stop string can come any more. */
  flush(): string;
  /** Whether a stop string was met: nothing from it on is ever given out. */
  readonly stopped: boolean;
}

/** Cuts a stream before the first stop string, also where it is split over pieces. Stop strings are not empty. */
export function stopFilter(stops: readonly string[]): StopFilter {
  const longest = stops.reduce((most, stop) => Math.max(most, stop.length), 0);
  let held = "";
  let stopped = false;
  return {
    get stopped() {
      return stopped;
    },
    push(piece) {
      if (stopped) return "";
      const text = held + piece;
      const found = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
      if (found.length > 0) {
        stopped = true;
        held = "";
        return text.slice(0, Math.min(...found));
      }
      let cut = Math.max(0, text.length - longest + 1);
      while (cut < text.length && !stops.some((stop) => startsWithRest(stop, text, cut))) cut++;
      held = text.slice(cut);
      return text.slice(0, cut);
    },
    flush() {
      const rest = held;
      held = "";
      return stopped ? "" : rest;
    },
  };
}

/** Whether `stop` begins with what `text` holds from `start` on. */
function startsWithRest(stop: string, text: string, start: number): boolean {
  return stop.charCodeAt(0) === text.charCodeAt(start) && stop.startsWith(text.slice(start));
}
