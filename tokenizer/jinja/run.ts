/** Runs a parsed template. It may come from anywhere, so every step, size and nesting has a budget. */
import { add, filterOf, testOf } from "./filters.ts";
import { percent, strftime } from "./format.ts";
import { attribute, bind, item, sliced } from "./methods.ts";
import { calculate } from "./numbers.ts";
import type { Body, CallArguments, Expression, Place, Signature, Statement, Target } from "./syntax.ts";
import { concat, isStr, madeOf, raw, type Str } from "./text.ts";
import {
  type Arguments,
  budget,
  compare,
  contains,
  Dict,
  equal,
  Fault,
  func,
  Host,
  Iter,
  iterate,
  List,
  length,
  listOf,
  Markup,
  Meter,
  missing,
  Namespace,
  numeric,
  orElse,
  Range,
  small,
  str,
  text,
  truth,
  typeName,
  Undefined,
  unsupported,
  type Value,
} from "./values.ts";

/** What the template's own `raise_exception` says. */
export class RaisedByTemplate extends Fault {}

class Scope {
  readonly #names = new Map<string, Value>();
  readonly #parent: Scope | null;
  constructor(parent: Scope | null) {
    this.#parent = parent;
  }
  set(name: string, value: Value): void {
    this.#names.set(name, value);
  }
  get(name: string): Value | undefined {
    for (let scope: Scope | null = this; scope !== null; scope = scope.#parent) {
      const value = scope.#names.get(name);
      if (value !== undefined) return value;
    }
    return undefined;
  }
}

/** What is written, with its size kept within the budget. */
class Output {
  readonly #parts: Str[] = [];
  readonly #meter: Meter;
  #size = 0;
  constructor(meter: Meter) {
    this.#meter = meter;
  }
  put(part: Str): void {
    this.#size += raw(part).length;
    if (this.#size > budget.characters) this.#meter.size(this.#size);
    this.#meter.charge(raw(part).length / 1000);
    this.#parts.push(part);
  }
  text(): Str {
    return concat(this.#parts);
  }
}

type Signal = "break" | "continue" | undefined;
/** Expressions within expressions: a chain of operators counts each of them. */
const deepestExpression = 5 * budget.depth;
const noArguments: Arguments = { positional: [], named: new Map() };

/** One rendering. */
export class Renderer {
  /** The tag that is being rendered. */
  place: Place = { line: 1, column: 1 };
  readonly #meter = new Meter();
  #depth = 0;
  #expressions = 0;

  /** The text of a template with these variables. Throws a Fault; `place` says where. */
  render(body: Body, variables: ReadonlyMap<string, Value>): Str {
    const scope = new Scope(null);
    for (const [name, value] of this.#globals()) scope.set(name, value);
    for (const [name, value] of variables) scope.set(name, value);
    const output = new Output(this.#meter);
    this.#run(body, new Scope(scope), output);
    return output.text();
  }

  // -- statements

  #run(body: Body, scope: Scope, output: Output): Signal {
    if (++this.#depth > budget.depth) this.#meter.depth(this.#depth);
    const outer = this.place;
    for (const statement of body) {
      this.place = statement.place;
      this.#meter.charge(1);
      const signal = this.#statement(statement, scope, output);
      if (signal !== undefined) {
        this.#depth -= 1;
        this.place = outer;
        return signal;
      }
    }
    this.#depth -= 1;
    this.place = outer;
    return undefined;
  }

  /** A body in a scope of its own, as text; or a signal, and the text is lost. */
  #captured(body: Body, scope: Scope): "break" | "continue" | { readonly text: Str } {
    const output = new Output(this.#meter);
    return this.#run(body, new Scope(scope), output) ?? { text: output.text() };
  }

  #statement(statement: Statement, scope: Scope, output: Output): Signal {
    switch (statement.kind) {
      case "data":
        output.put(statement.text);
        return undefined;
      case "print":
        for (const expression of statement.expressions) output.put(str(this.#evaluate(expression, scope), this.#meter));
        return undefined;
      case "if": {
        for (const { test, body, place } of statement.branches) {
          this.place = place;
          if (truth(this.#evaluate(test, scope))) return this.#run(body, scope, output);
        }
        return this.#run(statement.otherwise, scope, output);
      }
      case "for":
        return this.#for(statement, this.#evaluate(statement.iterable, scope), scope, 0, output);
      case "set":
        this.#assign(statement.target, this.#evaluate(statement.value, scope), scope);
        return undefined;
      case "setBlock": {
        const captured = this.#captured(statement.body, scope);
        if (captured === "break" || captured === "continue") return captured;
        const value =
          statement.filter === null ? captured.text : this.#evaluate(statement.filter, scope, captured.text);
        this.#assign(statement.target, value, scope);
        return undefined;
      }
      case "filterBlock": {
        const captured = this.#captured(statement.body, scope);
        if (captured === "break" || captured === "continue") return captured;
        output.put(str(this.#evaluate(statement.filter, scope, captured.text), this.#meter));
        return undefined;
      }
      case "macro": {
        const { name, signature, body } = statement;
        scope.set(name, this.#macro(name, signature, body, scope));
        return undefined;
      }
      case "call": {
        const { call, signature, body } = statement;
        if (call.kind !== "call") throw new Fault("expected a call");
        const caller = this.#macro("caller", signature, body, scope);
        const callee = this.#evaluate(call.callee, scope);
        const given = this.#arguments(call.given, scope);
        const named = new Map([...given.named, ["caller", caller as Value] as const]);
        output.put(str(this.#callValue(callee, { positional: given.positional, named }), this.#meter));
        return undefined;
      }
      case "with": {
        const inner = new Scope(scope);
        const values = statement.pairs.map(([target, value]) => [target, this.#evaluate(value, scope)] as const);
        for (const [target, value] of values) this.#assign(target, value, inner);
        return this.#run(statement.body, inner, output);
      }
      case "generation":
        return this.#run(statement.body, new Scope(scope), output);
      case "break":
      case "continue":
        return statement.kind;
    }
  }

  #assign(target: Target, value: Value, scope: Scope): void {
    switch (target.kind) {
      case "name":
        scope.set(target.name, value);
        return;
      case "namespace": {
        const namespace = scope.get(target.name);
        if (!(namespace instanceof Namespace)) throw new Fault("cannot assign attribute on non-namespace object");
        setAttribute(namespace, target.attribute, value);
        return;
      }
      case "tuple": {
        const values = listOf(value, this.#meter);
        if (values.length !== target.items.length) {
          throw new Fault(`expected ${target.items.length} values to unpack, got ${values.length}`);
        }
        for (const [i, part] of target.items.entries()) this.#assign(part, values[i] ?? null, scope);
      }
    }
  }

  #for(
    statement: Extract<Statement, { kind: "for" }>,
    iterable: Value,
    scope: Scope,
    depth: number,
    output: Output,
  ): Signal {
    const { target, test, body, otherwise, isRecursive } = statement;
    const meter = this.#meter;
    let source: Value = iterable;
    if (test !== null) {
      const filtered = function* (this: Renderer): Generator<Value, void, undefined> {
        for (const value of iterate(iterable)) {
          const inner = new Scope(scope);
          inner.set("loop", new Undefined("loop is not there in the condition of a loop"));
          this.#assign(target, value, inner);
          if (truth(this.#evaluate(test, inner))) yield value;
        }
      };
      source = new Iter("generator", filtered.call(this));
    }
    const recurse = isRecursive
      ? (inner: Value): Value => {
          const written = new Output(meter);
          this.#for(statement, inner, scope, depth + 1, written);
          return written.text();
        }
      : undefined;
    const loop = new Loop(source, depth, meter, recurse);
    let isEmpty = true;
    for (;;) {
      const value = loop.next();
      if (value === undefined) break;
      const inner = new Scope(scope);
      inner.set("loop", loop.value);
      this.#assign(target, value, inner);
      const signal = this.#run(body, inner, output);
      if (signal === "break") break;
      // As in Jinja, a first turn that is broken off does not count.
      if (signal === undefined) isEmpty = false;
    }
    return isEmpty ? this.#run(otherwise, new Scope(scope), output) : undefined;
  }

  #macro(name: string, { names, defaults, reads }: Signature, body: Body, scope: Scope): Host {
    const call = (given: Arguments): Value => {
      const inner = new Scope(scope);
      const named = new Map(given.named);
      for (const [i, parameter] of names.entries()) {
        let value = given.positional[i];
        if (value === undefined) {
          value = named.get(parameter);
          named.delete(parameter);
        }
        const otherwise = defaults[i - (names.length - defaults.length)];
        // None is a value too.
        if (value === undefined) {
          value =
            otherwise === undefined
              ? new Undefined(`parameter '${parameter}' was not provided`)
              : this.#evaluate(otherwise, inner);
        }
        inner.set(parameter, value);
      }
      if (reads.has("caller") && !names.includes("caller")) {
        inner.set(
          "caller",
          orElse(named.get("caller"), () => new Undefined("No caller defined")),
        );
        named.delete("caller");
      }
      if (reads.has("kwargs")) inner.set("kwargs", new Dict(named));
      else if (named.size > 0) {
        throw new Fault(`macro '${name}' takes no keyword argument '${[...named.keys()][0]}'`);
      }
      if (reads.has("varargs")) inner.set("varargs", new List(given.positional.slice(names.length), true));
      else if (given.positional.length > names.length) {
        throw new Fault(`macro '${name}' takes not more than ${names.length} argument(s)`);
      }
      const output = new Output(this.#meter);
      this.#run(body, inner, output);
      return output.text();
    };
    const attributeOf = (wanted: string): Value | undefined => {
      if (wanted === "name") return name;
      if (wanted === "arguments") return new List(names, true);
      if (/^(?:defaults|catch_kwargs|catch_varargs|caller|explicit_caller)$/.test(wanted)) {
        throw unsupported(`"${wanted}" of a macro`);
      }
      return undefined;
    };
    return new Host("Macro", { call, attribute: attributeOf, shown: () => `<Macro '${name}'>` });
  }

  // -- expressions

  /** `input` is the text of the block that a filter stands at. */
  #evaluate(expression: Expression, scope: Scope, input?: Str): Value {
    if (++this.#expressions > deepestExpression) this.#meter.depth(Number.POSITIVE_INFINITY);
    this.#meter.charge(1);
    const value = this.#value(expression, scope, input);
    this.#expressions -= 1;
    return value;
  }

  #value(expression: Expression, scope: Scope, input?: Str): Value {
    const meter = this.#meter;
    const evaluate = (part: Expression): Value => this.#evaluate(part, scope);
    switch (expression.kind) {
      case "constant":
        return expression.value;
      case "name": {
        const value = scope.get(expression.name);
        if (value === undefined && expression.name === "self") throw unsupported("self");
        return orElse(value, () => new Undefined(`'${expression.name}' is undefined`));
      }
      case "list":
      case "tuple":
        return new List(expression.items.map(evaluate), expression.kind === "tuple");
      case "dict":
        return new Dict(expression.pairs.map(([key, value]) => [evaluate(key), evaluate(value)] as const));
      case "attribute":
        return attribute(evaluate(expression.object), expression.name, meter);
      case "item": {
        const object = evaluate(expression.object);
        const { index } = expression;
        if (index.kind !== "slice") return item(object, evaluate(index), meter);
        return sliced(
          object,
          index.bounds.map((bound) => (bound === null ? null : evaluate(bound))),
          meter,
        );
      }
      case "slice":
        throw unsupported("a slice among several indices");
      case "call":
        return this.#callValue(evaluate(expression.callee), this.#arguments(expression.given, scope));
      case "filter": {
        const value = expression.input === null ? (input ?? "") : this.#evaluate(expression.input, scope, input);
        return filterOf(expression.name)(value, this.#arguments(expression.given, scope), meter);
      }
      case "test": {
        const value = expression.input === null ? "" : this.#evaluate(expression.input, scope, input);
        return testOf(expression.name)(value, this.#arguments(expression.given, scope), meter);
      }
      case "unary": {
        const value = evaluate(expression.operand);
        if (expression.operator === "not") return !truth(value);
        if (value instanceof Undefined) throw missing(value);
        const number = numeric(value);
        if (number === undefined)
          throw new Fault(`bad operand type for unary ${expression.operator}: '${typeName(value)}'`);
        return expression.operator === "-" ? -number : number;
      }
      case "and": {
        const left = evaluate(expression.left);
        return truth(left) ? evaluate(expression.right) : left;
      }
      case "or": {
        const left = evaluate(expression.left);
        return truth(left) ? left : evaluate(expression.right);
      }
      case "concat": {
        const parts = expression.parts.map((part) => str(evaluate(part), meter));
        meter.size(parts.reduce((size, part) => size + raw(part).length, 0));
        return concat(parts);
      }
      case "binary":
        return this.#binary(expression.operator, evaluate(expression.left), evaluate(expression.right));
      case "compare": {
        let left = evaluate(expression.first);
        for (const [operator, next] of expression.rest) {
          const right = evaluate(next);
          if (!this.#compare(operator, left, right)) return false;
          left = right;
        }
        return true;
      }
      case "condition":
        if (truth(evaluate(expression.test))) return evaluate(expression.yes);
        return expression.no === null
          ? new Undefined("the inline if-expression evaluated to false and no else section was defined")
          : evaluate(expression.no);
    }
  }

  #compare(operator: string, left: Value, right: Value): boolean {
    const meter = this.#meter;
    if (operator === "==") return equal(left, right, meter);
    if (operator === "!=") return !equal(left, right, meter);
    if (operator === "in") return contains(right, left, meter);
    if (operator === "not in") return !contains(right, left, meter);
    const order = compare(left, right, operator, meter);
    if (order === undefined) return false;
    if (operator === "<") return order < 0;
    if (operator === "<=") return order <= 0;
    return operator === ">" ? order > 0 : order >= 0;
  }

  #binary(operator: string, left: Value, right: Value): Value {
    const meter = this.#meter;
    if (operator === "+") return add(left, right, meter);
    const [x, y] = [numeric(left), numeric(right)];
    if (x !== undefined && y !== undefined) return calculate(operator, x, y, meter);
    if (operator === "%" && isStr(left)) return percent(left, right, meter);
    if (operator === "*") {
      for (const [sequence, times] of [
        [left, right],
        [right, left],
      ] as const) {
        if (typeof numeric(times) !== "bigint") continue;
        const count = Math.max(0, small(times, "*"));
        if (isStr(sequence)) {
          meter.size(raw(sequence).length * count);
          return typeof sequence === "string"
            ? sequence.repeat(count)
            : concat(Array.from({ length: raw(sequence) === "" ? 0 : count }, () => sequence));
        }
        if (sequence instanceof List) {
          meter.size(sequence.items.length * count);
          meter.charge(sequence.items.length * count);
          const copies = Array.from({ length: sequence.items.length === 0 ? 0 : count }, () => sequence.items);
          return new List(copies.flat(), sequence.isTuple);
        }
      }
    }
    if (left instanceof Undefined) throw missing(left);
    if (right instanceof Undefined) throw missing(right);
    if (left instanceof Markup || right instanceof Markup) {
      throw unsupported(`${operator} with a text made by safe or escape`);
    }
    throw new Fault(`unsupported operand types for ${operator}: '${typeName(left)}' and '${typeName(right)}'`);
  }

  #arguments({ positional, named, spread, namedSpread }: CallArguments, scope: Scope): Arguments {
    if (positional.length === 0 && named.length === 0 && spread === null && namedSpread === null) return noArguments;
    const given = positional.map((part) => this.#evaluate(part, scope));
    const names = new Map(named.map(([name, value]) => [name, this.#evaluate(value, scope)]));
    if (spread !== null) given.push(...listOf(this.#evaluate(spread, scope), this.#meter));
    if (namedSpread !== null) {
      const more = this.#evaluate(namedSpread, scope);
      if (!(more instanceof Dict)) throw new Fault("argument after ** must be a mapping");
      for (const [key, value] of more.entries()) {
        const name = raw(text(key, "**"));
        if (names.has(name)) throw new Fault(`the argument "${name}" is given twice`);
        names.set(name, value);
      }
    }
    return { positional: given, named: names };
  }

  #callValue(callee: Value, given: Arguments): Value {
    if (callee instanceof Undefined) throw missing(callee);
    const call = callee instanceof Host ? callee.parts.call : undefined;
    if (call === undefined) throw new Fault(`'${typeName(callee)}' object is not callable`);
    return call(given);
  }

  // -- globals

  #globals(): readonly (readonly [string, Value])[] {
    const meter = this.#meter;
    const functions: Readonly<Record<string, (given: Arguments) => Value>> = {
      raise_exception: (given) => {
        const [message = null] = bind("raise_exception", given, ["message"], 1);
        throw new RaisedByTemplate(raw(str(message, meter)));
      },
      strftime_now: (given) => {
        const [format = null] = bind("strftime_now", given, ["format"], 1);
        const wanted = text(format, "strftime_now");
        return madeOf(strftime(raw(wanted), new Date()), wanted);
      },
      range: (given) => {
        const [first = null, second, third = 1n] = bind("range", given, ["start", "stop", "step"], 1, true);
        const bounds = [first, second ?? null, third].map((bound, i) => {
          if (i === 1 && second === undefined) return 0n;
          const number = numeric(bound);
          if (bound instanceof Undefined) throw missing(bound);
          if (typeof number !== "bigint") throw new Fault(`range() takes integers, got ${typeName(bound)}`);
          return number;
        });
        const [start = 0n, stop = 0n, step = 1n] = bounds;
        return second === undefined ? new Range(0n, start, 1n) : new Range(start, stop, step);
      },
      namespace: (given) => {
        const namespace = new Namespace();
        for (const [key, value] of this.#pairs("namespace", given)) {
          setAttribute(namespace, raw(text(key, "namespace")), value);
        }
        return namespace;
      },
      dict: (given) => new Dict(this.#pairs("dict", given)),
      cycler: (given) => {
        const items = given.positional;
        if (items.length === 0 || given.named.size > 0) throw new Fault("cycler() takes items");
        let at = 0;
        return new Host("Cycler", {
          attribute: (name) => {
            if (name === "current") return items[at];
            if (name === "reset") {
              return func(name, () => {
                at = 0;
                return null;
              });
            }
            if (name !== "next") return undefined;
            return func(name, () => {
              const current = items[at] ?? null;
              at = (at + 1) % items.length;
              return current;
            });
          },
        });
      },
      joiner: (given) => {
        const [separator = ", "] = bind("joiner", given, ["sep"]);
        let used = false;
        return new Host("Joiner", {
          call: () => {
            if (used) return separator;
            used = true;
            return "";
          },
        });
      },
      lipsum: () => {
        throw unsupported("lipsum");
      },
    };
    return Object.entries(functions).map(([name, call]) => [name, func(name, call)] as const);
  }

  /** The entries of `dict(…)`: of a mapping or pairs, then those given by name. */
  #pairs(what: string, given: Arguments): readonly (readonly [Value, Value])[] {
    if (given.positional.length > 1) throw new Fault(`${what}() takes at most 1 argument`);
    const [source] = given.positional;
    const pairs: (readonly [Value, Value])[] = [];
    if (source instanceof Dict) pairs.push(...source.entries());
    else if (source !== undefined) {
      for (const pair of listOf(source, this.#meter)) {
        const [key, value, ...rest] = listOf(pair, this.#meter);
        if (key === undefined || value === undefined || rest.length > 0) throw new Fault(`${what}() takes pairs`);
        pairs.push([key, value]);
      }
    }
    return [...pairs, ...given.named];
  }
}

function setAttribute(namespace: Namespace, name: string, value: Value): void {
  if (name.startsWith("_")) throw new Fault(`a namespace cannot have the attribute "${name}"`);
  namespace.attributes.set(name, value);
}

/** The state of a loop, and `loop` itself. */
class Loop {
  readonly value: Host;
  readonly #iterable: Value;
  #source: Iterator<Value>;
  #ahead: Value | undefined;
  #index = -1;
  #before: Value | undefined;
  #current: Value | undefined;
  #length: number | undefined;
  #changed: Value | undefined;

  constructor(iterable: Value, depth: number, meter: Meter, recurse: ((inner: Value) => Value) | undefined) {
    this.#iterable = iterable;
    this.#source = iterate(iterable);
    const call = (given: Arguments): Value => {
      if (recurse === undefined) throw new Fault("the loop must have the 'recursive' marker to be called recursively");
      const [inner = null] = bind("loop", given, ["iterable"], 1, true);
      return recurse(inner);
    };
    const attributeOf = (name: string): Value | undefined => {
      switch (name) {
        case "index":
          return BigInt(this.#index + 1);
        case "index0":
          return BigInt(this.#index);
        case "first":
          return this.#index === 0;
        case "last":
          return this.#peek() === undefined;
        case "length":
          return BigInt(this.#size(meter));
        case "revindex":
          return BigInt(this.#size(meter) - this.#index);
        case "revindex0":
          return BigInt(this.#size(meter) - this.#index - 1);
        case "depth":
          return BigInt(depth + 1);
        case "depth0":
          return BigInt(depth);
        case "previtem":
          return this.#index === 0 ? new Undefined("there is no previous item") : (this.#before ?? null);
        case "nextitem":
          return orElse(this.#peek(), () => new Undefined("there is no next item"));
        case "cycle":
          return func(name, ({ positional }) => {
            if (positional.length === 0) throw new Fault("no items for cycling given");
            return positional[this.#index % positional.length] ?? null;
          });
        case "changed":
          return func(name, ({ positional }) => {
            const now = new List(positional, true);
            if (this.#changed !== undefined && equal(this.#changed, now, meter)) return false;
            this.#changed = now;
            return true;
          });
        default:
          return undefined;
      }
    };
    this.value = new Host("LoopContext", {
      call,
      attribute: attributeOf,
      shown: () => `<LoopContext ${this.#index + 1}/${this.#size(meter)}>`,
    });
  }

  #peek(): Value | undefined {
    if (this.#ahead === undefined) {
      const { done, value } = this.#source.next();
      this.#ahead = done === true ? undefined : value;
    }
    return this.#ahead;
  }

  #size(meter: Meter): number {
    this.#length ??= length(this.#iterable);
    if (this.#length === undefined) {
      const rest: Value[] = [];
      for (let next = this.#source.next(); next.done !== true; next = this.#source.next()) {
        meter.charge(1);
        rest.push(next.value);
      }
      this.#source = rest[Symbol.iterator]();
      this.#length = rest.length + this.#index + 1 + (this.#ahead === undefined ? 0 : 1);
    }
    return this.#length;
  }

  next(): Value | undefined {
    const value = this.#peek();
    this.#ahead = undefined;
    if (value === undefined) return undefined;
    this.#index += 1;
    this.#before = this.#current;
    this.#current = value;
    return value;
  }
}
