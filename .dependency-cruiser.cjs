/** The arrows of DESIGN.md, checked on the compiled code: imports of types alone have vanished there. */

/** @param {string} name @param {string} comment @param {object} from @param {object} to */
const forbid = (name, comment, from, to) => ({ name, comment, severity: "error", from, to });

module.exports = {
  forbidden: [
    forbid("no-cycles", "files depend on each other in one direction", {}, { circular: true }),
    forbid("resolvable", "every import exists", {}, { couldNotResolve: true }),
    forbid(
      "kernels-alone",
      "kernels are plain descriptions and import nothing but kernels",
      { path: "^dist/kernels/" },
      { pathNot: "^dist/kernels/" },
    ),
    forbid(
      "engine-downwards",
      "the engine imports only itself and kernels",
      { path: "^dist/engine/" },
      { pathNot: "^dist/(engine|kernels)/", dependencyTypesNot: ["core"] },
    ),
    forbid(
      "models-record-only",
      "a model describes itself by ops and graph; it knows no device, kernel or plan",
      { path: "^dist/engine/models/" },
      {
        path: "^dist/(kernels/|engine/(device|weights|pipelines|profile|plan|run|cache|sampler|generate|index)\\.js$)",
      },
    ),
    forbid(
      "formats-to-packed-layouts",
      "an on-disk encoding knows the packed layouts and no other part of the GPU side",
      { path: "^dist/engine/formats/" },
      {
        path: "^dist/(kernels/(?!weights[./])|engine/models/|engine/(device|pipelines|profile|plan|run|cache|sampler|generate|index)\\.js$)",
      },
    ),
    forbid(
      "tokenizer-alone",
      "the tokenizer imports nothing of ours",
      { path: "^dist/tokenizer/" },
      { path: "^dist/(?!tokenizer/)" },
    ),
    forbid(
      "browser-clean",
      "all but the command line runs in a browser too; only engine/source knows Node",
      { path: "^dist/(engine|kernels|tokenizer|library)/", pathNot: "^dist/engine/source\\.js$" },
      { dependencyTypes: ["core"] },
    ),
    forbid(
      "library-by-the-door",
      "the library puts the engine's public API and the tokenizer's together, and knows no command line",
      { path: "^dist/library/" },
      { path: "^dist/(kernels|bench|cli|engine/(?!(index|errors)\\.js$)|tokenizer/(?!index\\.js$))" },
    ),
    forbid(
      "hub-by-the-door",
      "the hub knows checkpoints by the engine's public API, and nothing else of ours",
      { path: "^dist/hub/" },
      { path: "^dist/(?!hub/|engine/index\\.js$)" },
    ),
    forbid(
      "cli-by-the-door",
      "the command line uses library and hub, and the public APIs of engine (and its errors, to be quick) and tokenizer",
      { path: "^dist/cli/" },
      {
        path: "^dist/(kernels|bench|engine/(?!(index|errors)\\.js$)|tokenizer/(?!index\\.js$)|hub/(?!index\\.js$))",
      },
    ),
    forbid(
      "no-dev-dependencies",
      "what is published runs on its own dependencies",
      { path: "^dist/(cli|library|hub|engine|kernels|tokenizer)/" },
      { dependencyTypes: ["npm-dev", "npm-no-pkg", "npm-unknown"] },
    ),
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    exclude: { path: "\\.d\\.ts$" },
    moduleSystems: ["es6"],
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "node", "default"] },
  },
};
