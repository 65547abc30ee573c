/** The documents: their links lead somewhere, the files that they name are there, and README stays short. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { describe, expect, test } from "vitest";

const root = join(import.meta.dirname, "..");
const pages = [
  ...["README.md", "DESIGN.md", "CONTRIBUTING.md"].map((name) => join(root, name)),
  ...filesUnder(join(root, "docs")).filter((path) => path.endsWith(".md")),
];
const testNames = new Set(filesUnder(join(root, "test")).map((path) => path.slice(path.lastIndexOf("/") + 1)));
/** What begins a path of this repository, in a text. `dist/`, `../shared` and a user's own `./phi-2` are not in it. */
const ours =
  /^(?:\.ci|bench|cli|docs|engine|fuzz|hub|kernels|library|models|scripts|test|tokenizer)\/[\w./*-]*|^\.dependency-cruiser\.cjs$/;

function filesUnder(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" }).map((name) => join(folder, name));
}

const withoutBlocks = (markdown: string) => markdown.replace(/^```[^\n]*\n[\s\S]*?^```$/gm, "");

/** What stands in backticks, and the lines of blocks. */
function codeOf(markdown: string): string[] {
  const blocks = [...markdown.matchAll(/^```[^\n]*\n([\s\S]*?)^```$/gm)].map(([, block = ""]) => block);
  const spans = [...withoutBlocks(markdown).matchAll(/(`+)([^`]+?)\1/g)].map(([, , span = ""]) => span);
  return [...blocks, ...spans];
}

/** The targets of links and pictures that are no URL. */
function linksOf(markdown: string): string[] {
  const text = withoutBlocks(markdown).replace(/(`+)[^`]+?\1/g, "`");
  return [...text.matchAll(/\]\(([^)\s]+)\)/g), ...text.matchAll(/(?:src|href)="([^"]+)"/g)]
    .map(([, target = ""]) => target)
    .filter((target) => !/^[a-z]+:/.test(target));
}

/** A heading's anchor, as GitHub makes it: lower case, blanks to hyphens, all but letters, digits, `-` and `_` left out. */
function anchorsOf(markdown: string): Set<string> {
  const anchors = new Set<string>();
  for (const [, heading = ""] of withoutBlocks(markdown).matchAll(/^#{1,6} +(.+)$/gm)) {
    const text = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, "$1").toLowerCase();
    const anchor = text.replace(/[^\p{L}\p{N}\s_-]/gu, "").replace(/\s/g, "-");
    let unique = anchor;
    for (let i = 1; anchors.has(unique); i++) unique = `${anchor}-${i}`;
    anchors.add(unique);
  }
  return anchors;
}

function isThere(path: string): boolean {
  if (!path.includes("*")) return existsSync(join(root, path));
  const folder = dirname(path);
  const parts = path.slice(folder.length + 1).split("*");
  const pattern = new RegExp(`^${parts.map((part) => part.replace(/[.]/g, "\\.")).join(".*")}$`);
  return existsSync(join(root, folder)) && readdirSync(join(root, folder)).some((name) => pattern.test(name));
}

/** The paths of this repository in a piece of code, without the places of a name yet to be given (`NAME`). */
function pathsIn(code: string): string[] {
  return code
    .split(/[\s"'(),;]+/)
    .flatMap((word) => ours.exec(word)?.[0] ?? [])
    .map((path) => path.replace(/[.]$/, ""))
    .filter((path) => !path.includes("NAME"));
}

describe.each(pages.map((path) => ({ page: relative(root, path), path })))("$page", ({ page, path }) => {
  const markdown = readFileSync(path, "utf8");

  test("links to files and headings that are there", () => {
    const broken = linksOf(markdown).filter((link) => {
      const [file = "", anchor] = link.split("#");
      const target = file === "" ? path : join(dirname(path), decodeURIComponent(file));
      if (!existsSync(target)) return true;
      return anchor !== undefined && !anchorsOf(readFileSync(target, "utf8")).has(anchor);
    });
    expect(broken).toEqual([]);
  });

  test("names files that are there", () => {
    const code = codeOf(markdown);
    const missing = code.flatMap(pathsIn).filter((named) => !isThere(named));
    // A test may be named without its folder, which is then nobody's business.
    const tests = code.filter((span) => /^[\w-]+(?:\.gpu)?\.test\.ts$/.test(span) && !span.includes("NAME"));
    expect([...missing, ...tests.filter((name) => !testNames.has(name))]).toEqual([]);
  });

  test("closes its blocks of code, and has a table's cells in every row", () => {
    expect((markdown.match(/^```/gm) ?? []).length % 2).toBe(0);
    const cells = (row: string) => row.replace(/\\\||`[^`]*`/g, "").split("|").length;
    const lines = withoutBlocks(markdown).split("\n");
    const ragged = lines.filter((line, i) => {
      const above = lines[i - 1] ?? "";
      return line.startsWith("|") && above.startsWith("|") && cells(line) !== cells(above);
    });
    expect(ragged, page).toEqual([]);
  });
});

test("README has at most 200 lines", () => {
  const lines = readFileSync(join(root, "README.md"), "utf8").trimEnd().split("\n");
  expect(lines.length).toBeLessThanOrEqual(200);
});

test("every page is in the index", () => {
  const index = join(root, "docs/README.md");
  const listed = linksOf(readFileSync(index, "utf8")).map((link) => join(dirname(index), link.split("#")[0] ?? ""));
  const unlisted = pages.filter((page) => page.startsWith(dirname(index)) && page !== index && !listed.includes(page));
  expect(unlisted.map((page) => relative(root, page))).toEqual([]);
});

test("the readers of this file find what they look for", () => {
  const markdown =
    "# A `b`: c, d\n\n## A b c d\n\n[x](y.md#z) `test/no.ts` [u](https://v) `[n](o)`\n\n```sh\nnode scripts/no.mjs\n```\n";
  expect([...anchorsOf(markdown)]).toEqual(["a-b-c-d", "a-b-c-d-1"]);
  expect(linksOf(markdown)).toEqual(["y.md#z"]);
  expect(codeOf(markdown).flatMap(pathsIn)).toEqual(["scripts/no.mjs", "test/no.ts"]);
  expect(["test/docs.test.ts", "test/*.test.ts", "test/none*.ts", "nowhere/*.ts"].map(isThere)).toEqual([
    true,
    true,
    false,
    false,
  ]);
});
