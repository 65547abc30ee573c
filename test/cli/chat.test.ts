import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { executable, phi } from "./process.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "phi-test-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const turns = (stderr: string) =>
  [...stderr.matchAll(/prompt (\d+) tokens: (\d+) cached, (\d+) run/g)].map((found) => found.slice(1).map(Number));

describe("phi chat through a pipe", () => {
  test("answers line by line, runs new tokens only, saves, and goes on from what was saved", async () => {
    const file = join(folder, "talk.json");
    const stdin = `What is the capital of Japan?\nWhat is \\\n3 + 4?\n"""\nWhat does\na cow say?"""\n/save ${file}\n/exit\nno more\n`;
    const first = await phi(["chat", "--stats"], { stdin });
    expect(first.code).toBe(0);
    const answers = first.stdout.trimEnd().split("\n");
    expect(answers[0]).toBe("The capital of Japan is Tokyo.");
    expect(answers).toHaveLength(3);
    const [one, two, three] = turns(first.stderr);
    expect(one?.[1]).toBe(0);
    // Prompt and answer of the turn before are cached, but for the end token that the conversation does not have.
    expect(two?.[1]).toBeGreaterThan((one?.[0] ?? 0) + 5);
    expect(three?.[1]).toBeGreaterThan((two?.[0] ?? 0) + 2);
    const saved = JSON.parse(readFileSync(file, "utf8")).messages;
    expect(saved.map(({ role }: { role: string }) => role).join()).toBe("user,assistant,user,assistant,user,assistant");
    expect(saved[2].content).toBe("What is \n3 + 4?");
    expect(saved[4].content).toBe("What does\na cow say?");

    const again = await phi(["chat", "--stats"], { stdin: `/load ${file}\nWhat is 3 + 4?\n` });
    expect(again.code).toBe(0);
    expect(turns(again.stderr)[0]?.[0]).toBeGreaterThan(three?.[0] ?? 0);
  });

  test("the oldest turns make room, a message that is too long is refused, and the chat goes on", async () => {
    const long = "word ".repeat(100);
    const stdin = `What is 3 + 4?\nWhat is 3 + 4?\nWhat is 3 + 4?\n${long}\nWhat is 3 + 4?\n/nosuch\n/load /nowhere\n`;
    const { code, stdout, stderr } = await phi(["chat", "--context", "48", "-n", "10"], { stdin });
    expect(stdout).toBe("3 + 4 = 7\n".repeat(4));
    expect(stderr).toContain("note: the context of 48 tokens is full: the oldest 2 messages are left out");
    expect(stderr).toMatch(
      /error: the message does not fit: with the system prompt it is \d+ tokens, the context is 48/,
    );
    expect(stderr).toContain("error: /nosuch: expected a command");
    expect(stderr).toContain("error: /nowhere: cannot be read");
    expect(code).toBe(2);
  });

  test("a saved conversation that is none is refused and changes nothing", async () => {
    const file = join(folder, "bad.json");
    writeFileSync(file, '[{"role": "", "content": "x"}]');
    const stdin = `/system Be brief.\n/load ${file}\n/system\n/reset\n//what\n`;
    const { code, stdout, stderr } = await phi(["chat", "-n", "1"], { stdin });
    expect(stderr).toContain("[0].role: expected the name of a role");
    expect(stderr).toContain("\nBe brief.\n");
    expect(stdout).not.toBe("");
    expect(code).toBe(2);
  });

  test("Ctrl-C stops the answer and not the chat", async () => {
    // The end token is kept from being chosen, so that the answer is long.
    const child = spawn(process.execPath, [executable, "chat", "--logit-bias", "0=-1000", "-n", "900"]);
    let stdout = "";
    let stderr = "";
    let isStopped = false;
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
      if (!isStopped && stderr.includes("stopped after")) {
        isStopped = true;
        child.stdin.end("/stats\n");
      }
    });
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      if (stdout === "") child.kill("SIGINT");
      stdout += text;
    });
    child.stdin.write("What is 3 + 4?\n");
    const code = await new Promise((resolve) => child.on("close", resolve));
    expect({ code, isStopped }).toEqual({ code: 0, isStopped: true });
    expect(stderr.match(/stopped after \d+ tokens/g)).toHaveLength(2); // the note, and /stats
  });
});
