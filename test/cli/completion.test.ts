import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { phi } from "./process.ts";

const script = async (shell: string) => (await phi(["completion", shell])).stdout;

/** What bash offers for the last of these words. */
function offered(source: string, words: readonly string[]): string[] {
  const quoted = words.map((word) => `'${word}'`).join(" ");
  const program = `${source}\nCOMP_WORDS=(${quoted}); COMP_CWORD=${words.length - 1}; _phi; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout, stderr } = spawnSync("bash", ["--norc", "-c", program], { encoding: "utf8" });
  expect(stderr).toBe("");
  return stdout.trim().split("\n");
}

test.skipIf(spawnSync("bash", ["-c", ":"]).status !== 0)(
  "bash completes commands, options and their values",
  async () => {
    const source = await script("bash");
    expect(offered(source, ["phi", "de"]).sort()).toEqual(["detokenize", "devices"]);
    expect(offered(source, ["phi", "--temp"])).toEqual(["--temperature"]);
    expect(offered(source, ["phi", "info", "--temp"])).toEqual([""]);
    expect(offered(source, ["phi", "info", "--j"])).toEqual(["--json"]);
    expect(offered(source, ["phi", "verify", "--kv", ""]).sort()).toEqual(["f16", "f32", "int8"]);
    expect(offered(source, ["phi", "chat", "--activations", ""]).sort()).toEqual(["f32", "int8"]);
    expect(offered(source, ["phi", "completion", "z"])).toEqual(["zsh"]);
    expect(offered(source, ["phi", "-m", "/us"])).toContain("/usr");
    expect(offered(source, ["phi", "--seed", "i"])).toEqual([""]);
  },
);

/** The options that a command's help names. */
async function optionsOf(command: string): Promise<readonly string[]> {
  const { stdout } = await phi([command, "--help"]);
  return [...stdout.matchAll(/^ {2}(?:-\w, )?--([\w-]+)/gm)].map((match) => match[1] ?? "");
}

test("every option of every command, in each shell's script", async () => {
  const { stdout } = await phi(["--help"]);
  const commands = [...stdout.matchAll(/^ {2}(\w+) \[options\]/gm)].map((match) => match[1] ?? "");
  expect(commands).toEqual(expect.arrayContaining(["generate", "chat", "verify", "detokenize", "completion"]));
  const scripts = await Promise.all(
    ["bash", "zsh", "fish"].map(async (shell) => [shell, await script(shell)] as const),
  );
  for (const command of commands) {
    const options = await optionsOf(command);
    expect(options).toContain("help");
    for (const [shell, source] of scripts) {
      for (const option of options) expect(source).toContain(shell === "fish" ? `-l ${option} ` : `--${option}`);
    }
  }
});

test.each(["zsh", "fish"])("%s reads its script", async (shell) => {
  if (spawnSync(shell, ["-c", ":"]).status !== 0) {
    console.warn(`*** NOT TESTED: ${shell} is not installed, so its completion script was not read by it ***`);
    return;
  }
  const { status, stderr } = spawnSync(shell, ["-n"], { input: await script(shell), encoding: "utf8" });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
});

test("another shell is refused", async () => {
  const { code, stderr } = await phi(["completion", "tcsh"]);
  expect(code).toBe(2);
  expect(stderr).toContain("Allowed choices are bash, zsh, fish");
});
