// The build's second half: tsc leaves the shaders behind, so they are copied beside the compiled kernels.
import { cpSync, writeFileSync } from "node:fs";

for (const folder of ["kernels", "bench"]) {
  cpSync(folder, `dist/${folder}`, { recursive: true, filter: (path) => !path.endsWith(".ts") });
}
// Its age tells the tests whether dist is up to date.
writeFileSync("dist/.built", "");
