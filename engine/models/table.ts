/** The architectures by `model_type`: a new one is a file beside this one and a line here. */

import type { ConfigReader } from "../files/config.ts";
import type { Architecture } from "./architecture.ts";
import { phi } from "./phi.ts";
import { phi3 } from "./phi3.ts";
import { phi3small } from "./phi3small.ts";
import { phimoe } from "./phimoe.ts";

const architectures: Readonly<Record<string, (config: ConfigReader) => Architecture>> = {
  phi, // phi-1, phi-1.5, phi-2
  phi3, // phi-3-mini, phi-3-medium, phi-3.5-mini, phi-4, phi-4-mini
  phi3small, // phi-3-small
  phimoe, // phi-3.5-MoE
};

/** The `model_type`s that are implemented. */
export const supportedModelTypes: readonly string[] = Object.keys(architectures);

/** Reads config.json into the architecture that its `model_type` names. Throws a PhiError "checkpoint" for others. */
export function readArchitecture(config: ConfigReader): Architecture {
  const type = config.oneOf("model_type", supportedModelTypes);
  const read = architectures[type];
  if (read === undefined) throw new Error(`no architecture for ${type}`);
  return read(config);
}
