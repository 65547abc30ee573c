/**
 * Chat templates: Jinja as Hugging Face `transformers` renders it. A template comes with a checkpoint, so it is untrusted
 * code: it is run by an interpreter of our own, which counts steps, nesting, time and the size of every value.
 */
import { printable, TokenizerError } from "./error.ts";
import { known } from "./jinja/filters.ts";
import { RaisedByTemplate, Renderer } from "./jinja/run.ts";
import { type Body, type Place, parse, SyntaxFault } from "./jinja/syntax.ts";
import type { Str } from "./jinja/text.ts";
import { budget, Fault, type Value } from "./jinja/values.ts";

/**
 * One message of a conversation. Further fields (`tool_calls`, `name`, `reasoning_content` …) are passed to the template
 * as they are, and so is content that is no text: a list of parts, as `{ type: "text", text: "…" }`.
 */
export interface ChatMessage {
  /** `system`, `user`, `assistant`, `tool`, or what else the template knows. */
  readonly role: string;
  /** May be absent or null beside `tool_calls`. */
  readonly content?: string | readonly unknown[] | Readonly<Record<string, unknown>> | null;
  readonly [field: string]: unknown;
}

/** A template that has been parsed. */
export interface ChatTemplate {
  /**
   * Render with these variables. The text knows which of its characters are data. Throws TokenizerError naming the
   * template's line: a budget that ran out, the template's own `raise_exception`, or an operation that is not supported.
   */
  render(variables: ReadonlyMap<string, Value>): Str;
}

const advice = ["Plain text needs no template: phi generate or phi tokenize without --chat."];

/**
 * Parse a chat template. `file` names where it comes from in messages.
 * Throws TokenizerError with line and column for a syntax error, and for a template too large or too deeply nested.
 */
export function parseChatTemplate(source: string, file: string): ChatTemplate {
  const fail = (message: string, place: Place | undefined, cause?: unknown): TokenizerError => {
    const where = place === undefined ? "" : `, line ${place.line}, column ${place.column}`;
    return new TokenizerError(`${file}: chat template${where}: ${printable(message)}`, advice, 3, { cause });
  };
  if (source.length > budget.templateCharacters) {
    throw fail(`expected at most ${budget.templateCharacters} characters, got ${source.length}`, undefined);
  }
  let body: Body;
  try {
    body = parse(source, known);
  } catch (error) {
    if (error instanceof SyntaxFault) throw fail(error.message, error.place, error);
    throw error;
  }
  return {
    render(variables) {
      const renderer = new Renderer();
      try {
        return renderer.render(body, variables);
      } catch (error) {
        if (error instanceof RaisedByTemplate) throw fail(`the template says: ${error.message}`, renderer.place, error);
        if (error instanceof Fault) throw fail(error.message, renderer.place, error);
        if (error instanceof RangeError) {
          throw fail("it is nested too deeply or makes too long a text", renderer.place, error);
        }
        throw error;
      }
    },
  };
}
