/** Our engine, as the command runs it; the variant is the type of its weights. */
import { openAdapter } from "../../cli/adapter.ts";
import { openModel, openModelFolder } from "../../cli/model.ts";
import { choiceOption, weightTypes } from "../../cli/options.ts";
import { versionLine } from "../../cli/package.ts";
import { forget } from "../text.ts";
import { measure } from "./runner.ts";

await measure(async ({ folder, variant, longPrompt, shortPrompt, newTokens }) => {
  const quantize = choiceOption("variant", weightTypes)(variant);
  const context = Math.max(longPrompt.length, shortPrompt.length + newTokens) + 1;
  const adapter = await openAdapter();
  const options = { kv: "f16", context, quantize } as const;
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
