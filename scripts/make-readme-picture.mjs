/**
 * Writes docs/first-story.svg, the picture of README: a recording of its first command, run here and now: the
 * fastest of several runs, as other work on the machine slows some. Each piece of the output appears when it came; a viewer
 * that plays no animation shows the whole. Run after `npm run build`:
 *
 *     node scripts/make-readme-picture.mjs
 *
 * Two warnings that Dawn prints on Mesa lavapipe are left out (docs/adapters.md); all else is as it was printed.
 */
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const target = join(root, "docs/first-story.svg");
const prompt = "Once upon a time";
const shown = `npm run -s phi -- --stats "${prompt}"`;

const runs = 5;
const columns = 100;
const cell = { width: 8.43, height: 20 }; // pixels of a character of 14 px
const margin = { left: 22, top: 46, bottom: 22 };
const colours = { ground: "#0d1117", edge: "#30363d", text: "#e6edf3", quiet: "#8b949e", prompt: "#7ee787" };

/** The output in the order in which it came: `{ stream, text, ms }`, ms since the start. */
function record() {
  return new Promise((done, failed) => {
    const start = performance.now();
    const pieces = [];
    const child = spawn(process.execPath, [join(root, "dist/cli/phi.js"), "--stats", prompt], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of ["stdout", "stderr"]) {
      child[stream].setEncoding("utf8").on("data", (text) => {
        pieces.push({ stream, text, ms: performance.now() - start });
      });
    }
    child.on("error", failed);
    child.on("close", (code) =>
      code === 0 ? done(pieces) : failed(new Error(`phi: expected exit code 0, got ${code}`)),
    );
  });
}

/** The characters of the pieces, each with its place on the screen: `{ text, row, column, ms, stream }`; words are not cut. */
function lay(pieces, firstRow) {
  const placed = [];
  let [row, column] = [firstRow, 0];
  const newLine = () => {
    row += 1;
    column = 0;
  };
  for (const stream of ["stdout", "stderr"]) {
    const characters = pieces
      .filter((piece) => piece.stream === stream)
      .flatMap(({ text, ms }) => [...text].map((character) => ({ text: character, ms, stream })));
    const whole = characters.map(({ text }) => text).join("");
    if (column > 0) newLine();
    for (const { 0: word, index } of whole.matchAll(/\n| +|[^ \n]+/g)) {
      if (word !== "\n" && !word.startsWith(" ") && column + word.length > columns) newLine();
      if (word === "\n") newLine();
      else if (word.startsWith(" ")) column += word.length;
      else for (let i = 0; i < word.length; i++) placed.push({ ...characters[index + i], row, column: column++ });
    }
  }
  return { placed, rows: column > 0 ? row + 1 : row };
}

const escaped = (text) =>
  text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
const x = (column) => (margin.left + column * cell.width).toFixed(1);
const y = (row) => margin.top + row * cell.height + 14;

/** Neighbours that came at once are one element. */
function elements(placed) {
  const joined = [];
  for (const part of placed) {
    const run = joined.at(-1);
    const gap = run === undefined ? -1 : part.column - (run.column + run.text.length);
    if (run !== undefined && run.ms === part.ms && run.row === part.row && (gap === 0 || gap === 1)) {
      run.text += " ".repeat(gap) + part.text;
    } else joined.push({ ...part });
  }
  return joined.map(({ text, row, column, ms, stream }) => {
    const kind = stream === "stderr" ? ' class="quiet"' : "";
    return `<text${kind} x="${x(column)}" y="${y(row)}" style="animation-delay:${(ms / 1000).toFixed(2)}s">${escaped(text)}</text>`;
  });
}

let fastest = [];
for (let run = 0; run < runs; run++) {
  const pieces = await record();
  if (run === 0 || pieces.at(-1).ms < fastest.at(-1).ms) fastest = pieces;
}
const pieces = fastest
  .map((piece) => ({ ...piece, text: piece.text.replace(/^Warning: maxDynamic.*\n/gm, "") }))
  .filter(({ text }) => text !== "");
const { placed, rows } = lay(pieces, 1);
const width = Math.ceil(2 * margin.left + columns * cell.width);
const height = margin.top + rows * cell.height + margin.bottom;
const dots = ["#ff5f57", "#febc2e", "#28c840"].map(
  (fill, i) => `<circle cx="${24 + 20 * i}" cy="22" r="6" fill="${fill}"/>`,
);

const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">
<title>${escaped(shown)}, and the story that the bundled model writes</title>
<style>
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: ${colours.text}; white-space: pre; animation: come 1ms both }
.quiet { fill: ${colours.quiet} }
.typed { animation: none }
@keyframes come { from { opacity: 0 } to { opacity: 1 } }
@media (prefers-reduced-motion: reduce) { text { animation: none } }
</style>
<rect x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="10" fill="${colours.ground}" stroke="${colours.edge}"/>
${dots.join("")}
<text class="typed" x="${x(0)}" y="${y(0)}"><tspan fill="${colours.prompt}">$</tspan> ${escaped(shown)}</text>
${elements(placed).join("\n")}
</svg>
`;
writeFileSync(target, svg);
console.log(`${target}: ${svg.length} bytes, ${pieces.length} pieces, ${rows} lines`);
