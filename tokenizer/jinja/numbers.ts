/** Python's arithmetic on ints (bigint) and floats (number), rounding half to even, and how numbers are written. */
import { budget, digitsOf, Fault, floatText, type Meter, unsupported } from "./values.ts";

type Numeric = bigint | number;

/** Digits in base 2 that an int may have. */
const mostBits = 1_000_000;
const inexact = 2n ** 53n;

function bits(value: bigint): number {
  const limit = 2n ** 1024n;
  return value < limit && value > -limit ? 1024 : 4 * value.toString(16).length;
}

export function toFloat(value: Numeric): number {
  const result = Number(value);
  if (typeof value === "bigint" && !Number.isFinite(result)) throw new Fault("int too large to convert to float");
  return result;
}

function floorDivide(a: bigint, b: bigint): bigint {
  const quotient = a / b;
  return a % b !== 0n && a < 0n !== b < 0n ? quotient - 1n : quotient;
}

function power(a: Numeric, b: Numeric, meter: Meter): Numeric {
  if (typeof a === "bigint" && typeof b === "bigint" && b >= 0n) {
    const size =
      a === 0n || a === 1n || a === -1n ? 1 : (BigInt.asIntN(64, a) === a ? a.toString(2).length : bits(a)) * Number(b);
    if (size > mostBits) throw unsupported(`an int of more than ${mostBits} bits`);
    meter.charge(size / 1000);
    return a ** b;
  }
  const [x, y] = [toFloat(a), toFloat(b)];
  if (x === 0 && y < 0) throw new Fault("0.0 cannot be raised to a negative power");
  if (x < 0 && !Number.isInteger(y)) throw unsupported("a complex number");
  const result = x ** y;
  if (!Number.isFinite(result) && Number.isFinite(x) && Number.isFinite(y)) throw new Fault("the result is too large");
  return x === 1 ? 1 : result;
}

export function calculate(operator: string, a: Numeric, b: Numeric, meter: Meter): Numeric {
  if (operator === "**") return power(a, b, meter);
  // biome-ignore lint/suspicious/noDoubleEquals: an int or a float
  if ((operator === "/" || operator === "//" || operator === "%") && b == 0) throw new Fault("division by zero");
  if (typeof a === "bigint" && typeof b === "bigint") {
    switch (operator) {
      case "+":
        return a + b;
      case "-":
        return a - b;
      case "*":
        if (bits(a) + bits(b) > mostBits) throw unsupported(`an int of more than ${mostBits} bits`);
        return a * b;
      case "//":
        return floorDivide(a, b);
      case "%":
        return a - b * floorDivide(a, b);
      default:
        for (const part of [a, b]) {
          if (part > inexact || part < -inexact) throw unsupported("dividing ints beyond 2**53");
        }
        return Number(a) / Number(b);
    }
  }
  const [x, y] = [toFloat(a), toFloat(b)];
  switch (operator) {
    case "+":
      return x + y;
    case "-":
      return x - y;
    case "*":
      return x * y;
    case "/":
      return x / y;
    default: {
      let rest = x % y;
      let quotient = (x - rest) / y;
      if (rest !== 0) {
        if (y < 0 !== rest < 0) {
          rest += y;
          quotient -= 1;
        }
      } else rest = y < 0 ? -0 : 0;
      if (operator === "%") return rest;
      const floor = Math.floor(quotient);
      return quotient - floor > 0.5 ? floor + 1 : floor;
    }
  }
}

/** A finite float as `mantissa * 2**exponent`, exactly. */
function exactly(value: number): { readonly mantissa: bigint; readonly exponent: number } {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  const word = view.getBigUint64(0);
  const exponent = Number((word >> 52n) & 0x7ffn);
  const fraction = word & ((1n << 52n) - 1n);
  return exponent === 0
    ? { mantissa: fraction, exponent: -1074 }
    : { mantissa: fraction | (1n << 52n), exponent: exponent - 1075 };
}

/** `numerator / denominator` (both positive) to the nearest int, the even one of two. */
function divideToEven(numerator: bigint, denominator: bigint): bigint {
  const quotient = numerator / denominator;
  const twice = 2n * (numerator % denominator);
  return twice > denominator || (twice === denominator && quotient % 2n === 1n) ? quotient + 1n : quotient;
}

/** `|value| * 10**places` to the nearest int. `places` may be negative. */
function scaled(value: Numeric, places: number): bigint {
  let [numerator, denominator] = [1n, 1n];
  if (typeof value === "bigint") numerator = value < 0n ? -value : value;
  else {
    const { mantissa, exponent } = exactly(Math.abs(value));
    numerator = mantissa;
    if (exponent >= 0) numerator <<= BigInt(exponent);
    else denominator <<= BigInt(-exponent);
  }
  if (places >= 0) numerator *= 10n ** BigInt(places);
  else denominator *= 10n ** BigInt(-places);
  return divideToEven(numerator, denominator);
}

function checkPlaces(places: number): void {
  if (Math.abs(places) > 2000) throw unsupported(`a precision of ${places} digits`);
}

/** `|value|` with as many digits after the point. */
export function fixed(value: Numeric, places: number): string {
  checkPlaces(places);
  const digits = scaled(value, places)
    .toString()
    .padStart(places + 1, "0");
  return places === 0 ? digits : `${digits.slice(0, -places)}.${digits.slice(-places)}`;
}

/** The first `places + 1` digits of `|value|`, and the power of ten of the first one. */
function scientific(value: number, places: number): { readonly digits: string; readonly exponent: number } {
  checkPlaces(places);
  if (value === 0) return { digits: "0".repeat(places + 1), exponent: 0 };
  let exponent = Number(Math.abs(value).toExponential().split("e")[1]);
  let digits = scaled(value, places - exponent).toString();
  if (digits.length > places + 1) {
    exponent += 1;
    digits = scaled(value, places - exponent).toString();
  }
  return { digits, exponent };
}

/** `round()`: an int stays one. */
export function round(value: Numeric, places: number): Numeric {
  if (typeof value === "number" && !Number.isFinite(value)) return value;
  if (typeof value === "bigint") {
    if (places >= 0) return value;
    checkPlaces(places);
    const result = scaled(value, places) * 10n ** BigInt(-places);
    return value < 0n ? -result : result;
  }
  if (places > 400) return value;
  const digits = places >= 0 ? fixed(value, places) : `${scaled(value, places)}e${-places}`;
  const result = Number(digits);
  return value < 0 || Object.is(value, -0) ? -result : result;
}

/** How a number is written: the parts of a format that `%` and `format()` share. */
export interface NumberFormat {
  readonly type: string;
  readonly precision: number | null;
  readonly alternate: boolean;
}

function withExponent(digits: string, exponent: number, alternate: boolean): string {
  const point = digits.length > 1 || alternate ? "." : "";
  const size = String(Math.abs(exponent)).padStart(2, "0");
  return `${digits[0]}${point}${digits.slice(1)}e${exponent < 0 ? "-" : "+"}${size}`;
}

/** `|value|` as a float of the type e, f, g, % or their capitals; an empty type is that of `format()`. */
export function floatDigits(value: number, { type, precision, alternate }: NumberFormat): string {
  const upper = type !== type.toLowerCase();
  const done = (digits: string): string => (upper ? digits.toUpperCase() : digits);
  if (!Number.isFinite(value)) return done(`${Number.isNaN(value) ? "nan" : "inf"}${type === "%" ? "%" : ""}`);
  const size = Math.abs(value);
  const point = (digits: string): string => (alternate && !digits.includes(".") ? `${digits}.` : digits);
  switch (type.toLowerCase()) {
    case "f":
      return point(fixed(size, precision ?? 6));
    case "%":
      return `${point(fixed(size * 100, precision ?? 6))}%`;
    case "e": {
      const { digits, exponent } = scientific(size, precision ?? 6);
      return done(withExponent(digits, exponent, alternate));
    }
    default: {
      if (type === "" && precision === null) return floatText(size);
      const places = Math.max(1, precision ?? 6);
      const { digits, exponent } = scientific(size, places - 1);
      // Without a type a float keeps a digit after the point, and changes to an exponent one place sooner.
      const last = type === "" ? places - 1 : places;
      const shorten = (text: string): string => (alternate || !text.includes(".") ? text : text.replace(/\.?0+$/, ""));
      if (exponent < -4 || exponent >= last) {
        const shown = alternate ? digits : digits.replace(/0+$/, "") || "0";
        return done(withExponent(shown, exponent, alternate));
      }
      const text = shorten(fixed(size, Math.max(0, places - 1 - exponent)));
      return point(type === "" && !text.includes(".") ? `${text}.0` : text);
    }
  }
}

/** `|value|` in the base of d, i, u, b, o, x, X. */
export function integerDigits(value: bigint, { type, alternate }: NumberFormat): string {
  const size = value < 0n ? -value : value;
  switch (type) {
    case "b":
      return `${alternate ? "0b" : ""}${size.toString(2)}`;
    case "o":
      return `${alternate ? "0o" : ""}${size.toString(8)}`;
    case "x":
      return `${alternate ? "0x" : ""}${size.toString(16)}`;
    case "X":
      return `${alternate ? "0X" : ""}${size.toString(16).toUpperCase()}`;
    default:
      return digitsOf(size);
  }
}

/** What Python's `float()` reads, or undefined. */
export function parseFloatText(text: string): number | undefined {
  const trimmed = text.trim();
  if (/^[+-]?(?:inf|infinity)$/i.test(trimmed)) return trimmed.startsWith("-") ? -Infinity : Infinity;
  if (/^[+-]?nan$/i.test(trimmed)) return Number.NaN;
  if (!/^[+-]?(?:\d(?:_?\d)*\.?(?:\d(?:_?\d)*)?|\.\d(?:_?\d)*)(?:e[+-]?\d(?:_?\d)*)?$/i.test(trimmed)) return undefined;
  return Number(trimmed.replaceAll("_", ""));
}

/** What Python's `int()` reads in a base, or undefined. */
export function parseInteger(text: string, base: number): bigint | undefined {
  const match = /^([+-]?)(.*)$/s.exec(text.trim());
  const sign = match?.[1] === "-" ? -1n : 1n;
  let digits = (match?.[2] ?? "").toLowerCase();
  let radix = base;
  const prefix = /^0([box])_?/.exec(digits);
  const ofPrefix = prefix === null ? undefined : { b: 2, o: 8, x: 16 }[prefix[1] as "b" | "o" | "x"];
  if (prefix !== null && ofPrefix !== undefined && (base === 0 || base === ofPrefix)) {
    radix = ofPrefix;
    digits = digits.slice(prefix[0].length);
  } else if (base === 0) {
    if (/^0[\d_]/.test(digits) && !/^[0_]+$/.test(digits)) return undefined;
    radix = 10;
  }
  if (!/^[\da-z](?:_?[\da-z])*$/.test(digits)) return undefined;
  digits = digits.replaceAll("_", "");
  if (digits.length > 4300)
    throw new Fault(`int(): expected at most 4300 digits, got ${Math.min(digits.length, budget.characters)}`);
  let value = 0n;
  for (const digit of digits) {
    const number = Number.parseInt(digit, 36);
    if (number >= radix) return undefined;
    value = value * BigInt(radix) + BigInt(number);
  }
  return sign * value;
}
