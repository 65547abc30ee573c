/** What of generation_config.json is followed, noted and refused. */
import { describe, expect, test } from "vitest";
import { readConfig } from "../../../engine/files/config.ts";
import { type GenerationDefaults, readGenerationDefaults } from "../../../engine/files/generation.ts";
import { failure } from "../../tempFolder.ts";

const read = (text: string, file: string) => readConfig(file, new TextEncoder().encode(text));

const defaults = (config: string, generation?: string): GenerationDefaults =>
  readGenerationDefaults(
    read(config, "config.json"),
    generation === undefined ? undefined : read(generation, "generation_config.json"),
    256,
  );

/** Without the fields that are there in all. */
const settings = (generation: string) => {
  const { bosId, eosIds, doSample, notes, ...rest } = defaults("{}", generation);
  return rest;
};

describe("readGenerationDefaults", () => {
  test("without generation_config.json the ids are config.json's and text is greedy", () => {
    expect(defaults('{"bos_token_id": 1, "eos_token_id": [2, 3]}')).toEqual({
      bosId: 1,
      eosIds: [2, 3],
      doSample: false,
      notes: [],
    });
    expect(defaults('{"bos_token_id": null}')).toEqual({ bosId: undefined, eosIds: [], doSample: false, notes: [] });
  });

  test("generation_config.json comes first, field by field; the text ends at the ids of both", () => {
    const generation =
      '{"eos_token_id": 9, "do_sample": true, "temperature": 0.5, "top_k": 0, "top_p": 0.9, "repetition_penalty": 1.1}';
    expect(defaults('{"bos_token_id": 1, "eos_token_id": 2}', generation)).toEqual({
      bosId: 1,
      eosIds: [9, 2],
      doSample: true,
      temperature: 0.5,
      topK: 0,
      topP: 0.9,
      repetitionPenalty: 1.1,
      notes: [],
    });
    expect(defaults('{"bos_token_id": 1}', '{"bos_token_id": 5}').bosId).toBe(5);
  });

  test("what applies to greedy texts too", () => {
    const all = `{"repetition_penalty": 2, "suppress_tokens": [3, 4], "min_new_tokens": 5, "min_length": 9,
      "stop_strings": "END", "bad_words_ids": [[7], [8, 9]]}`;
    expect(settings(all)).toEqual({
      repetitionPenalty: 2,
      suppressTokens: [3, 4],
      minNewTokens: 5,
      stopStrings: ["END"],
      badWordsIds: [[7], [8, 9]],
    });
    expect(settings('{"min_length": 9, "stop_strings": ["a", "b"]}')).toEqual({
      minLength: 9,
      stopStrings: ["a", "b"],
    });
    // min_new_tokens overrides min_length, also with 0.
    expect(settings('{"min_length": 9, "min_new_tokens": 0}')).toEqual({});
  });

  test("integers written 50.0, and null", () => {
    const text =
      '{"do_sample": true, "top_k": 40.0, "eos_token_id": [50.0], "min_new_tokens": 5e0, "suppress_tokens": [1.0]}';
    expect(defaults("{}", text)).toMatchObject({ topK: 40, eosIds: [50], minNewTokens: 5, suppressTokens: [1] });
    const nulls = `{"do_sample": null, "temperature": null, "top_k": null, "eos_token_id": null, "suppress_tokens": null,
      "bad_words_ids": null, "stop_strings": null, "min_new_tokens": null, "repetition_penalty": null, "num_beams": null}`;
    expect(defaults("{}", nulls)).toEqual({ bosId: undefined, eosIds: [], doSample: false, notes: [] });
  });

  test("top_k is 50 where a text is sampled and nothing is said, and top_p is off from 1 on", () => {
    expect(settings('{"do_sample": true}')).toEqual({ topK: 50 });
    expect(settings('{"do_sample": true, "top_k": null, "top_p": 1.5}')).toEqual({ topK: 50, topP: 1 });
  });

  test("ids that no token has are left out with a note", () => {
    const { bosId, eosIds, suppressTokens, badWordsIds, notes } = defaults(
      '{"bos_token_id": -1, "eos_token_id": 256}',
      '{"eos_token_id": [9, -1, 300], "suppress_tokens": [1, 256], "bad_words_ids": [[3], [4, 999]]}',
    );
    expect({ bosId, eosIds, suppressTokens, badWordsIds }).toEqual({
      bosId: undefined,
      eosIds: [9],
      suppressTokens: [1],
      badWordsIds: [[3]],
    });
    expect(notes).toEqual([
      'config.json: "bos_token_id" -1 is left out: no token has it; the vocabulary has 256',
      'config.json: "eos_token_id" 256 is left out: no token has it; the vocabulary has 256',
      'generation_config.json: "eos_token_id" -1, 300 are left out: no token has it; the vocabulary has 256',
      'generation_config.json: "suppress_tokens" 256 is left out: no token has it; the vocabulary has 256',
      'generation_config.json: "bad_words_ids" [4, 999] is left out, of 1: no token has such an id',
    ]);
  });

  const noted: readonly (readonly [generation: string, notes: readonly RegExp[]])[] = [
    [
      '{"temperature": 0.7}',
      [/^generation_config\.json: "temperature" 0\.7 is not followed: "do_sample" is not true$/],
    ],
    ['{"top_k": -1, "top_p": NaN, "min_p": "x"}', [/"top_k" -1/, /"top_p" NaN/, /"min_p" "x"/]],
    ['{"temperature": 1.0, "top_k": 50, "top_p": 1, "typical_p": 0.5, "eta_cutoff": 0.1, "top_h": 0.4}', []],
    ['{"do_sample": true, "temperature": 0}', [/"do_sample" is not followed: "temperature" is 0/]],
    ['{"do_sample": true, "typical_p": 0.5}', [/"typical_p" 0\.5 is not followed: it is not supported/]],
    ['{"do_sample": true, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0}', []],
    ['{"do_sample": true, "epsilon_cutoff": 3e-4, "eta_cutoff": 3e-4, "top_h": 0.3}', [/"top_h"/, /"epsilon/, /"eta/]],
    ['{"num_beams": 4}', [/"num_beams" 4 is not followed: beam search is not supported/]],
    ['{"num_beams": 1, "no_repeat_ngram_size": 0, "guidance_scale": 1, "encoder_repetition_penalty": 1.0}', []],
    ['{"no_repeat_ngram_size": 3}', [/"no_repeat_ngram_size" 3 is not followed/]],
    ['{"begin_suppress_tokens": [1, 2]}', [/"begin_suppress_tokens" \[1, 2\]/]],
    ['{"begin_suppress_tokens": [], "watermarking_config": null}', []],
    ['{"forced_bos_token_id": 1, "forced_eos_token_id": 0}', [/"forced_bos/, /"forced_eos_token_id" 0/]],
    ['{"exponential_decay_length_penalty": [5, 1.1]}', [/"exponential_decay_length_penalty" \[5, 1\.1\]/]],
    ['{"sequence_bias": [[[1], 2.0]]}', [/"sequence_bias" a list of 1/]],
    ['{"guidance_scale": 1.5, "encoder_repetition_penalty": 1.2}', [/"guidance_scale"/, /"encoder_repetition/]],
    ['{"penalty_alpha": 0.6}', [/"penalty_alpha"/]],
    ['{"watermarking_config": {"bias": 2}}', [/"watermarking_config" an object/]],
    ['{"max_length": 20, "max_new_tokens": 9}', [/"max_length" 20 .*--max-tokens/, /"max_new_tokens" 9/]],
    ['{"num_return_sequences": 2, "token_healing": true}', [/"token_healing" true/, /"num_return_sequences" 2/]],
    ['{"use_cache": false, "transformers_version": "4.40", "pad_token_id": 0, "_from_model_config": true}', []],
  ];
  test.each(noted)("%s", (generation, expected) => {
    const { notes } = defaults("{}", generation);
    expect(notes).toHaveLength(expected.length);
    for (const [i, pattern] of expected.entries()) expect(notes[i]).toMatch(pattern);
  });

  test("the dtype that config.json gives", () => {
    expect(defaults('{"torch_dtype": "float8"}').notes).toEqual([
      `config.json: "torch_dtype" "float8" is not followed: the tensors' own types are`,
    ]);
    expect(defaults('{"torch_dtype": "bfloat16", "dtype": null}').notes).toEqual([]);
  });

  const refused: readonly (readonly [generation: string, message: RegExp])[] = [
    [
      '{"eos_token_id": "</s>"}',
      /^generation_config\.json: "eos_token_id": expected a token id or a list of them, got "<\/s>"/,
    ],
    ['{"eos_token_id": [1.5]}', /"eos_token_id": expected a token id/],
    ['{"do_sample": true, "temperature": NaN}', /"temperature": expected a finite number .* got NaN/],
    ['{"do_sample": true, "temperature": -1}', /"temperature": .* got -1/],
    ['{"do_sample": true, "top_k": -1}', /"top_k": .* got -1/],
    ['{"do_sample": true, "top_k": 50.5}', /"top_k": .* got 50.5/],
    ['{"do_sample": true, "top_p": -0.1}', /"top_p": .* got -0.1/],
    ['{"do_sample": true, "min_p": "0.1"}', /"min_p": .* got "0.1"/],
    ['{"repetition_penalty": 0}', /"repetition_penalty": .* got 0/],
    ['{"do_sample": "yes"}', /"do_sample": expected true or false, got "yes"/],
    ['{"min_new_tokens": -1}', /"min_new_tokens": expected an integer from 0/],
    ['{"min_length": "3"}', /"min_length": expected an integer from 0/],
    ['{"suppress_tokens": ["a"]}', /"suppress_tokens": expected a token id/],
    ['{"bad_words_ids": [1, 2]}', /"bad_words_ids": expected a list of lists of token ids/],
    ['{"bad_words_ids": [[]]}', /"bad_words_ids": expected a list of lists of token ids/],
    ['{"bad_words_ids": [[1, "a"]]}', /"bad_words_ids": expected a list of lists of token ids/],
    ['{"stop_strings": [""]}', /"stop_strings": expected strings of at least one character/],
    ['{"stop_strings": [1]}', /"stop_strings": expected a list of strings/],
  ];
  test.each(refused)("%s is refused", async (generation, message) => {
    expect((await failure(() => defaults("{}", generation))).message).toMatch(message);
  });
});
