/** Our engine, as the command runs it; the variant is the type of its weights and, behind a blank, that of activations. */
import { openAdapter } from "../../cli/adapter.ts";
import { openModel, openModelFolder } from "../../cli/model.ts";
import { activationFormats, choiceOption, weightTypes } from "../../cli/options.ts";
import { versionLine } from "../../cli/package.ts";
import { forget } from "../text.ts";
import { measure } from "./runner.ts";

await measure(async ({ folder, variant, longPrompt, shortPrompt, newTokens }) => {
  const [weights = "", activationType = "f32"] = variant.split(" ");
  const quantize = choiceOption("variant", weightTypes)(weights);
  const activations = choiceOption("variant", activationFormats)(activationType);
  const context = Math.max(longPrompt.length, shortPrompt.length + newTokens) + 1;
  const adapter = await openAdapter();
  const options = { kv: "f16", context, quantize, activations } as const;
  const signal = new AbortController().signal;
  const { model } = await openModel(await openModelFolder(folder), adapter, options, "none", signal);
  return {
    versions: versionLine(),
    adapter: adapter.adapter.info.description || adapter.name,
    reset: () => forget(model, shortPrompt), // the long prompt begins as it does
    async generate(prompt, tokens, onToken) {
      const options = { maxTokens: tokens, ignoreEos: true, sampling: { temperature: 0 } };
      for await (const { id } of model.generate(prompt, options)) if (id !== undefined) onToken(id);
    },
  };
});
