/** The tokenizer's files beside each other: which of them says the vocabulary, the special tokens. */
import type { AddedTokenList } from "./added.ts";
import { type Definition, type ListedToken, longestAddedToken, readDefinition } from "./definition.ts";
import { printable, TokenizerError } from "./error.ts";
import { parseJsonFile } from "./json.ts";
import { ranksFile, readRanks } from "./ranks.ts";
import type { TemplateFiles } from "./template.ts";

/** The contents of a checkpoint's tokenizer files; absent ones are left out. */
export interface TokenizerFiles extends TemplateFiles {
  readonly tokenizerJson?: Uint8Array;
  /** `cl100k_base.tiktoken`, which phi-3-small has in place of tokenizer.json. */
  readonly ranks?: Uint8Array;
  readonly tokenizerConfigJson?: Uint8Array;
  readonly specialTokensMapJson?: Uint8Array;
  readonly addedTokensJson?: Uint8Array;
  /** For messages. */
  readonly folderName: string;
}

/** The tokens with a role of their own; null where the files name none. */
export interface SpecialTokens<T> {
  readonly bos: T | null;
  readonly eos: T | null;
  readonly pad: T | null;
  readonly unk: T | null;
}

type Json = Readonly<Record<string, unknown>>;

/** The definition in tokenizer.json with what the other files add to it, or that of a rank file where there is none. */
export function readVocabularyFile(
  files: TokenizerFiles,
  settings: Settings,
  vocabularySize: number | undefined,
): Definition {
  if (files.tokenizerJson !== undefined) {
    const json = parseJsonFile("tokenizer.json", files.tokenizerJson);
    const definition = readDefinition(json, vocabularySize, (added, own) =>
      moreTokens(settings, own, added, vocabularySize),
    );
    return { ...definition, notes: [...definition.notes, ...prefixSpaceNotes(definition, settings.config)] };
  }
  if (files.ranks !== undefined) return readRanks(files.ranks, vocabularySize);
  throw new TokenizerError(`${printable(files.folderName)}: expected a tokenizer.json or ${ranksFile}, found neither`, [
    "Download the checkpoint's tokenizer files too, or give token ids instead of text.",
  ]);
}

/** Classes of `transformers` that build a tokenizer anew take this switch from here; tokenizer.json's counts with us. */
function prefixSpaceNotes({ preTokenizer }: Definition, { add_prefix_space: wanted }: Json): readonly string[] {
  const step = preTokenizer.find(({ type }) => type === "ByteLevel");
  if (typeof wanted !== "boolean" || step?.type !== "ByteLevel" || step.prefixSpace === wanted) return [];
  return [`${configFile}: add_prefix_space: ${wanted} is not done, tokenizer.json has ${step.prefixSpace}`];
}

function readOptional(name: string, bytes: Uint8Array | undefined): Json {
  return bytes === undefined ? {} : parseJsonFile(name, bytes);
}

/** What the files beside tokenizer.json say, each read once. */
export interface Settings {
  readonly config: Json;
  readonly specialTokens: SpecialTokens<string>;
  /** Every special token by the name of its field, as `bos_token` or `image_token`, those with roles first. */
  readonly named: ReadonlyMap<string, Token>;
  /** Further special tokens, without names. */
  readonly extra: readonly Token[];
  /** Tokens that stand with their ids, by `added_tokens_decoder` or added_tokens.json. */
  readonly listed: readonly ListedToken[];
  /** Special tokens in a text stay text. */
  readonly splitSpecial: boolean;
  readonly notes: readonly string[];
}

type Token = Omit<ListedToken, "place"> & { readonly isString: boolean };

/** The second is the older name: it counts where the first is no list, or an empty one. */
const extraName = "extra_special_tokens";
const olderExtraName = "additional_special_tokens";
const configFile = "tokenizer_config.json";
const mapFile = "special_tokens_map.json";
const addedFile = "added_tokens.json";

/** In the order in which `transformers` adds them. */
const roles = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"].map((name) => `${name}_token`);

/**
 * Read the files beside tokenizer.json, as `transformers` 5.23 does (`_from_pretrained`): special_tokens_map.json and
 * added_tokens.json are older forms, which count only where tokenizer_config.json has no `added_tokens_decoder`; then
 * special_tokens_map.json wins over tokenizer_config.json. Throws TokenizerError that names file and field.
 */
export function readSettings(files: TokenizerFiles): Settings {
  const config = readOptional(configFile, files.tokenizerConfigJson);
  const map = readOptional(mapFile, files.specialTokensMapJson);
  const added = readOptional(addedFile, files.addedTokensJson);
  const isOld = config.added_tokens_decoder === undefined;
  const fields = new Map<string, readonly [string, unknown]>();
  for (const [file, json] of [[configFile, config], ...(isOld ? [[mapFile, map] as const] : [])] as const) {
    for (const [name, value] of Object.entries(json)) fields.set(name, [file, value]);
  }
  const named = new Map<string, Token>();
  for (const name of [...roles, ...fields.keys()]) {
    const [file, value = null] = fields.get(name) ?? [configFile];
    const isRole = roles.includes(name);
    if (value === null || named.has(name) || !name.endsWith("_token")) continue;
    // Other fields of such names are switches: add_bos_token.
    if (isRole || typeof value === "string" || isTokenJson(value)) named.set(name, tokenAt(value, `${file}: ${name}`));
  }
  const extra: Token[] = [];
  const [extraFile, extraValue = null] = fields.get(extraName) ?? [configFile];
  if (typeof extraValue === "object" && extraValue !== null && !Array.isArray(extraValue)) {
    for (const [name, value] of Object.entries(extraValue)) {
      if (!named.has(name)) named.set(name, tokenAt(value, `${extraFile}: ${extraName}.${name}`));
    }
  }
  const isList = Array.isArray(extraValue) && extraValue.length > 0;
  for (const name of isList ? [extraName] : [extraName, olderExtraName]) {
    const [file, value = null] = fields.get(name) ?? [configFile];
    if (Array.isArray(value)) {
      for (const [i, token] of value.entries()) extra.push(tokenAt(token, `${file}: ${name}[${i}]`));
    } else if (value !== null && (name !== extraName || typeof value !== "object")) {
      throw new TokenizerError(`${file}: ${name}: expected a list of tokens`);
    }
  }
  const textOf = (name: string): string | null => named.get(name)?.content || null;
  const notes: string[] = [];
  if (config.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output === true) {
    notes.push(`${configFile}: clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output is not done`);
  }
  const splitSpecial = config.split_special_tokens ?? false;
  if (typeof splitSpecial !== "boolean") {
    throw new TokenizerError(`${configFile}: split_special_tokens: expected true or false`);
  }
  if (splitSpecial) notes.push(`${configFile}: split_special_tokens: special tokens in a text stay text`);
  // The tokens of added_tokens.json that are special. `transformers` asks before it reads tokenizer_config.json's objects.
  const plainNamed = [...named].filter(
    ([name, { isString }]) => roles.includes(name) && (isString || fields.get(name)?.[0] === mapFile),
  );
  const specials = new Set([...plainNamed.map(([, token]) => token), ...extra].map(({ content }) => content));
  return {
    config,
    specialTokens: {
      bos: textOf("bos_token"),
      eos: textOf("eos_token"),
      pad: textOf("pad_token"),
      unk: textOf("unk_token"),
    },
    named,
    extra,
    listed: isOld ? readAddedFile(added, specials) : readDecoderField(config.added_tokens_decoder),
    splitSpecial,
    notes,
  };
}

function isTokenJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null && typeof (value as Json).content === "string";
}

/** A token as a string, or as an object with its flags; `special` where the file does not say. */
function tokenAt(value: unknown, place: string, special = true): Token {
  const json: Json = isTokenJson(value) ? value : {};
  const content = typeof value === "string" ? value : json.content;
  if (typeof content !== "string") throw new TokenizerError(`${place}: expected a string or a token object`);
  if (content.length > longestAddedToken) {
    throw new TokenizerError(`${place}: expected at most ${longestAddedToken} characters, got ${content.length}`);
  }
  if (/\p{Cs}/u.test(content)) throw new TokenizerError(`${place}: expected well-formed Unicode`);
  const flag = (name: string, fallback: boolean): boolean => {
    const written = json[name] ?? fallback;
    if (typeof written !== "boolean") throw new TokenizerError(`${place}: ${name}: expected true or false`);
    return written;
  };
  const isSpecial = flag("special", special);
  return {
    content,
    special: isSpecial,
    singleWord: flag("single_word", false),
    lstrip: flag("lstrip", false),
    rstrip: flag("rstrip", false),
    normalized: flag("normalized", !isSpecial),
    isString: typeof value === "string",
  };
}

/** `added_tokens_decoder`: tokens by their ids. */
function readDecoderField(value: unknown): readonly ListedToken[] {
  const field = `${configFile}: added_tokens_decoder`;
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new TokenizerError(`${field}: expected an object`);
  }
  // JavaScript lists keys that are whole numbers in their order.
  return Object.entries(value).map(([key, token]) => {
    const place = `${field}["${printable(key)}"]`;
    if (!/^\d{1,7}$/.test(key)) throw new TokenizerError(`${place}: expected an id as the key`);
    const { isString, ...read } = tokenAt(token, place, false);
    if (isString) throw new TokenizerError(`${place}: expected a token object, got a string`);
    return { ...read, id: Number(key), place };
  });
}

/** added_tokens.json: ids by their tokens. */
function readAddedFile(json: Json, specials: ReadonlySet<string>): readonly ListedToken[] {
  return Object.entries(json)
    .map(([content, id]) => {
      const place = `${addedFile}: "${printable(content)}"`;
      if (typeof id !== "number" || !Number.isInteger(id) || id < 0)
        throw new TokenizerError(`${place}: expected an id`);
      const { isString, ...token } = tokenAt(content, place, specials.has(content));
      return { ...token, id, place };
    })
    .sort((a, b) => a.id - b.id);
}

/**
 * The tokens that the other files add to tokenizer.json's own, or say with other flags, in the order in which
 * `transformers` adds them (`TokenizersBackend.__init__`): those listed with ids, then special ones.
 */
function moreTokens(
  settings: Settings,
  own: readonly ListedToken[],
  added: AddedTokenList,
  vocabularySize: number | undefined,
): readonly ListedToken[] {
  const { config, named, extra, listed } = settings;
  // The older files know fewer flags than tokenizer.json, which has the last word there.
  const isOld = config.added_tokens_decoder === undefined;
  const byId = new Map([...listed, ...(isOld ? own : [])].map((token) => [token.id ?? 0, token]));
  const names = new Set([...named.values()].map(({ content }) => content));
  const asNamed = (token: ListedToken): ListedToken => ({
    ...token,
    special: token.special || names.has(token.content),
  });
  const withIds = [...byId.values()]
    .filter(({ content }) => content !== "")
    .sort((a, b) => (a.id ?? 0) - (b.id ?? 0))
    // What tokenizer.json states wrongly has been noted.
    .map((token) => asNamed(own.includes(token) ? withoutId(token) : token));
  const known = new Set([...added.contents, ...withIds.map(({ content }) => content)]);
  const more: (ListedToken & { readonly isString: boolean })[] = [];
  for (const [name, token] of [...named, ...extra.map((token) => ["", token] as const)]) {
    // The same token is added again where one of the two is written with its flags.
    const isThere = more.some(({ content, isString }) => content === token.content && isString && token.isString);
    if (token.content === "" || known.has(token.content) || isThere) continue;
    // phi-4 names U+FFFD, for which its model has no row: a text that has that character would end its use there.
    const below = name === "unk_token" ? { below: vocabularySize ?? 0 } : {};
    const place = name === "" ? configFile : `${configFile}: ${name}`;
    more.push({ ...asNamed({ ...token, place }), isString: token.isString, ...below });
  }
  return [...withIds, ...more.map(({ isString, ...token }) => token)];
}

function withoutId({ id, ...token }: ListedToken): ListedToken {
  return token;
}
