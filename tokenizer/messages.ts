/** A conversation's messages, checked before a template sees them. */
import type { ChatMessage } from "./chat.ts";
import { printable, TokenizerError } from "./error.ts";

/**
 * Check a conversation, e.g. one parsed from a user's JSON. Throws TokenizerError (exit code 2) that names the field:
 * not a list, a role that is no text, content of another kind. A message may have no content where it has something else
 * to say, such as `tool_calls`. Any role is taken; what it means is the template's affair.
 */
export function checkMessages(messages: unknown): readonly ChatMessage[] {
  const refuse = (path: string, expected: string, got: unknown): never => {
    const shown =
      got === undefined ? "nothing" : got === null || typeof got !== "object" ? JSON.stringify(got) : "another value";
    throw new TokenizerError(`${path}: expected ${expected}, got ${printable(shown)}`, [], 2);
  };
  if (!Array.isArray(messages)) return refuse("messages", "a list of { role, content }", messages);
  if (messages.length === 0) return refuse("messages", "at least one message", "an empty list");
  for (const [i, message] of messages.entries()) {
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      return refuse(`messages[${i}]`, "{ role, content }", message);
    }
    const problem = messageProblem(message);
    if (problem !== undefined) refuse(`messages[${i}].${problem.field}`, problem.expected, problem.got);
  }
  return messages;
}

export interface MessageProblem {
  readonly field: "role" | "content";
  readonly expected: string;
  readonly got: unknown;
}

/** What is wrong with a message, or undefined. */
export function messageProblem(message: Readonly<Record<string, unknown>>): MessageProblem | undefined {
  const { role, content, ...others } = message;
  if (typeof role !== "string" || role === "") return { field: "role", expected: "the name of a role", got: role };
  if (content === undefined || content === null) {
    if (Object.values(others).some((value) => value !== undefined && value !== null)) return undefined;
    return { field: "content", expected: "a string", got: content };
  }
  const isText = typeof content === "string";
  const isParts = Array.isArray(content) && content.every((part) => typeof part === "object" && part !== null);
  // Tools answer with objects too.
  const isObject = typeof content === "object" && !Array.isArray(content);
  return isText || isParts || isObject ? undefined : { field: "content", expected: "a string", got: content };
}
