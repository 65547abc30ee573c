/**
 * The arrows of DESIGN.md, checked on the sources: imports of types alone count, but where a rule is about what runs. The
 * rooms of the engine lie in the order of `rooms`; a file imports from its own room and from those before it.
 */

/** From the bottom up. What lies at the top of engine/ itself, index.ts, model.ts and describe.ts, comes last. */
const rooms = ["files", "graph", "models", "gpu", "weights", "run", "generation", "check"];

/** @param {string} name @param {string} comment @param {object} from @param {object} to */
const forbid = (name, comment, from, to) => ({ name, comment, severity: "error", from, to });

const atRuntime = { dependencyTypesNot: ["type-only", "type-import"] };

module.exports = {
  forbidden: [
    forbid("no-cycles", "files depend on each other in one direction", {}, { circular: true }),
    forbid("resolvable", "every import exists", {}, { couldNotResolve: true }),
    forbid(
      "kernels-alone",
      "kernels are plain descriptions and import nothing but kernels",
      { path: "^kernels/" },
      { pathNot: "^kernels/" },
    ),
    forbid(
      "engine-downwards",
      "the engine imports only itself and kernels",
      { path: "^engine/" },
      { pathNot: "^(engine|kernels)/", dependencyTypesNot: ["core"] },
    ),
    forbid("errors-alone", "errors import nothing", { path: "^engine/errors\\.ts$" }, { path: "^(engine|kernels)/" }),
    ...rooms.map((room, floor) =>
      forbid(
        `engine-${room}-downwards`,
        `engine/${room} imports from ${["errors.ts", ...rooms.slice(0, floor)].join(", ")} and itself`,
        { path: `^engine/${room}/` },
        { path: "^engine/", pathNot: `^engine/(errors\\.ts$|(${rooms.slice(0, floor + 1).join("|")})/)` },
      ),
    ),
    forbid(
      "rooms-listed",
      "every folder of the engine has its place in the order",
      { path: `^engine/(?!(${rooms.join("|")})/)[^/]+/` },
      {},
    ),
    forbid(
      "models-record-only",
      "a model describes itself by ops and graph; it knows no kernel, no plan and no sizes",
      { path: "^engine/models/" },
      { path: "^(kernels/|engine/graph/(plan|sizes)\\.ts$)" },
    ),
    forbid(
      "formats-to-packed-layouts",
      "an on-disk encoding knows the packed layouts and no other part of the GPU side",
      { path: "^engine/weights/(format|plain|packed|grouped|awq|gptq|gptq_write)\\.ts$" },
      { path: "^(kernels/(?!weights/)|engine/(gpu|models)/|engine/graph/(plan|sizes)\\.ts$)" },
    ),
    forbid(
      "tokenizer-alone",
      "the tokenizer imports nothing of ours",
      { path: "^tokenizer/" },
      { path: "^(engine|kernels|library|hub|cli|bench|fuzz|test)/" },
    ),
    forbid(
      "browser-clean",
      "all but the command line runs in a browser too; only engine/files/disk.ts and open.ts know Node",
      { path: "^(engine|kernels|tokenizer|library)/", pathNot: "^engine/files/(disk|open)\\.ts$" },
      { dependencyTypes: ["core"], ...atRuntime },
    ),
    forbid(
      "library-by-the-door",
      "the library puts the engine's public API and the tokenizer's together, and knows no command line",
      { path: "^library/" },
      { path: "^(kernels|hub|bench|cli|fuzz|engine/(?!(index|errors)\\.ts$)|tokenizer/(?!index\\.ts$))" },
    ),
    forbid(
      "hub-by-the-door",
      "the hub knows checkpoints by the engine's public API, and nothing else of ours",
      { path: "^hub/" },
      { path: "^(kernels|library|tokenizer|bench|cli|fuzz|engine/(?!index\\.ts$))" },
    ),
    forbid(
      "cli-by-the-door",
      "the command line uses library and hub, and the public APIs of engine (and its errors, to be quick) and tokenizer",
      { path: "^cli/" },
      { path: "^(kernels|bench|fuzz|engine/(?!(index|errors)\\.ts$)|tokenizer/(?!index\\.ts$)|hub/(?!index\\.ts$))" },
    ),
    forbid(
      "no-dev-dependencies",
      "what is published runs on its own dependencies",
      { path: "^(cli|library|hub|engine|kernels|tokenizer)/" },
      { dependencyTypes: ["npm-dev", "npm-no-pkg", "npm-unknown"], ...atRuntime },
    ),
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    doNotFollow: { path: "node_modules" },
    exclude: { path: "^test/fixtures/" },
    moduleSystems: ["es6"],
    enhancedResolveOptions: {
      exportsFields: ["exports"],
      conditionNames: ["import", "node", "default"],
      extensions: [".ts", ".js"],
    },
  },
};
