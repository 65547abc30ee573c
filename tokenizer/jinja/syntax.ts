/**
 * Jinja's syntax: a template's source as a tree. As jinja2 3.1 reads it with `trim_blocks`, `lstrip_blocks`, loop controls
 * and the `generation` tag, which is how `transformers` sets it up. Every line end is a line feed, and one at the end of
 * the source is left out. What needs other templates (`extends`, `include`, `import`) is refused.
 */
import { blankRun, stripped } from "./text.ts";
import { budget, Fault } from "./values.ts";

/** Where a tag begins; both from 1. */
export interface Place {
  readonly line: number;
  readonly column: number;
}

/** A syntax error at a tag. */
export class SyntaxFault extends Fault {
  readonly place: Place;
  constructor(message: string, place: Place) {
    super(message);
    this.place = place;
  }
}

export type BinaryOperator = "+" | "-" | "*" | "/" | "//" | "%" | "**";
export type CompareOperator = "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in";

export interface CallArguments {
  readonly positional: readonly Expression[];
  readonly named: readonly (readonly [string, Expression])[];
  readonly spread: Expression | null;
  readonly namedSpread: Expression | null;
}

export type Expression =
  | { readonly kind: "constant"; readonly value: null | boolean | bigint | number | string }
  | { readonly kind: "name"; readonly name: string }
  | { readonly kind: "list" | "tuple"; readonly items: readonly Expression[] }
  | { readonly kind: "dict"; readonly pairs: readonly (readonly [Expression, Expression])[] }
  | { readonly kind: "attribute"; readonly object: Expression; readonly name: string }
  | { readonly kind: "item"; readonly object: Expression; readonly index: Expression }
  | { readonly kind: "slice"; readonly bounds: readonly (Expression | null)[] }
  | { readonly kind: "call"; readonly callee: Expression; readonly given: CallArguments }
  | {
      readonly kind: "filter" | "test";
      /** Null for the text of a block. */
      readonly input: Expression | null;
      readonly name: string;
      readonly given: CallArguments;
    }
  | {
      readonly kind: "binary";
      readonly operator: BinaryOperator;
      readonly left: Expression;
      readonly right: Expression;
    }
  | { readonly kind: "unary"; readonly operator: "+" | "-" | "not"; readonly operand: Expression }
  | { readonly kind: "and" | "or"; readonly left: Expression; readonly right: Expression }
  | { readonly kind: "concat"; readonly parts: readonly Expression[] }
  | {
      readonly kind: "compare";
      readonly first: Expression;
      readonly rest: readonly (readonly [CompareOperator, Expression])[];
    }
  | { readonly kind: "condition"; readonly test: Expression; readonly yes: Expression; readonly no: Expression | null };

export type Target =
  | { readonly kind: "name"; readonly name: string }
  | { readonly kind: "namespace"; readonly name: string; readonly attribute: string }
  | { readonly kind: "tuple"; readonly items: readonly Target[] };

export interface Signature {
  readonly names: readonly string[];
  /** Of the last names. */
  readonly defaults: readonly Expression[];
  /** Which of `caller`, `kwargs` and `varargs` the body reads. */
  readonly reads: ReadonlySet<string>;
}

export type Body = readonly Statement[];

export type Statement = { readonly place: Place } & (
  | { readonly kind: "data"; readonly text: string }
  | { readonly kind: "print"; readonly expressions: readonly Expression[] }
  | { readonly kind: "if"; readonly branches: readonly Branch[]; readonly otherwise: Body }
  | {
      readonly kind: "for";
      readonly target: Target;
      readonly iterable: Expression;
      readonly test: Expression | null;
      readonly isRecursive: boolean;
      readonly body: Body;
      readonly otherwise: Body;
    }
  | { readonly kind: "set"; readonly target: Target; readonly value: Expression }
  | { readonly kind: "setBlock"; readonly target: Target; readonly filter: Expression | null; readonly body: Body }
  | { readonly kind: "macro"; readonly name: string; readonly signature: Signature; readonly body: Body }
  | { readonly kind: "call"; readonly signature: Signature; readonly call: Expression; readonly body: Body }
  | { readonly kind: "filterBlock"; readonly filter: Expression; readonly body: Body }
  | { readonly kind: "with"; readonly pairs: readonly (readonly [Target, Expression])[]; readonly body: Body }
  | { readonly kind: "generation"; readonly body: Body }
  | { readonly kind: "break" | "continue" }
);

export interface Branch {
  readonly place: Place;
  readonly test: Expression;
  readonly body: Body;
}

/** The names of filters and tests that there are. */
export interface KnownNames {
  readonly filter: ReadonlySet<string>;
  readonly test: ReadonlySet<string>;
}

// ---- tokens ----------------------------------------------------------------------------------------------------------

/** `type` is the operator itself for operators. */
interface Token {
  readonly type: string;
  readonly value: string;
  /** Of the tag that it stands in. */
  readonly place: Place;
}

const blank = blankRun.source;
const tagStart = new RegExp(
  `\\{%([-+]?)(?:${blank})?raw(?:${blank})?(?:-%\\}(?:${blank})?|%\\})|(?:\\{%|\\{\\{|\\{#)([-+]?)`,
  "g",
);
const blockEnd = new RegExp(`\\+%\\}|-%\\}(?:${blank})?|%\\}\\n?`, "y");
const variableEnd = new RegExp(`-\\}\\}(?:${blank})?|\\}\\}`, "y");
const commentEnd = new RegExp(`\\+#\\}|-#\\}(?:${blank})?|#\\}\\n?`, "g");
const rawEnd = new RegExp(`\\{%([-+]?)(?:${blank})?endraw(?:${blank})?(?:\\+%\\}|-%\\}(?:${blank})?|%\\}\\n?)`, "g");
const parts = {
  blank: new RegExp(blank, "y"),
  float: /(?<!\.)(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy,
  integer: /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy,
  name: /[\p{L}\p{N}\p{M}\p{Pc}\u00b7\u0387]+/uy,
  string: /'[^'\\]*(?:\\[\s\S][^'\\]*)*'|"[^"\\]*(?:\\[\s\S][^"\\]*)*"/y,
  operator: /\/\/|\*\*|==|!=|>=|<=|[+\-/*%~[\](){}><=.:|,;]/y,
} as const;
const closing: Readonly<Record<string, string>> = { "{": "}", "(": ")", "[": "]" };

function tokenize(template: string): Token[] {
  let source = template.replace(/\r\n?/g, "\n");
  if (source.endsWith("\n")) source = source.slice(0, -1);
  const tokens: Token[] = [];
  let position = 0;
  let lineStarts = true;
  let line = 1;
  let lineStart = 0;
  let counted = 0;
  const placeAt = (offset: number): Place => {
    for (let at = source.indexOf("\n", counted); at >= 0 && at < offset; at = source.indexOf("\n", at + 1)) {
      line += 1;
      lineStart = at + 1;
    }
    counted = Math.max(counted, offset);
    return { line, column: offset - lineStart + 1 };
  };
  const match = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = position;
    return pattern.exec(source)?.[0];
  };
  /** Text before a tag, without the blanks that the tag takes away. */
  const data = (text: string, sign: string, isVariable: boolean, place: Place): void => {
    let kept = text;
    if (sign === "-") kept = stripped(text, null, false, true) as string;
    else if (sign !== "+" && !isVariable) {
      const last = text.lastIndexOf("\n") + 1;
      if ((last > 0 || lineStarts) && last < text.length && stripped(text.slice(last), null, true, false) === "") {
        kept = text.slice(0, last);
      }
    }
    if (kept !== "") tokens.push({ type: "data", value: kept, place });
  };

  while (position < source.length) {
    tagStart.lastIndex = position;
    const start = tagStart.exec(source);
    if (start === null) {
      tokens.push({ type: "data", value: source.slice(position), place: placeAt(position) });
      break;
    }
    const [opening, rawSign, otherSign = ""] = start;
    const place = placeAt(start.index);
    const isVariable = opening.startsWith("{{");
    data(source.slice(position, start.index), rawSign ?? otherSign, isVariable, place);
    position = start.index + opening.length;
    lineStarts = false;
    if (rawSign !== undefined) {
      lineStarts = opening.endsWith("\n");
      rawEnd.lastIndex = position;
      const end = rawEnd.exec(source);
      if (end === null) throw new SyntaxFault("Missing end of raw directive", place);
      data(source.slice(position, end.index), end[1] ?? "", false, place);
      position = end.index + end[0].length;
      lineStarts = end[0].endsWith("\n");
    } else if (opening.startsWith("{#")) {
      commentEnd.lastIndex = position;
      const end = commentEnd.exec(source);
      if (end === null) throw new SyntaxFault("Missing end of comment tag", place);
      position = end.index + end[0].length;
      lineStarts = end[0].endsWith("\n");
    } else {
      tokens.push({ type: isVariable ? "variable begins" : "tag begins", value: "", place });
      const end = isVariable ? variableEnd : blockEnd;
      const open: string[] = [];
      for (;;) {
        const ending = open.length === 0 ? match(end) : undefined;
        if (ending !== undefined) {
          tokens.push({ type: isVariable ? "variable ends" : "tag ends", value: "", place });
          position += ending.length;
          lineStarts = ending.endsWith("\n");
          break;
        }
        if (position >= source.length) break;
        const found = Object.entries(parts)
          .map(([type, pattern]) => [type, match(pattern)] as const)
          .find(([, text]) => text !== undefined);
        const [type = "", text = ""] = found ?? [];
        if (text === "") {
          const character = String.fromCodePoint(source.codePointAt(position) ?? 0);
          throw new SyntaxFault(`unexpected character "${character}"`, place);
        }
        if (type === "operator") {
          const close = closing[text];
          if (close !== undefined) open.push(close);
          else if (text === "}" || text === ")" || text === "]") {
            const expected = open.pop();
            if (expected !== text) {
              const wanted = expected === undefined ? "" : `, expected "${expected}"`;
              throw new SyntaxFault(`unexpected "${text}"${wanted}`, place);
            }
          }
        }
        if (type === "name" && !/^[\p{ID_Start}_]\p{ID_Continue}*$/u.test(text)) {
          throw new SyntaxFault(`invalid name "${text}"`, place);
        }
        if (type !== "blank") tokens.push({ type: type === "operator" ? text : type, value: text, place });
        position += text.length;
      }
    }
  }
  return tokens;
}

const simpleEscapes: Readonly<Record<string, string>> = {
  "\n": "",
  "\\": "\\",
  "'": "'",
  '"': '"',
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
};

/** A string literal's value: Python's escapes. */
function literalText(literal: string, place: Place): string {
  return literal.replace(
    /\\(?:([0-7]{1,3})|x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([\s\S]))/g,
    (whole, octal?: string, x?: string, u?: string, long?: string, other?: string) => {
      if (octal !== undefined) return String.fromCharCode(Number.parseInt(octal, 8));
      const hex = x ?? u ?? long;
      if (hex !== undefined) {
        const code = Number.parseInt(hex, 16);
        if (code > 0x10ffff) throw new SyntaxFault("illegal Unicode character in a string", place);
        return String.fromCodePoint(code);
      }
      if (other === "x" || other === "u" || other === "U") {
        throw new SyntaxFault(`truncated \\${other} escape in a string`, place);
      }
      if (other === "N") throw new SyntaxFault("\\N escapes in a string are not supported", place);
      return simpleEscapes[other ?? ""] ?? whole;
    },
  );
}

// ---- parsing ---------------------------------------------------------------------------------------------------------

const start: Place = { line: 1, column: 1 };
const compareOperators: ReadonlySet<string> = new Set(["==", "!=", "<", "<=", ">", ">="]);
const specialNames: ReadonlySet<string> = new Set(["caller", "kwargs", "varargs"]);

/** A template as a tree. Throws SyntaxFault with the tag at fault. */
export function parse(source: string, known: KnownNames): Body {
  return new Parser(tokenize(source), known).template();
}

class Parser {
  readonly #tokens: readonly Token[];
  readonly #known: KnownNames;
  #at = 0;
  #depth = 0;
  /** Loops around, within the innermost macro. */
  #loops = 0;
  /** Inside of a condition an unknown filter fails only when it is reached. */
  #soft = false;
  /** Unknown filters and tests of this tag, unless a condition around them is still to come. */
  readonly #unknown: SyntaxFault[] = [];
  /** The special names that each macro around reads. */
  readonly #reads: Set<string>[] = [];

  constructor(tokens: readonly Token[], known: KnownNames) {
    this.#tokens = tokens;
    this.#known = known;
  }

  template(): Body {
    return this.#body([], start);
  }

  // -- tokens

  get #token(): Token {
    return this.#tokens[this.#at] ?? { type: "end", value: "", place: this.#tokens.at(-1)?.place ?? start };
  }
  #next(): Token {
    const token = this.#token;
    this.#at += 1;
    return token;
  }
  #is(type: string, value?: string): boolean {
    const token = this.#token;
    return token.type === type && (value === undefined || token.value === value);
  }
  #isName(...names: readonly string[]): boolean {
    return this.#token.type === "name" && names.includes(this.#token.value);
  }
  #skip(type: string, value?: string): boolean {
    if (!this.#is(type, value)) return false;
    this.#at += 1;
    return true;
  }
  #expect(type: string, value?: string): Token {
    if (!this.#is(type, value)) this.#fail(`expected ${value ?? type}, got ${this.#shown()}`);
    return this.#next();
  }
  #shown(): string {
    const { type, value } = this.#token;
    if (type === "end") return "the end of the template";
    if (type === "tag ends" || type === "variable ends") return "the end of the tag";
    return value === "" ? type : `"${value}"`;
  }
  #fail(message: string, place = this.#token.place): never {
    throw new SyntaxFault(message, place);
  }
  #endTag(type: "tag ends" | "variable ends"): void {
    this.#expect(type);
    const [unknown] = this.#unknown;
    if (unknown !== undefined) throw unknown;
  }
  #nested<T>(read: () => T): T {
    this.#depth += 1;
    if (this.#depth > budget.depth) this.#fail(`expected nesting at most ${budget.depth} deep, got deeper`);
    const result = read();
    this.#depth -= 1;
    return result;
  }

  // -- statements

  /** Statements up to one of these tags, whose name is the next token then. */
  #body(ends: readonly string[], opened: Place): Body {
    return this.#nested(() => {
      const body: Statement[] = [];
      while (!this.#is("end")) {
        const { type, value, place } = this.#token;
        if (type === "data") {
          body.push({ kind: "data", text: value, place });
          this.#at += 1;
        } else if (type === "variable begins") {
          this.#at += 1;
          body.push({ kind: "print", expressions: [this.#tuple({})], place });
          this.#endTag("variable ends");
        } else {
          this.#at += 1;
          if (this.#isName(...ends)) return body;
          body.push(this.#statement(place));
          this.#endTag("tag ends");
        }
      }
      if (ends.length > 0) this.#fail(`expected ${ends.join(" or ")}, got the end of the template`, opened);
      return body;
    });
  }

  /** The rest of an opening tag, and the body up to its end. */
  #block(ends: readonly string[], place: Place, soft = false): Body {
    this.#skip(":");
    this.#endTag("tag ends");
    const outer = this.#soft;
    this.#soft = soft;
    const body = this.#body(ends, place);
    this.#soft = outer;
    return body;
  }

  #statement(place: Place): Statement {
    const name = this.#expect("name").value;
    switch (name) {
      case "if":
        return this.#if(place);
      case "for":
        return this.#for(place);
      case "set":
        return this.#set(place);
      case "macro":
        return this.#macro(place);
      case "call":
        return this.#call(place);
      case "filter": {
        let filter = this.#filter(null);
        while (this.#skip("|")) filter = this.#filter(filter);
        const body = this.#block(["endfilter"], place);
        this.#at += 1;
        return { kind: "filterBlock", filter, body, place };
      }
      case "with":
        return this.#with(place);
      case "print": {
        const expressions: Expression[] = [];
        while (!this.#is("tag ends")) {
          if (expressions.length > 0) this.#expect(",");
          expressions.push(this.#expression());
        }
        return { kind: "print", expressions, place };
      }
      case "generation": {
        const body = this.#function(() => this.#block(["endgeneration"], place));
        this.#at += 1;
        return { kind: "generation", body, place };
      }
      case "break":
      case "continue":
        if (this.#loops === 0) this.#fail(`"${name}" outside of a loop`, place);
        return { kind: name, place };
      default: {
        const needsOthers = /^(?:extends|include|import|from|block|autoescape)$/.test(name);
        return this.#fail(needsOthers ? `the tag "${name}" is not supported` : `unknown tag "${name}"`, place);
      }
    }
  }

  /** The body of something that runs apart from the loops around it. */
  #function<T>(read: () => T): T {
    const outer = this.#loops;
    this.#loops = 0;
    const result = read();
    this.#loops = outer;
    return result;
  }

  #if(place: Place): Statement {
    const branches: Branch[] = [];
    let branchPlace = place;
    for (;;) {
      const outer = this.#soft;
      this.#soft = true;
      const test = this.#tuple({ condition: false });
      this.#soft = outer;
      const body = this.#block(["elif", "else", "endif"], place, true);
      branches.push({ place: branchPlace, test, body });
      const { value, place: next } = this.#next();
      if (value === "endif") return { kind: "if", branches, otherwise: [], place };
      if (value === "else") {
        const otherwise = this.#block(["endif"], place, true);
        this.#at += 1;
        return { kind: "if", branches, otherwise, place };
      }
      branchPlace = next;
    }
  }

  #for(place: Place): Statement {
    const target = this.#target({ ends: ["in"] });
    this.#expect("name", "in");
    const iterable = this.#tuple({ condition: false, ends: ["recursive"] });
    const test = this.#skip("name", "if") ? this.#expression() : null;
    const isRecursive = this.#skip("name", "recursive");
    this.#loops += 1;
    const body = this.#block(["endfor", "else"], place);
    this.#loops -= 1;
    let otherwise: Body = [];
    if (this.#next().value === "else") {
      otherwise = this.#block(["endfor"], place);
      this.#at += 1;
    }
    return { kind: "for", target, iterable, test, isRecursive, body, otherwise, place };
  }

  #set(place: Place): Statement {
    const target = this.#target({ namespace: true });
    if (this.#skip("=")) return { kind: "set", target, value: this.#tuple({}), place };
    const filter = this.#is("|") ? this.#filters(null) : null;
    const body = this.#block(["endset"], place);
    this.#at += 1;
    return { kind: "setBlock", target, filter, body, place };
  }

  #signature(): { readonly names: string[]; readonly defaults: Expression[] } {
    const names: string[] = [];
    const defaults: Expression[] = [];
    this.#expect("(");
    while (!this.#is(")")) {
      if (names.length > 0) this.#expect(",");
      const { value: name, place } = this.#expect("name");
      if (this.#skip("=")) defaults.push(this.#expression());
      else if (defaults.length > 0) this.#fail("non-default argument follows default argument", place);
      names.push(name);
    }
    this.#expect(")");
    return { names, defaults };
  }

  /** A body with arguments, and which special names it reads. */
  #callable(end: string, place: Place): { readonly body: Body; readonly reads: ReadonlySet<string> } {
    const reads = new Set<string>();
    this.#reads.push(reads);
    const body = this.#function(() => this.#block([end], place));
    this.#reads.pop();
    this.#at += 1;
    return { body, reads };
  }

  #macro(place: Place): Statement {
    const name = this.#expect("name").value;
    const { names, defaults } = this.#signature();
    const { body, reads } = this.#callable("endmacro", place);
    return { kind: "macro", name, signature: { names, defaults, reads }, body, place };
  }

  #call(place: Place): Statement {
    const { names, defaults } = this.#is("(") ? this.#signature() : { names: [], defaults: [] };
    const call = this.#expression();
    if (call.kind !== "call") this.#fail("expected a call", place);
    const { body, reads } = this.#callable("endcall", place);
    return { kind: "call", signature: { names, defaults, reads }, call, body, place };
  }

  #with(place: Place): Statement {
    const pairs: (readonly [Target, Expression])[] = [];
    while (!this.#is("tag ends")) {
      if (pairs.length > 0) this.#expect(",");
      const target = this.#target({});
      this.#expect("=");
      pairs.push([target, this.#expression()]);
    }
    const body = this.#block(["endwith"], place);
    this.#at += 1;
    return { kind: "with", pairs, body, place };
  }

  #target({ namespace = false, ends = [] }: { namespace?: boolean; ends?: readonly string[] }): Target {
    const { place } = this.#token;
    const items: Target[] = [];
    let isTuple = false;
    for (;;) {
      if (items.length > 0) this.#expect(",");
      if (this.#isTupleEnd(ends)) break;
      items.push(this.#singleTarget(namespace));
      if (!this.#is(",")) break;
      isTuple = true;
    }
    const [first] = items;
    if (first === undefined) this.#fail(`expected a name, got ${this.#shown()}`, place);
    return isTuple ? { kind: "tuple", items } : first;
  }

  #singleTarget(namespace: boolean): Target {
    if (this.#skip("(")) {
      const inner = this.#nested(() => this.#target({ namespace }));
      this.#expect(")");
      return inner;
    }
    const { value: name, place } = this.#expect("name");
    if (/^(?:true|false|none|True|False|None)$/.test(name)) this.#fail(`"${name}" cannot be assigned to`, place);
    if (namespace && this.#skip(".")) return { kind: "namespace", name, attribute: this.#expect("name").value };
    return { kind: "name", name };
  }

  // -- expressions

  #isTupleEnd(ends: readonly string[]): boolean {
    return this.#is("variable ends") || this.#is("tag ends") || this.#is(")") || this.#isName(...ends);
  }

  #tuple({
    condition = true,
    ends = [],
    inParentheses = false,
  }: {
    condition?: boolean;
    ends?: readonly string[];
    inParentheses?: boolean;
  }): Expression {
    const items: Expression[] = [];
    let isTuple = false;
    for (;;) {
      if (items.length > 0) this.#expect(",");
      if (this.#isTupleEnd(ends)) break;
      items.push(condition ? this.#expression() : this.#nested(() => this.#or()));
      if (!this.#is(",")) break;
      isTuple = true;
    }
    const [first] = items;
    if (!isTuple) {
      if (first !== undefined) return first;
      if (!inParentheses) this.#fail(`expected an expression, got ${this.#shown()}`);
    }
    return { kind: "tuple", items };
  }

  #expression(): Expression {
    return this.#nested(() => {
      const unknown = this.#unknown.length;
      let result = this.#or();
      while (this.#skip("name", "if")) {
        const test = this.#or();
        const no = this.#skip("name", "else") ? this.#expression() : null;
        result = { kind: "condition", test, yes: result, no };
        this.#unknown.length = unknown;
      }
      return result;
    });
  }

  #or(): Expression {
    let left = this.#and();
    while (this.#skip("name", "or")) left = { kind: "or", left, right: this.#and() };
    return left;
  }

  #and(): Expression {
    let left = this.#not();
    while (this.#skip("name", "and")) left = { kind: "and", left, right: this.#not() };
    return left;
  }

  #not(): Expression {
    if (!this.#skip("name", "not")) return this.#compare();
    return { kind: "unary", operator: "not", operand: this.#nested(() => this.#not()) };
  }

  #compare(): Expression {
    const first = this.#sum();
    const rest: (readonly [CompareOperator, Expression])[] = [];
    for (;;) {
      const { type } = this.#token;
      if (compareOperators.has(type)) {
        this.#at += 1;
        rest.push([type as CompareOperator, this.#sum()]);
      } else if (this.#skip("name", "in")) rest.push(["in", this.#sum()]);
      else if (this.#is("name", "not") && this.#tokens[this.#at + 1]?.value === "in") {
        this.#at += 2;
        rest.push(["not in", this.#sum()]);
      } else return rest.length === 0 ? first : { kind: "compare", first, rest };
    }
  }

  #binary(operators: readonly BinaryOperator[], operand: () => Expression): Expression {
    let left = operand();
    for (;;) {
      const operator = operators.find((one) => this.#is(one));
      if (operator === undefined) return left;
      this.#at += 1;
      left = { kind: "binary", operator, left, right: operand() };
    }
  }

  #sum(): Expression {
    return this.#binary(["+", "-"], () => this.#concat());
  }

  #concat(): Expression {
    const first = this.#product();
    if (!this.#is("~")) return first;
    const parts = [first];
    while (this.#skip("~")) parts.push(this.#product());
    return { kind: "concat", parts };
  }

  #product(): Expression {
    return this.#binary(["*", "/", "//", "%"], () => this.#binary(["**"], () => this.#unary(true)));
  }

  #unary(withFilter: boolean): Expression {
    const { type } = this.#token;
    let node: Expression;
    if (type === "-" || type === "+") {
      this.#at += 1;
      node = { kind: "unary", operator: type, operand: this.#nested(() => this.#unary(false)) };
    } else node = this.#primary();
    node = this.#postfix(node);
    return withFilter ? this.#filters(node) : node;
  }

  #primary(): Expression {
    const { type, value, place } = this.#token;
    this.#at += 1;
    switch (type) {
      case "name":
        if (value === "true" || value === "True") return { kind: "constant", value: true };
        if (value === "false" || value === "False") return { kind: "constant", value: false };
        if (value === "none" || value === "None") return { kind: "constant", value: null };
        if (specialNames.has(value)) for (const reads of this.#reads) reads.add(value);
        return { kind: "name", name: value };
      case "string": {
        let text = literalText(value.slice(1, -1), place);
        while (this.#is("string")) text += literalText(this.#next().value.slice(1, -1), place);
        return { kind: "constant", value: text };
      }
      case "integer": {
        const digits = value.replaceAll("_", "").toLowerCase();
        if (digits.length > 4300) this.#fail("expected an int of at most 4300 digits", place);
        return { kind: "constant", value: BigInt(digits) };
      }
      case "float":
        return { kind: "constant", value: Number(value.replaceAll("_", "")) };
      case "(": {
        const inner = this.#nested(() => this.#tuple({ inParentheses: true }));
        this.#expect(")");
        return inner;
      }
      case "[":
        return this.#nested(() => ({ kind: "list", items: this.#listed("]", () => this.#expression()) }));
      case "{":
        return this.#nested(() => ({
          kind: "dict",
          pairs: this.#listed("}", () => {
            const key = this.#expression();
            this.#expect(":");
            return [key, this.#expression()] as const;
          }),
        }));
      default:
        this.#at -= 1;
        return this.#fail(`unexpected ${this.#shown()}`);
    }
  }

  #listed<T>(close: string, read: () => T): T[] {
    const items: T[] = [];
    while (!this.#is(close)) {
      if (items.length > 0) {
        this.#expect(",");
        if (this.#is(close)) break;
      }
      items.push(read());
    }
    this.#expect(close);
    return items;
  }

  #postfix(node: Expression): Expression {
    let result = node;
    for (;;) {
      if (this.#is(".") || this.#is("[")) result = this.#subscript(result);
      else if (this.#is("(")) result = { kind: "call", callee: result, given: this.#arguments() };
      else return result;
    }
  }

  #filters(node: Expression | null): Expression {
    let result = node;
    for (;;) {
      if (this.#skip("|")) result = this.#filter(result);
      else if (result !== null && this.#is("name", "is")) result = this.#test(result);
      else if (result !== null && this.#is("(")) result = { kind: "call", callee: result, given: this.#arguments() };
      else return result ?? this.#fail(`expected a filter, got ${this.#shown()}`);
    }
  }

  #subscript(object: Expression): Expression {
    if (this.#skip(".")) {
      const { type, value } = this.#token;
      if (type === "name") {
        this.#at += 1;
        return { kind: "attribute", object, name: value };
      }
      if (type !== "integer") this.#fail(`expected a name or a number, got ${this.#shown()}`);
      return { kind: "item", object, index: this.#primary() };
    }
    this.#expect("[");
    const items: Expression[] = [];
    while (!this.#is("]")) {
      if (items.length > 0) this.#expect(",");
      items.push(this.#nested(() => this.#subscribed()));
    }
    this.#expect("]");
    const [only] = items;
    return { kind: "item", object, index: only !== undefined && items.length === 1 ? only : { kind: "tuple", items } };
  }

  #subscribed(): Expression {
    const first = this.#is(":") ? null : this.#expression();
    if (!this.#skip(":")) return first ?? this.#fail("expected an index");
    const bound = (): Expression | null =>
      this.#is(":") || this.#is("]") || this.#is(",") ? null : this.#expression();
    const second = bound();
    const third = this.#skip(":") ? bound() : null;
    return { kind: "slice", bounds: [first, second, third] };
  }

  #arguments(): CallArguments {
    return this.#nested(() => {
      const { place } = this.#expect("(");
      const positional: Expression[] = [];
      const named: (readonly [string, Expression])[] = [];
      let spread: Expression | null = null;
      let namedSpread: Expression | null = null;
      const ensure = (holds: boolean): void => {
        if (!holds) this.#fail("invalid syntax for a function call", place);
      };
      let first = true;
      while (!this.#is(")")) {
        if (!first) {
          this.#expect(",");
          if (this.#is(")")) break;
        }
        first = false;
        if (this.#skip("*")) {
          ensure(spread === null && namedSpread === null);
          spread = this.#expression();
        } else if (this.#skip("**")) {
          ensure(namedSpread === null);
          namedSpread = this.#expression();
        } else if (this.#is("name") && this.#tokens[this.#at + 1]?.type === "=") {
          ensure(namedSpread === null);
          const name = this.#next().value;
          this.#at += 1;
          if (named.some(([other]) => other === name)) this.#fail(`the argument "${name}" is given twice`, place);
          named.push([name, this.#expression()]);
        } else {
          ensure(spread === null && namedSpread === null && named.length === 0);
          positional.push(this.#expression());
        }
      }
      this.#expect(")");
      return { positional, named, spread, namedSpread };
    });
  }

  #dotted(kind: "filter" | "test"): string {
    const { value, place } = this.#expect("name");
    let name = value;
    while (this.#skip(".")) name += `.${this.#expect("name").value}`;
    if (!this.#soft && !this.#known[kind].has(name)) {
      this.#unknown.push(new SyntaxFault(`no ${kind} named "${name}"`, place));
    }
    return name;
  }

  #filter(input: Expression | null): Expression {
    const name = this.#dotted("filter");
    return { kind: "filter", input, name, given: this.#is("(") ? this.#arguments() : noArguments };
  }

  #test(input: Expression): Expression {
    this.#expect("name", "is");
    const isNegated = this.#skip("name", "not");
    const name = this.#dotted("test");
    let given = noArguments;
    if (this.#is("(")) given = this.#arguments();
    else if (/^(?:name|string|integer|float|\[|\{)$/.test(this.#token.type) && !this.#isName("else", "or", "and")) {
      if (this.#isName("is")) this.#fail("tests with is cannot be chained");
      given = { ...noArguments, positional: [this.#postfix(this.#primary())] };
    }
    const test: Expression = { kind: "test", input, name, given };
    return isNegated ? { kind: "unary", operator: "not", operand: test } : test;
  }
}

const noArguments: CallArguments = { positional: [], named: [], spread: null, namedSpread: null };
