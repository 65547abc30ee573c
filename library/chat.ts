/** Conversations: how a model is talked to, and how its answers stay in the cache from turn to turn. */
import { PhiError, printable } from "../engine/index.ts";
import { type ChatMessage, type Tokenizer, TokenizerError } from "../tokenizer/index.ts";
import { withRows } from "./text.ts";

/**
 * `template`: the model's own chat template. `instruct`: `Instruct: … Output:`, as phi-2's model card has it. `dialogue`:
 * `Alice: … Bob:`, as phi-1.5's has it.
 */
export type ChatFormName = "template" | "instruct" | "dialogue";

/** A way to write a conversation. */
export interface ChatForm {
  readonly name: ChatFormName;
  /** What a base model writes when it goes on with the user's part. */
  readonly stops: readonly string[];
  /** Ids of the conversation with the assistant's answer opened. Throws a TokenizerError for messages it cannot write. */
  encode(messages: readonly ChatMessage[]): readonly number[];
}

/** How a base model's conversation is written: names of the two speakers, and what stands between their parts. */
const baseForms = {
  instruct: { user: "Instruct:", assistant: "Output:", inside: "\n", between: "\n" },
  dialogue: { user: "Alice:", assistant: "Bob:", inside: "\n\n", between: "\n\n" },
} as const;

const otherForms = '--form instruct ("Instruct: … Output:") or --form dialogue ("Alice: … Bob:")';

/** By the model's template; where the template itself fails, another form may serve. */
function encodeByTemplate(tokenizer: Tokenizer, messages: readonly ChatMessage[]): readonly number[] {
  try {
    return tokenizer.encodeChat(messages, { addGenerationPrompt: true });
  } catch (error) {
    if (!(error instanceof TokenizerError) || error.exitCode !== 3) throw error;
    throw new TokenizerError(error.message, [`Another form needs no template: ${otherForms}.`], 3, { cause: error });
  }
}

/** What is known of a model, to choose its form. */
export interface ChatModelFacts {
  /** The name of its folder or repository, without those above it. */
  readonly name: string;
  readonly type: string;
  readonly hidden: number;
  readonly layers: number;
}

/**
 * The form of a model: the one asked for, else its chat template, else the form on the model card. phi-1 has none: it was
 * trained on code alone, and its config.json is the same as phi-1.5's, so names decide. Throws a PhiError "usage".
 */
export function chatForm(tokenizer: Tokenizer, model: ChatModelFacts, asked?: ChatFormName): ChatForm {
  const isPhi2 =
    /phi-2(?![\d.])/i.test(model.name) || (model.type === "phi" && model.hidden === 2560 && model.layers === 32);
  const own = tokenizer.hasChatTemplate
    ? "template"
    : isPhi2
      ? "instruct"
      : /phi-1[._-]5/i.test(model.name)
        ? "dialogue"
        : undefined;
  const name = asked ?? own;
  if (name === undefined || (name === "template" && !tokenizer.hasChatTemplate)) {
    throw new PhiError(
      "usage",
      "expected a model with a chat template, got one without, and its name tells no other form",
      [`Choose one: ${otherForms}; or use phi generate.`],
    );
  }
  if (name === "template") {
    return { name, stops: [], encode: (messages) => withRows(encodeByTemplate(tokenizer, messages), tokenizer) };
  }
  const { user, assistant, inside, between } = baseForms[name];
  const part = ({ role, content }: ChatMessage): string => {
    if (typeof content !== "string") {
      throw new PhiError(
        "usage",
        `--form ${name}: expected messages whose content is text, got one of the ${printable(role)} without`,
      );
    }
    if (role === "system") return `${content}${between}`;
    return role === "assistant" ? ` ${content}${between}` : `${user} ${content}${inside}${assistant}`;
  };
  return {
    name,
    stops: [`\n${user}`],
    encode: (messages) =>
      // Messages are data: a control token's text in them is text.
      withRows(
        tokenizer.encode(messages.map(part).join(""), { addSpecialTokens: true, allowSpecial: false }),
        tokenizer,
      ),
  };
}

/** A turn as it is in the cache: what the model was given, and the ids that it chose. */
export interface CachedTurn {
  readonly prompt: readonly number[];
  readonly generated: readonly number[];
}

/**
 * The ids of a conversation with the last answer's ids as the model chose them, so that its cached keys serve again: a
 * model may write a text in other tokens than a tokenizer does. The ids as they are where the conversation does not go on
 * from that turn.
 */
export function withCachedTurn(ids: readonly number[], turn: CachedTurn, tokenizer: Tokenizer): readonly number[] {
  const { prompt, generated } = turn;
  if (ids.length <= prompt.length || prompt.some((id, i) => ids[i] !== id)) return ids;
  const answer = tokenizer.decode(generated, { skipSpecialTokens: true }).trimEnd();
  // As many ids as write that text: not the end token, nor blanks at the end, which a conversation leaves out.
  const lengthOf = (part: readonly number[]): number | undefined => {
    const stream = tokenizer.stream({ skipSpecialTokens: true });
    let text = "";
    for (let length = 0; length <= part.length && text.length <= answer.length; length++) {
      if (text === answer) return length;
      text += stream.push(part[length] ?? 0);
    }
    return undefined;
  };
  const rest = ids.slice(prompt.length);
  const chosen = lengthOf(generated);
  const written = lengthOf(rest);
  if (chosen === undefined || written === undefined) return ids;
  return [...prompt, ...generated.slice(0, chosen), ...rest.slice(written)];
}

/**
 * The conversation without its oldest turns, as few as leave room for an answer: the system's message and the last one
 * stay. `fits` says whether messages leave that room. Undefined where the last message alone is too long.
 */
export function withoutOldest(
  messages: readonly ChatMessage[],
  fits: (messages: readonly ChatMessage[]) => boolean,
): readonly ChatMessage[] | undefined {
  const system = messages[0]?.role === "system" ? messages.slice(0, 1) : [];
  let turns = messages.slice(system.length);
  while (!fits([...system, ...turns])) {
    const next = turns.findIndex(({ role }, i) => i > 0 && role === "user");
    if (next < 0) return undefined;
    turns = turns.slice(next);
  }
  return [...system, ...turns];
}
