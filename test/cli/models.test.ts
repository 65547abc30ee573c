import { readFileSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { columns, factCells, modelFacts } from "../../cli/models.ts";
import { otherModels, type PublishedModel, publishedModels } from "../../cli/published.ts";
import { declaredFolder } from "../../engine/index.ts";
import { tempFolder } from "../tempFolder.ts";
import { phi } from "./process.ts";

describe("phi models", () => {
  test("computes each model's published number of parameters", async () => {
    const facts = await modelFacts();
    const byName = new Map(facts.map(({ name, parameters }) => [name.replace("microsoft/", ""), parameters]));
    // As the hub counts them; where two digits are given, as the models' cards do.
    for (const [name, parameters] of [
      ["phi-1", 1_418_270_720],
      ["phi-1_5", 1_418_270_720],
      ["phi-2", 2_779_683_840],
      ["Phi-3-mini-128k-instruct", 3_821_079_552],
      ["Phi-3-medium-128k-instruct", 13_960_238_080],
      ["phi-4", 14_659_507_200],
      ["Phi-4-mini-reasoning", 3_836_021_760],
    ] as const) {
      expect(byName.get(name), name).toBe(parameters);
    }
    expect(Number(byName.get("Phi-3-small-8k-instruct")) / 1e9).toBeCloseTo(7.39, 2);
    expect(Number(byName.get("Phi-3.5-MoE-instruct")) / 1e9).toBeCloseTo(41.9, 1);
  });

  test("docs/models.md has the table as it is computed", async () => {
    const lines = readFileSync(join(import.meta.dirname, "../../docs/models.md"), "utf8").split("\n");
    const rowOf = (name: string) =>
      lines
        .find((line) => line.startsWith(`| ${name} |`))
        ?.slice(2, -2)
        .split(" | ") ?? [];
    expect(rowOf("model")).toEqual(columns);
    for (const facts of await modelFacts()) {
      const written = rowOf(facts.name);
      factCells(facts).forEach((cell, i) => {
        const column = columns[i] ?? "";
        // Activations are a small part of the memory, and may change with any kernel.
        if (!column.startsWith("GPU")) expect(written[i], `${facts.name}, ${column}`).toBe(cell);
        else
          expect(Math.abs(Number.parseFloat(written[i] ?? "") / Number.parseFloat(cell) - 1), facts.name).toBeLessThan(
            0.1,
          );
      });
    }
    for (const { name } of otherModels) expect(lines.join("\n")).toContain(name);
  });

  test("names what is not supported, as text and as JSON", async () => {
    const text = await phi(["models"]);
    expect(text.code).toBe(0);
    expect(text.stdout).toMatch(/^microsoft\/phi-2 +PhiForCausalLM +2\.78 B +2,048 +MIT /m);
    expect(text.stdout).toMatch(/^microsoft\/Phi-4-mini-flash-reasoning: not supported\. SambaY/m);
    const all = JSON.parse((await phi(["models", "--json"])).stdout);
    expect(all).toHaveLength(Object.keys(publishedModels).length + otherModels.length);
    expect(all[2]).toMatchObject({
      name: "microsoft/phi-2",
      supported: true,
      context: 2048,
      parameters: 2_779_683_840,
    });
    expect(all.at(-1)).toMatchObject({ supported: false });
  });
});

test.each(["phi-2", "phi-3-small-128k", "phi-3.5-moe", "phi-4-mini"] as const)(
  "phi info on %s, as published",
  async (key) => {
    const { config, name }: PublishedModel = publishedModels[key];
    const declared = await declaredFolder(name, { config }, "BF16").open("model.safetensors");
    const header =
      (await declared?.read(
        0,
        8 + Number((await declared.read(0, 8)).slice(0, 4).reduceRight((n, byte) => n * 256 + byte, 0)),
      )) ?? new Uint8Array();
    const folder = tempFolder({ "config.json": config, "model.safetensors": header });
    // A hole in the file in place of gigabytes.
    truncateSync(join(folder, "model.safetensors"), declared?.sizeBytes ?? 0);
    const { code, stdout, stderr } = await phi(["info", "-m", folder, "--json", "--adapter", "null"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const { model, problem } = JSON.parse(stdout);
    expect(problem).toBeNull();
    expect(model.layers).toBe(config.num_hidden_layers);
  },
);
