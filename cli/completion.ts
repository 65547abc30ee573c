/** `phi completion`: a script for a shell, generated from the commands and options that there are. */

/** An option as a completion knows it. */
export interface CompletedOption {
  /** e.g. `--model` */
  readonly long: string;
  /** e.g. `-m` */
  readonly short: string | undefined;
  readonly description: string;
  /** What its value is; undefined where it takes none. */
  readonly value: "folder" | "file" | "text" | readonly string[] | undefined;
}

export interface CompletedCommand {
  readonly name: string;
  readonly description: string;
  readonly options: readonly CompletedOption[];
  /** Words that it takes as an argument. */
  readonly words: readonly string[];
}

export type Shell = "bash" | "zsh" | "fish";

/** The script. `fallback` is the command whose options stand where none is named. */
export function completionScript(shell: Shell, commands: readonly CompletedCommand[], fallback: string): string {
  return { bash, zsh, fish }[shell](commands, fallback);
}

const flags = ({ long, short }: CompletedOption) => (short === undefined ? [long] : [short, long]);

function bash(commands: readonly CompletedCommand[], fallback: string): string {
  const names = commands.map(({ name }) => name);
  // No mapfile: the bash of macOS is 3.2. Options of the same name take the same kind of value in every command.
  const byFlags = new Map(
    commands.flatMap(({ options }) => options).map((option) => [flags(option).join("|"), option]),
  );
  const values = [...byFlags].flatMap(([pattern, { value }]) => {
    if (value === undefined) return [];
    if (value === "text") return [`    ${pattern}) return ;;`];
    const offer =
      value === "folder" || value === "file"
        ? `local IFS=$'\\n'; COMPREPLY=($(compgen ${value === "folder" ? "-d" : "-f"} -- "$current"))`
        : `COMPREPLY=($(compgen -W "${value.join(" ")}" -- "$current"))`;
    return [`    ${pattern}) ${offer}; return ;;`];
  });
  const options = commands.map(
    (command) => `    ${command.name}) words="${[...command.words, ...command.options.flatMap(flags)].join(" ")}" ;;`,
  );
  return `# phi for bash: eval "$(phi completion bash)"
_phi() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]} command=${fallback} word words
  COMPREPLY=()
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in
    ${names.join("|")}) command=$word; break ;;
    esac
  done
  case $previous in
${values.join("\n")}
  esac
  case $command in
${options.join("\n")}
  esac
  [ "$COMP_CWORD" -eq 1 ] && words="${names.join(" ")} $words"
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -F _phi phi
`;
}

/** In single quotes for zsh and fish. */
const zshQuoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
const fishQuoted = (text: string) => `'${text.replace(/[\\']/g, "\\$&")}'`;

function zsh(commands: readonly CompletedCommand[], fallback: string): string {
  const spec = (option: CompletedOption) => {
    const { value } = option;
    const action =
      value === undefined
        ? ""
        : value === "folder"
          ? ":folder:_files -/"
          : value === "file"
            ? ":file:_files"
            : value === "text"
              ? ":value:"
              : `:value:(${value.join(" ")})`;
    const text = `[${option.description.replace(/[[\]:]/g, "\\$&")}]${action}`;
    return flags(option)
      .map((flag) => `    ${zshQuoted(`*${flag}${text}`)}`)
      .join(" \\\n");
  };
  const cases = commands.map(({ name, options, words }) => {
    const specs = options.map(spec);
    if (words.length > 0) specs.push(`    ${zshQuoted(`1:word:(${words.join(" ")})`)}`);
    return `  ${name})\n    _arguments \\\n${specs.join(" \\\n")} ;;`;
  });
  const described = commands.map(({ name, description }) => zshQuoted(`${name}:${description.replaceAll(":", "\\:")}`));
  return `#compdef phi
# phi for zsh: eval "$(phi completion zsh)"
_phi() {
  local -a commands=(${described.join(" ")})
  local command=${fallback}
  if (( CURRENT == 2 )) && [[ $PREFIX != -* ]]; then
    _describe command commands
    return
  fi
  if [[ " ${commands.map(({ name }) => name).join(" ")} " == *" $words[2] "* ]]; then
    command=$words[2]
    shift words
    (( CURRENT-- ))
  fi
  case $command in
${cases.join("\n")}
  esac
}
compdef _phi phi
`;
}

function fish(commands: readonly CompletedCommand[], fallback: string): string {
  const names = commands.map(({ name }) => name).join(" ");
  const lines = commands.flatMap(({ name, description, options, words }) => {
    const isHere = `__fish_seen_subcommand_from ${name}`;
    const condition = name === fallback ? `${isHere}; or not __fish_seen_subcommand_from ${names}` : isHere;
    const when = `complete -c phi -n ${fishQuoted(condition)}`;
    return [
      `complete -c phi -n ${fishQuoted(`not __fish_seen_subcommand_from ${names}`)} -f -a ${name} -d ${fishQuoted(description)}`,
      ...words.map((word) => `${when} -f -a ${word}`),
      ...options.map((option) => {
        const { value } = option;
        const argument =
          value === undefined
            ? ""
            : value === "folder"
              ? " -x -a '(__fish_complete_directories)'"
              : value === "file"
                ? " -r -F"
                : value === "text"
                  ? " -x"
                  : ` -x -a ${fishQuoted(value.join(" "))}`;
        const short = option.short === undefined ? "" : ` -s ${option.short.slice(1)}`;
        return `${when} -l ${option.long.slice(2)}${short}${argument} -d ${fishQuoted(option.description)}`;
      }),
    ];
  });
  return `# phi for fish: phi completion fish | source\n${lines.join("\n")}\n`;
}
