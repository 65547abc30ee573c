/** Stop strings in a stream of text pieces, and of special tokens, whose text is not given out. */

export interface StopFilter {
  /**
   * The text that may be printed after this piece; what could be the beginning of a stop string is held back. `hidden` is
   * the text of a special token that stands after the piece: it is looked at and never given out.
   */
  push(piece: string, hidden?: string): string;
  /** The rest, when no stop string can come any more. */
  flush(): string;
  /** Whether a stop string was met: nothing from it on is ever given out. */
  readonly stopped: boolean;
}

/** A special token's text, at an offset of the text that is held. */
interface Mark {
  readonly at: number;
  readonly text: string;
}

/**
 * Cuts a stream before the first stop string, also where it is split over pieces, and where it is or holds a special
 * token. A stop string is looked for in the text with the special tokens' own, and in the text as it is given out. Stop
 * strings are not empty.
 */
export function stopFilter(stops: readonly string[]): StopFilter {
  const longest = stops.reduce((most, stop) => Math.max(most, stop.length), 0);
  let held = "";
  /** In the order in which they stand. */
  let marks: Mark[] = [];
  let stopped = false;

  /** Where a stop string is whole, or -1, and from where on one may have begun. */
  const look = (text: string): { readonly found: number; readonly begins: number } => {
    const found = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    if (found.length > 0) return { found: Math.min(...found), begins: 0 };
    let begins = Math.max(0, text.length - longest + 1);
    while (begins < text.length && !stops.some((stop) => startsWithRest(stop, text, begins))) begins++;
    return { found: -1, begins };
  };

  return {
    get stopped() {
      return stopped;
    },
    push(piece, hidden = "") {
      if (stopped) return "";
      held += piece;
      if (hidden !== "" && longest > 0) marks.push({ at: held.length, text: hidden });
      const shown = look(held);
      const all = marks.length === 0 ? shown : look(withMarks(held, marks));
      const cuts = [
        ...(shown.found >= 0 ? [shown.found] : []),
        ...(all.found >= 0 ? [shownOffset(marks, all.found)] : []),
      ];
      if (cuts.length > 0) {
        stopped = true;
        const text = held.slice(0, Math.min(...cuts));
        held = "";
        return text;
      }
      const cut = Math.min(shown.begins, shownOffset(marks, all.begins));
      const text = held.slice(0, cut);
      held = held.slice(cut);
      marks = marksFrom(marks, cut, all.begins).map((mark) => ({ ...mark, at: mark.at - cut }));
      return text;
    },
    flush() {
      const rest = held;
      held = "";
      return stopped ? "" : rest;
    },
  };
}

function withMarks(held: string, marks: readonly Mark[]): string {
  let text = "";
  let done = 0;
  for (const mark of marks) {
    text += held.slice(done, mark.at) + mark.text;
    done = mark.at;
  }
  return text + held.slice(done);
}

/** The offset in the text that is given out of one in the text with marks; inside a mark it is the mark's. */
function shownOffset(marks: readonly Mark[], offset: number): number {
  let hidden = 0;
  for (const { at, text } of marks) {
    if (at + hidden >= offset) break;
    hidden += Math.min(text.length, offset - at - hidden);
  }
  return offset - hidden;
}

/** The marks within the text from `cut` on, and of those before all of it the ones that end after `begins`. */
function marksFrom(marks: readonly Mark[], cut: number, begins: number): Mark[] {
  let hidden = 0;
  return marks.filter(({ at, text }) => {
    hidden += text.length;
    return at > cut || (at === cut && at + hidden > begins);
  });
}

/** Whether `stop` begins with what `text` holds from `start` on. */
function startsWithRest(stop: string, text: string, start: number): boolean {
  return stop.charCodeAt(0) === text.charCodeAt(start) && stop.startsWith(text.slice(start));
}
