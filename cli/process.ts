/** The process around a command: signals, a closed stdout, and how a failure is reported. */
import { exitCodes, printable } from "../engine/errors.ts";

/** What the process does when a signal comes: the exit code by the shell's convention. */
const signalCodes = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

/** How long a command may take to stop after a signal before the process ends without it. */
const graceMs = 400;

/**
 * A signal soon after the same one is its echo: a process that was started anew gets Ctrl-C from the terminal and once
 * more from its parent.
 */
const echoMs = 100;

/** An abort signal for the running command that fires on Ctrl-C, SIGTERM and SIGHUP; a second one ends at once. */
export function watchProcess(debug: boolean): AbortSignal {
  const abort = new AbortController();
  let lastMs = Number.NEGATIVE_INFINITY;
  for (const [signal, code] of Object.entries(signalCodes)) {
    process.on(signal, () => {
      const nowMs = performance.now();
      if (nowMs - lastMs < echoMs) return;
      lastMs = nowMs;
      if (abort.signal.aborted) process.exit(code);
      process.exitCode = code;
      abort.abort();
      setTimeout(() => process.exit(code), graceMs).unref();
    });
  }
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(141);
    process.stderr.write(`error: stdout: ${error.message}\n`);
    process.exit(exitCodes.io);
  });
  process.stderr.on("error", () => {}); // nobody left to tell
  for (const event of ["uncaughtException", "unhandledRejection"] as const) {
    process.on(event, (error: unknown) => process.exit(reportFailure(error, debug)));
  }
  return abort.signal;
}

/** A failure with its own line, advice and exit code: `PhiError` and the tokenizer's errors alike. */
interface ToldFailure {
  readonly message: string;
  readonly advice: readonly string[];
  readonly exitCode: number;
}

function isTold(error: unknown): error is ToldFailure {
  return error instanceof Error && "exitCode" in error && typeof error.exitCode === "number" && "advice" in error;
}

/** Writes `error: …` and its advice on stderr, a stack only with `debug`, and gives the exit code. */
export function reportFailure(error: unknown, debug: boolean): number {
  const lines: string[] = [];
  let code: number = exitCodes.internal;
  if (isTold(error)) {
    lines.push(`error: ${error.message}`, ...error.advice.slice(0, 2).map((line) => `  ${line}`));
    code = error.exitCode;
  } else if (error instanceof Error && "syscall" in error) {
    lines.push(`error: ${printable(error.message)}`);
    code = exitCodes.io;
  } else {
    const message = error instanceof Error ? error.message : String(error);
    lines.push(`error: internal: ${printable(message.split("\n", 1)[0] ?? "")}`);
    lines.push("  This is a fault of phi itself; please report it with the output of the same command and --debug.");
  }
  if (debug && error instanceof Error && error.stack !== undefined) lines.push(error.stack);
  process.stderr.write(`${lines.join("\n")}\n`);
  return code;
}
