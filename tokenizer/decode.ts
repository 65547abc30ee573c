/**
 * Token ids to text, one id at a time. Decoding a whole sequence is streaming it, so the two cannot differ.
 */
import type { DecoderStep } from "./components.ts";
import type { Definition } from "./definition.ts";
import { replaceMatches } from "./pattern.ts";

/** Text as it becomes certain. A piece never ends in half a character; the pieces joined are the decoded text. */
export interface TextStream {
  /** The text that this id makes certain; often "". An id of no token is skipped. */
  push(id: number): string;
  /** What was still held back. The stream is then at its end. */
  flush(): string;
}

/** One step of the decoder: takes pieces, gives pieces. */
interface Stage {
  push(piece: string): string;
  flush(): string;
}

/**
 * The text of the ids so far. Unknown ids are skipped, as Hugging Face `tokenizers` does; nothing is thrown. With `after`,
 * the text goes on from those ids: what decoding all gives beyond what decoding those alone gives.
 */
export function createTextStream(
  definition: Definition,
  hiddenIds: ReadonlySet<number>,
  after: readonly number[] = [],
): TextStream {
  const stream = streamFromStart(definition, hiddenIds);
  if (after.length === 0) return stream;
  // What the stages still hold of the text before, as half a run of bytes, comes out with the text that follows.
  const before = streamFromStart(definition, hiddenIds);
  for (const id of after) {
    stream.push(id);
    before.push(id);
  }
  let known = before.flush();
  const beyond = (text: string): string => {
    let shared = 0;
    while (shared < known.length && text[shared] === known[shared]) shared++;
    known = shared === text.length ? known.slice(shared) : "";
    return text.slice(shared);
  };
  return { push: (id) => beyond(stream.push(id)), flush: () => beyond(stream.flush()) };
}

function streamFromStart(definition: Definition, hiddenIds: ReadonlySet<number>): TextStream {
  const stages = createStages(definition.decoder);
  const run = (text: string, from: number): string => {
    let piece = text;
    for (let i = from; i < stages.length; i++) piece = stages[i]?.push(piece) ?? "";
    return piece;
  };
  /** How many U+FFFD at the end are held back, as the reference streams do: they end up in front of certain text. */
  let doubtful = 0;
  return {
    push(id) {
      const token = hiddenIds.has(id) ? undefined : (definition.decoded[id] ?? definition.tokenOf[id]);
      if (token === undefined) return "";
      const text = run(token, 0);
      const trailing = trailingReplacements(text);
      const before = doubtful;
      doubtful = trailing === text.length ? before + trailing : trailing;
      return trailing === text.length ? "" : "\ufffd".repeat(before) + text.slice(0, text.length - trailing);
    },
    flush() {
      let text = "\ufffd".repeat(doubtful);
      doubtful = 0;
      for (const [i, stage] of stages.entries()) text += run(stage.flush(), i + 1);
      return text;
    },
  };
}

function trailingReplacements(text: string): number {
  let count = 0;
  while (count < text.length && text[text.length - 1 - count] === "\ufffd") count++;
  return count;
}

function createStages(decoder: readonly DecoderStep[] | null): readonly Stage[] {
  if (decoder === null) return [joinWithBlanks()];
  const stages: Stage[] = [];
  let fused = false;
  for (const step of decoder) {
    if (step.type === "Fuse") {
      fused = true;
    } else {
      stages.push(createStage(step, fused));
      fused ||= step.type === "ByteLevel";
    }
  }
  return stages;
}

function createStage(step: Exclude<DecoderStep, { readonly type: "Fuse" }>, fused: boolean): Stage {
  switch (step.type) {
    case "ByteLevel":
      return byteLevel();
    case "ByteFallback":
      return byteFallback();
    case "Replace": {
      const { pattern, content } = step;
      return perToken((token) =>
        typeof pattern === "string" ? token.split(pattern).join(content) : replaceMatches(token, pattern, content),
      );
    }
    case "Strip":
      return fused ? stripWhole(step.content, step.start, step.stop) : stripToken(step);
    case "Metaspace":
      return metaspace(step.replacement, step.scheme !== "never");
  }
}

function perToken(change: (token: string) => string): Stage {
  return { push: (token) => (token === "" ? "" : change(token)), flush: () => "" };
}

function joinWithBlanks(): Stage {
  let first = true;
  return {
    push(token) {
      const text = first ? token : ` ${token}`;
      first = false;
      return text;
    },
    flush: () => "",
  };
}

/** Bytes written as printable characters (GPT-2); a token that is not written so stands for its own UTF-8. */
function byteLevel(): Stage {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const encoder = new TextEncoder();
  return {
    push(token) {
      const bytes = new Uint8Array(token.length);
      for (let i = 0; i < token.length; i++) {
        const byte = byteOfCharacter.get(token.charCodeAt(i));
        if (byte === undefined) return decoder.decode(encoder.encode(token), { stream: true });
        bytes[i] = byte;
      }
      return decoder.decode(bytes, { stream: true });
    },
    flush: () => decoder.decode(),
  };
}

/**
 * The characters that stand for the 256 bytes in byte-level vocabularies: the printable ones of Latin-1 for themselves,
 * the others moved to U+0100 and on (`bytes_to_unicode` of OpenAI's GPT-2 encoder.py).
 */
export const characterOfByte: readonly string[] = (() => {
  let moved = 0;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : 0x100 + moved++);
  });
})();

const byteOfCharacter: ReadonlyMap<number, number> = new Map(
  characterOfByte.map((character, byte) => [character.charCodeAt(0), byte]),
);

/**
 * `<0x41>` tokens stand for bytes. A run of them is held until it ends, since one bad byte turns the whole run into
 * U+FFFD, one a byte; that is how Hugging Face `tokenizers` decodes.
 */
function byteFallback(): Stage {
  let run: number[] = [];
  const end = (): string => {
    if (run.length === 0) return "";
    const bytes = Uint8Array.from(run);
    run = [];
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      return "\ufffd".repeat(bytes.length);
    }
  };
  return {
    push(token) {
      if (/^<0x[0-9A-Fa-f]{2}>$/.test(token)) {
        run.push(Number.parseInt(token.slice(3, 5), 16));
        return "";
      }
      return token === "" ? "" : end() + token;
    },
    flush: end,
  };
}

/** The replacement character becomes a blank, and nothing in the first token. */
function metaspace(replacement: string, dropFirst: boolean): Stage {
  let first = true;
  return {
    push(token) {
      if (token === "") return "";
      const text = token.replaceAll(replacement, first && dropFirst ? "" : " ");
      first = false;
      return text;
    },
    flush: () => "",
  };
}

function stripToken(step: { readonly content: string; readonly start: number; readonly stop: number }): Stage {
  return perToken((token) => {
    let from = 0;
    let to = token.length;
    for (let i = 0; i < step.start && token.startsWith(step.content, from); i++) from += step.content.length;
    for (let i = 0; i < step.stop && to > from && token.endsWith(step.content); i++) {
      if (!token.slice(from, to).endsWith(step.content)) break;
      to -= step.content.length;
    }
    return token.slice(from, to);
  });
}

/** Takes up to `start` (`stop`) times `content` from the beginning (end) of the whole text. */
function stripWhole(content: string, start: number, stop: number): Stage {
  let toStrip = start;
  let held = "";
  return {
    push(piece) {
      let text = held + piece;
      held = "";
      while (toStrip > 0 && text !== "") {
        if (text.startsWith(content)) {
          text = text.slice(content.length);
          toStrip -= 1;
        } else {
          toStrip = 0;
        }
      }
      let end = text.length;
      for (let i = 0; i < stop && text.slice(0, end).endsWith(content); i++) end -= content.length;
      held = text.slice(end);
      return text.slice(0, end);
    },
    flush() {
      held = "";
      return "";
    },
  };
}
