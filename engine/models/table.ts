/** The architectures by `model_type`: a new one is a file beside this one and a line here. */

import type { ConfigReader } from "../files/config.ts";
import { type Architecture, checkCommonFields } from "./architecture.ts";
import { phi } from "./phi.ts";
import { phi3 } from "./phi3.ts";
import { phi3small } from "./phi3small.ts";
import { phimoe } from "./phimoe.ts";

interface Entry {
  readonly read: (config: ConfigReader) => Architecture;
  /** Names of its class in published configs. */
  readonly classes: readonly string[];
}

const architectures: Readonly<Record<string, Entry>> = {
  phi: { read: phi, classes: ["PhiForCausalLM"] }, // phi-1, phi-1.5, phi-2
  phi3: { read: phi3, classes: ["Phi3ForCausalLM"] }, // phi-3-mini, phi-3-medium, phi-3.5-mini, phi-4, phi-4-mini
  phi3small: { read: phi3small, classes: ["Phi3SmallForCausalLM"] }, // phi-3-small
  phimoe: { read: phimoe, classes: ["PhimoeForCausalLM", "PhiMoEForCausalLM"] }, // phi-3.5-MoE
};

/** The `model_type`s that are implemented. */
export const supportedModelTypes: readonly string[] = Object.keys(architectures);

/** Reads config.json into the architecture that its `model_type` names. Throws a PhiError "checkpoint" for others. */
export function readArchitecture(config: ConfigReader): Architecture {
  const type = config.oneOf("model_type", supportedModelTypes);
  const entry = architectures[type];
  if (entry === undefined) throw new Error(`no architecture for ${type}`);
  checkCommonFields(config, entry.classes);
  return entry.read(config);
}
