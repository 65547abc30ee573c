/** kernels/choose: the next token, by the host's sampler. */

import { markBytes } from "../../../kernels/choose/next.ts";
import { controlOf } from "../../generation/control.ts";
import { createSampler, type SamplingOptions } from "../../generation/sampler.ts";
import { numbers } from "./numbers.ts";
import { integers, type MakeProblem, type Problem, type ProblemSize, whole } from "./problem.ts";

/** The draw of a token: `sampling` on logits whose best two are far apart. */
function chooser(sampling: SamplingOptions, { vocab = 3000 }: ProblemSize): Problem {
  const prompt = [1, 5, 2100];
  const logits = numbers(1, vocab).map((n) => 3 * n);
  logits[2100] = 4; // the prompt's, which a repetition penalty weakens
  logits[vocab - 1] = 3.5;
  const { words: control, marks } = controlOf({ sampling, seed: 7n, stopIds: [] }, prompt, vocab);
  const id = createSampler({ ...sampling, seed: 7n }, vocab).sample(logits, { prompt, generated: [] });
  const outputs = { ids: { ...whole([id]), ...integers } };
  const inputs = { logits, control, marks: marks ?? new Uint32Array((vocab * markBytes) / 4) };
  return { seq: 1, past: 0, kvRows: 1, inputs, outputs };
}

export const argmax: MakeProblem = (_, size) => chooser({}, size);

export const sample: MakeProblem = (_, size) =>
  chooser({ temperature: 0.8, topK: 200, topP: 0.9, minP: 0.01, repetitionPenalty: 1.3 }, size);
