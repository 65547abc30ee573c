/**
 * The package as it would be published: what is in it, how large it is, and that it works where nothing else is: packed,
 * installed into an empty project, its command line and its library used. Run after `npm run build`.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const mostBytes = 5_000_000;
const allowed =
  /^(?:dist\/(?:cli|engine|hub|kernels|library|tokenizer)\/|models\/phi-tiny\/|(?:README\.md|LICENSE|package\.json)$)/;

const work = mkdtempSync(join(tmpdir(), "phi-package-"));
const run = (command, args, cwd) =>
  execFileSync(command, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });

function check(holds, what) {
  if (!holds) throw new Error(`package: ${what}`);
}

try {
  const packed = run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", work], root);
  const [{ filename, size, unpackedSize, files }] = JSON.parse(packed);
  const stray = files.map(({ path }) => path).filter((path) => !allowed.test(path) || /\.test\.|fixtures/.test(path));
  check(stray.length === 0, `expected no tests, fixtures or tools, got ${stray.join(", ")}`);
  check(size <= mostBytes, `expected at most ${mostBytes} bytes packed, got ${size}`);

  writeFileSync(join(work, "package.json"), JSON.stringify({ name: "empty", private: true, type: "module" }));
  run("npm", ["install", "--no-audit", "--no-fund", join(work, filename)], work);
  const phi = join(work, "node_modules/.bin/phi");
  check(/^phi \d/.test(run(phi, ["--version"], work)), "phi --version");
  check(run(phi, ["info"], work).includes("PhiForCausalLM"), "phi info on the bundled model");

  const program = `
    import { load } from "phi-webgpu";
    const model = await load("node_modules/phi-webgpu/models/phi-tiny", { adapter: "null" });
    console.log(JSON.stringify(model.tokenizer.encode("Once upon")));
    model.dispose();`;
  const ids = run(process.execPath, ["--input-type=module", "-e", program], work);
  check(ids === "[593,592]\n", `expected the library's tokenizer to give [593,592], got ${ids}`);
  const [adapter] = JSON.parse(run(phi, ["devices", "--json"], work));
  if (adapter !== undefined) {
    const text = run(phi, ["-n", "4", "--temperature", "0", "Once upon a time"], work);
    check(text.trim().length > 0, "phi writes text");
  } else process.stderr.write("package: no adapter here, so no text was generated\n");
  const runtime = readdirSync(join(work, "node_modules")).length;
  console.log(
    `package: ${files.length} files, ${size} bytes packed, ${unpackedSize} unpacked; ${runtime} folders installed`,
  );
} finally {
  rmSync(work, { recursive: true, force: true });
}
