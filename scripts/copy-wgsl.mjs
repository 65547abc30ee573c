// The build's second half: tsc leaves the shaders behind, so they are copied beside the compiled kernels.
import { cpSync } from "node:fs";

cpSync("kernels", "dist/kernels", { recursive: true, filter: (path) => !path.endsWith(".ts") });
