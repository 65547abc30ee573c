/**
 * Chat templates: Jinja as Hugging Face `transformers` renders it, interpreted by `@huggingface/jinja`. A template comes
 * with a checkpoint, so it is untrusted code: every step of the interpreter passes through `BoundedInterpreter`, which
 * counts steps, nesting, time and the size of every value. The budgets are those of `budget` below.
 */
import * as jinja from "@huggingface/jinja";
import { printable, TokenizerError } from "./error.ts";

/** One message of a conversation. Further fields (`tools`, `tool_calls` …) are passed to the template as they are. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  readonly [field: string]: unknown;
}

/** A template that has been parsed. */
export interface ChatTemplate {
  /** The template as written. */
  readonly source: string;
  /**
   * Render with these variables (plain JSON values only). Throws TokenizerError naming the template's line: a budget
   * that ran out, the template's own `raise_exception`, or an operation that is not supported.
   */
  render(variables: Readonly<Record<string, unknown>>): string;
}

const budget = {
  steps: 1_000_000,
  milliseconds: 2000,
  depth: 200,
  /** Characters of the rendering, and of any value on the way. */
  characters: 10_000_000,
  /** As in Jinja's own sandbox. */
  range: 100_000,
  templateCharacters: 2 ** 20,
  /** The library's reading of a run of blanks is quadratic in its length. */
  blankRun: 10_000,
} as const;

// The library's own declarations lack file extensions and do not resolve here, so the part in use is declared.
interface Value {
  readonly type: string;
  readonly value: unknown;
}
interface Token {
  readonly type: string;
  readonly value: string;
}
interface Node {
  readonly type: string;
  readonly body?: readonly Node[];
  readonly alternate?: readonly Node[];
  readonly defaultBlock?: readonly Node[];
}
interface Program extends Node {
  readonly body: readonly Node[];
}
interface Environment {
  set(name: string, value: unknown): unknown;
}
interface Interpreter {
  run(program: Program): Value;
  evaluate(node: Node | undefined, environment: Environment): Value;
}
interface Jinja {
  readonly Environment: new () => Environment;
  readonly Interpreter: new (environment: Environment) => Interpreter;
  tokenize(source: string, options: { readonly lstrip_blocks: boolean; readonly trim_blocks: boolean }): Token[];
  parse(tokens: readonly Token[]): Program;
}
const { Environment, Interpreter, parse, tokenize } = jinja as unknown as Jinja;

/**
 * Parse a chat template. `file` names where it comes from in messages.
 * Throws TokenizerError with line and column for a syntax error, and for a template too large or too deeply nested.
 */
export function parseChatTemplate(source: string, file: string): ChatTemplate {
  const advice = ["Use --raw to give the prompt as plain text, without the template."];
  const fail = (message: string, tag: Tag | undefined, cause?: unknown): TokenizerError => {
    const place = tag === undefined ? "" : `, line ${tag.line}, column ${tag.column}`;
    return new TokenizerError(`${file}: chat template${place}: ${printable(message)}`, advice, 3, { cause });
  };
  if (source.length > budget.templateCharacters) {
    throw fail(`expected at most ${budget.templateCharacters} characters, got ${source.length}`, undefined);
  }
  if (new RegExp(`\\s{${budget.blankRun}}`).test(source)) {
    throw fail(`expected runs of at most ${budget.blankRun} blanks, got a longer one`, undefined);
  }

  const tags = findTags(source);
  let tokens: Token[];
  try {
    tokens = readTokens(source);
  } catch (error) {
    throw fail(explain(error, "it ends too early"), firstBadTag(source, tags), error);
  }
  const tagOf = tagsOfTokens(tokens, tags);
  const deep = findDeepToken(tokens);
  if (deep >= 0) throw fail(`expected nesting at most ${budget.depth} deep, got deeper`, tagOf[deep]);
  let program: Program;
  try {
    program = parse(tokens);
  } catch (error) {
    throw fail(explain(error, "it ends too early"), tagOf[badToken(tokens)], error);
  }
  const tagOfNode = new WeakMap<object, Tag>();
  placeNodes(program.body, tokens, 0, tagOf, tagOfNode);

  return {
    source,
    render(variables) {
      const environment = new Environment();
      const interpreter = new BoundedInterpreter(environment, tagOfNode, fail);
      try {
        for (const [name, value] of Object.entries({ ...globals(), ...variables })) environment.set(name, value);
        const result = interpreter.run(program);
        return String(result.value);
      } catch (error) {
        if (error instanceof TokenizerError) throw error;
        if (error instanceof RaisedByTemplate) {
          throw fail(`the template says: ${error.message}`, interpreter.tag, error);
        }
        throw fail(explain(error, "a value is used in a way that is not supported"), interpreter.tag, error);
      }
    },
  };
}

function readTokens(source: string): Token[] {
  return tokenize(source, { lstrip_blocks: true, trim_blocks: true });
}

/** The library's complaint in words that make sense without its source. */
function explain(error: unknown, typeError: string): string {
  if (error instanceof RangeError) return "it is nested too deeply or makes too long a text";
  if (error instanceof TypeError) return typeError;
  const message = error instanceof Error ? error.message : String(error);
  return message === "" ? "break or continue outside of a loop" : message.replace(/^Parser Error: /, "");
}

// ---- running ---------------------------------------------------------------------------------------------------------

class RaisedByTemplate extends Error {}

/** The names that every template sees, as in `transformers`. */
function globals(): Record<string, unknown> {
  return {
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
    raise_exception(message: unknown) {
      throw new RaisedByTemplate(typeof message === "string" ? message : "(no message)");
    },
    range,
    strftime_now,
  };
}

function range(...bounds: unknown[]): number[] {
  const numbers = bounds.map((bound) => {
    if (typeof bound !== "number" || !Number.isInteger(bound)) throw new Error("range() takes integers");
    return bound;
  });
  const [start = 0, stop = 0, step = 1] = numbers.length === 1 ? [0, ...numbers] : numbers;
  if (step === 0) throw new Error("range() takes a step other than 0");
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (length > budget.range) throw new Error(`range() makes at most ${budget.range} numbers, not ${length}`);
  return Array.from({ length }, (_, i) => start + i * step);
}

function strftime_now(format: unknown): string {
  const now = new Date();
  const two = (n: number): string => String(n).padStart(2, "0");
  const month = (style: "long" | "short"): string => now.toLocaleString("en-US", { month: style });
  return String(format).replace(/%[YmdbBHMS%]/g, (code) => {
    switch (code) {
      case "%Y":
        return String(now.getFullYear());
      case "%m":
        return two(now.getMonth() + 1);
      case "%d":
        return two(now.getDate());
      case "%b":
        return month("short");
      case "%B":
        return month("long");
      case "%H":
        return two(now.getHours());
      case "%M":
        return two(now.getMinutes());
      case "%S":
        return two(now.getSeconds());
      default:
        return "%";
    }
  });
}

/** The node being evaluated: the two largest sizes among its operands bound what a filter or call can make of them. */
interface Frame {
  readonly type: string;
  largest: number;
}

/** The library's interpreter with a meter in its one recursive entry, `evaluate`. */
class BoundedInterpreter extends Interpreter {
  /** The tag being rendered, for messages. */
  tag: Tag | undefined;
  #steps = 0;
  #depth = 0;
  #printed = 0;
  #frame: Frame = { type: "", largest: 0 };
  readonly #sizes = new WeakMap<object, number>();
  readonly #started = performance.now();
  readonly #tagOfNode: WeakMap<object, Tag>;
  readonly #fail: (message: string, tag: Tag | undefined) => TokenizerError;

  constructor(
    environment: Environment,
    tagOfNode: WeakMap<object, Tag>,
    fail: (message: string, tag: Tag | undefined) => TokenizerError,
  ) {
    super(environment);
    this.#tagOfNode = tagOfNode;
    this.#fail = fail;
  }

  override evaluate(statement: Node | undefined, environment: Environment): Value {
    if (statement === undefined) return super.evaluate(statement, environment);
    const outerTag = this.tag;
    const ownTag = this.#tagOfNode.get(statement);
    this.tag = ownTag ?? outerTag;
    this.#charge(1);
    if (++this.#depth > budget.depth) throw this.#exceeded(`nesting of ${budget.depth}`);
    const outer = this.#frame;
    const frame: Frame = { type: statement.type, largest: 0 };
    this.#frame = frame;

    const value = super.evaluate(statement, environment);

    this.#frame = outer;
    this.#depth -= 1;
    // A method such as `text.replace` is as large as what it works on.
    const size = value.type === "FunctionValue" ? frame.largest : this.#measure(value, 0);
    if (size > budget.characters) throw this.#exceeded(`${budget.characters} characters in one value`);
    if (computes.has(statement.type) || outer.type === "For") this.#charge(size / 1000 + lengthOf(value));
    if (ownTag !== undefined) {
      this.#printed += size;
      // Captured blocks and macros count once for each level that they pass through.
      if (this.#printed > 4 * budget.characters) throw this.#exceeded(`${4 * budget.characters} characters in all`);
    }
    if (outer.type === "FilterExpression" || outer.type === "CallExpression" || outer.type === "MemberExpression") {
      const operand = outer.type === "FilterExpression" && typeof value.value === "number" ? value.value : size;
      // Joining, replacing and indenting make at most the product of their operands' sizes.
      if (operand * outer.largest > 4 * budget.characters) throw this.#exceeded(`${budget.characters} characters`);
      outer.largest = Math.max(outer.largest, operand);
    }
    this.tag = outerTag ?? this.tag;
    return value;
  }

  #charge(steps: number): void {
    const before = this.#steps;
    this.#steps += steps;
    if (this.#steps > budget.steps) throw this.#exceeded(`${budget.steps} steps`);
    if (Math.floor(before / 64) !== Math.floor(this.#steps / 64)) {
      if (performance.now() - this.#started > budget.milliseconds) {
        throw this.#exceeded(`${budget.milliseconds / 1000} s`);
      }
    }
  }

  #exceeded(what: string): TokenizerError {
    return this.#fail(`the template takes more than its budget of ${what}`, this.tag);
  }

  /** About how many characters a value has when it is written out. */
  #measure(value: Value, depth: number): number {
    if (value.type === "StringValue") return String(value.value).length;
    const content: unknown = value.value;
    if (!(Array.isArray(content) || content instanceof Map)) return 8;
    if (depth > budget.depth) throw this.#exceeded(`nesting of ${budget.depth}`);
    const known = this.#sizes.get(value);
    if (known !== undefined) return known;
    let size = 2;
    const children: Iterable<Value> = content.values();
    for (const child of children) size += 2 + this.#measure(child, depth + 1);
    if (content instanceof Map) for (const key of content.keys()) size += 4 + String(key).length;
    // A namespace is the one value that changes.
    if (value.type !== "NamespaceValue") this.#sizes.set(value, size);
    return size;
  }
}

/** Nodes that may do work in proportion to the size of what they make. */
const computes: ReadonlySet<string> = new Set([
  "CallExpression",
  "FilterExpression",
  "FilterStatement",
  "BinaryExpression",
  "CallStatement",
]);

function lengthOf(value: Value): number {
  return Array.isArray(value.value) ? value.value.length : 0;
}

// ---- where things stand in the source --------------------------------------------------------------------------------

/** A `{{ … }}`, `{% … %}` or `{# … #}` of the source. */
interface Tag {
  /** Offset after the tag. */
  readonly end: number;
  /** Both from 1, of the tag's first character. */
  readonly line: number;
  readonly column: number;
}

/** All tags, in order. The library keeps no positions, so they are found apart from it. */
function findTags(source: string): readonly Tag[] {
  const tags: Tag[] = [];
  const opening = /\{[%{#]/g;
  let line = 1;
  let lineStart = 0;
  let newline = source.indexOf("\n");
  for (let found = opening.exec(source); found !== null; found = opening.exec(source)) {
    const start = found.index;
    const end = tagEnd(source, start, found[0]);
    for (; newline >= 0 && newline < start; newline = source.indexOf("\n", newline + 1)) {
      line += 1;
      lineStart = newline + 1;
    }
    // The library removes this tag of `transformers` before it reads the template.
    if (!/^\{%-?\s*(?:end)?generation\s*-?%\}$/.test(source.slice(start, Math.min(end, start + 200)))) {
      tags.push({ end, line, column: start - lineStart + 1 });
    }
    opening.lastIndex = end;
  }
  return tags;
}

function tagEnd(source: string, start: number, opening: string): number {
  if (opening === "{#") {
    const close = source.indexOf("#}", start + 2);
    return close < 0 ? source.length : close + 2;
  }
  const part = /"(?:\\[\s\S]|[^"\\])*"|'(?:\\[\s\S]|[^'\\])*'|%\}|[{}]|[^"'%{}]+|[\s\S]/y;
  let depth = 0;
  let at = start + 2;
  while (at < source.length) {
    part.lastIndex = at;
    const found = part.exec(source)?.[0] ?? "";
    if (opening === "{%" && found === "%}") return at + 2;
    if (opening === "{{" && found === "}") {
      if (depth === 0 && source[at + 1] === "}") return at + 2;
      depth = Math.max(0, depth - 1);
    }
    if (found === "{") depth += 1;
    at += Math.max(1, found.length);
  }
  return source.length;
}

function opensTag(token: Token | undefined): boolean {
  return token?.type === "OpenStatement" || token?.type === "OpenExpression" || token?.type === "Comment";
}

/** The tag that each token stands in; all undefined should the two readings of the source disagree. */
function tagsOfTokens(tokens: readonly Token[], tags: readonly Tag[]): readonly (Tag | undefined)[] {
  const agree = tokens.filter(opensTag).length === tags.length;
  let next = 0;
  return tokens.map((token) => {
    if (opensTag(token)) next += 1;
    return agree ? tags[Math.max(0, next - 1)] : undefined;
  });
}

/** The first tag up to which the source cannot be read. */
function firstBadTag(source: string, tags: readonly Tag[]): Tag | undefined {
  let low = 0;
  let high = tags.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    try {
      readTokens(source.slice(0, tags[middle]?.end ?? 0));
      low = middle + 1;
    } catch {
      high = middle;
    }
  }
  return tags[low];
}

/** The token at which parsing failed: the furthest one that the parser looked at. */
function badToken(tokens: readonly Token[]): number {
  let furthest = 0;
  const watched = new Proxy([...tokens], {
    get(target, key) {
      const index = typeof key === "string" ? Number(key) : Number.NaN;
      if (index > furthest) furthest = index;
      return Reflect.get(target, key);
    },
  });
  try {
    parse(watched);
  } catch {
    // Expected: it failed before.
  }
  return Math.min(furthest, tokens.length - 1);
}

/** The first token nested deeper than the budget, or -1. The library's parser recurses without a limit. */
function findDeepToken(tokens: readonly Token[]): number {
  let brackets = 0;
  /** How deep each open block counts: every `elif` nests once more. */
  const blocks: number[] = [];
  let blockDepth = 0;
  for (const [i, token] of tokens.entries()) {
    if (/^Open(?:Paren|SquareBracket|CurlyBracket)$/.test(token.type)) brackets += 1;
    if (/^Close(?:Paren|SquareBracket|CurlyBracket)$/.test(token.type)) brackets -= 1;
    if (token.type === "OpenStatement") {
      brackets = 0;
      const name = tokens[i + 1]?.value ?? "";
      if (/^(?:if|for|macro|call|filter)$/.test(name)) {
        blocks.push(1);
        blockDepth += 1;
      } else if (name === "elif") {
        blocks.push((blocks.pop() ?? 0) + 1);
        blockDepth += 1;
      } else if (/^end(?:if|for|macro|call|filter)$/.test(name)) {
        blockDepth -= blocks.pop() ?? 0;
      }
    }
    if (brackets + blockDepth > budget.depth) return i;
  }
  return -1;
}

/**
 * Note for each statement of a block the tag that it was written as, walking tokens and nodes side by side.
 * Returns the index of the first token after the block.
 */
function placeNodes(
  nodes: readonly Node[],
  tokens: readonly Token[],
  start: number,
  tagOf: readonly (Tag | undefined)[],
  found: WeakMap<object, Tag>,
): number {
  let at = start;
  const skipTo = (type: string): void => {
    while (at < tokens.length && tokens[at]?.type !== type) at++;
    at++;
  };
  const block = (inner: readonly Node[]): void => {
    at = placeNodes(inner, tokens, at, tagOf, found);
  };
  for (const node of nodes) {
    const token = tokens[at];
    const tag = tagOf[at];
    if (tag !== undefined) found.set(node, tag);
    if (token?.type === "OpenExpression") {
      skipTo("CloseExpression");
    } else if (token?.type !== "OpenStatement") {
      at++;
    } else {
      skipTo("CloseStatement");
      if (node.type === "Macro" || node.type === "CallStatement" || node.type === "FilterStatement") {
        block(node.body ?? []);
        skipTo("CloseStatement");
      } else if (node.type === "Set" && (node.body?.length ?? 0) > 0) {
        block(node.body ?? []);
        skipTo("CloseStatement");
      } else if (node.type === "For") {
        block(node.body ?? []);
        if (tokens[at + 1]?.value === "else") {
          skipTo("CloseStatement");
          block(node.defaultBlock ?? []);
        }
        skipTo("CloseStatement");
      } else if (node.type === "If") {
        let branch: Node = node;
        block(branch.body ?? []);
        while (tokens[at + 1]?.value === "elif" && branch.alternate?.[0] !== undefined) {
          branch = branch.alternate[0];
          const branchTag = tagOf[at];
          if (branchTag !== undefined) found.set(branch, branchTag);
          skipTo("CloseStatement");
          block(branch.body ?? []);
        }
        if (tokens[at + 1]?.value === "else") {
          skipTo("CloseStatement");
          block(branch.alternate ?? []);
        }
        skipTo("CloseStatement");
      }
    }
  }
  return at;
}
