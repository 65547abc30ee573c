"""
Variants of config.json and generation_config.json, and what Hugging Face transformers makes of them. Run once:

    pip install torch==2.* transformers==5.23.*
    python3 test/engine/files/transformers_variants.py > test/fixtures/transformers_variants.json

Seeded, so that a second run writes the same. test/engine/files/transformers.test.ts compares.
"""

import dataclasses
import json
import logging
import random
import sys
import warnings

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, Phi3Config, Phi3ForCausalLM, PhiConfig, PhimoeConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.phi.modeling_phi import PhiRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding
from transformers.models.phimoe.modeling_phimoe import PhimoeRotaryEmbedding

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
rng = random.Random(16)


def pick(values):
    return values[rng.randrange(len(values))]


# ---- config.json

common = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
}
bases = {
    "phi": {"model_type": "phi", **common},
    "phi3": {"model_type": "phi3", **common},
    "phimoe": {"model_type": "phimoe", **common, "num_local_experts": 4, "num_key_value_heads": 2},
}
classes = {
    "phi": (PhiConfig, PhiRotaryEmbedding),
    "phi3": (Phi3Config, Phi3RotaryEmbedding),
    "phimoe": (PhimoeConfig, PhimoeRotaryEmbedding),
}


def rope_object(kind, rotary):
    types = {"phi": ["default", "linear", "dynamic", "yarn", "llama3", "longrope"], "phi3": ["default", "longrope", "longrope", "su", "yarn"], "phimoe": ["default", "longrope", "longrope"]}
    rope_type = pick(types[kind])
    result = {pick(["type", "rope_type", "rope_type"]): rope_type}
    if rng.random() < 0.15:
        result["type"] = pick(types[kind])
    is_long = "longrope" in result.values() or kind == "phi3" and rope_type != "default"
    if is_long or rng.random() < 0.05:
        result["short_factor"] = [round(1 + rng.random(), 2) for _ in range(rotary // 2)]
        result["long_factor"] = [round(1 + 8 * rng.random(), 2) for _ in range(rotary // 2)]
        if kind == "phimoe":
            result["short_mscale"], result["long_mscale"] = round(1 + rng.random(), 3), round(1 + rng.random(), 3)
    if not is_long or rng.random() < 0.3:
        result["factor"] = pick([1.0, 2.0, 4, 8.5, 0.5, 40.0])
    if rng.random() < 0.4:
        result["original_max_position_embeddings"] = pick([64, 128, 256, 512])
    if rng.random() < 0.4:
        result["rope_theta"] = pick([500.0, 10000, 250000.0])
    if rng.random() < 0.3:
        result["partial_rotary_factor"] = rotary / 16
    if rng.random() < 0.2 and rope_type in ("longrope", "yarn", "su"):
        result["attention_factor"] = pick([1.0, 1.25, None])
    if rope_type == "yarn":
        for key, values in (("beta_fast", [32, 16.0, None]), ("beta_slow", [1, 2.0]), ("mscale", [0.7, 1.0]), ("mscale_all_dim", [0.5, 1.0]), ("truncate", [True, False])):
            if rng.random() < 0.4:
                result[key] = pick(values)
    if rope_type == "llama3":
        result["low_freq_factor"], result["high_freq_factor"] = pick([1.0, 2]), pick([4.0, 8])
    return result


def config_changes(kind):
    changes = {}
    partial = pick([0.25, 0.5, 0.5, 0.75, 1.0])
    rotary = 16 if kind == "phimoe" else int(16 * partial)
    stated = rng.random()
    if kind != "phimoe" and (stated < 0.7 or partial != {"phi": 0.5}.get(kind, 1.0)):
        changes["partial_rotary_factor"] = partial
    if kind == "phimoe" and stated < 0.1:
        changes["partial_rotary_factor"] = 0.5
    where = rng.random()
    if where < 0.55:
        changes["rope_scaling"] = rope_object(kind, rotary)
    elif where < 0.62:
        changes["rope_scaling"] = pick([None, {}])
    if rng.random() < 0.45:
        changes["rope_parameters"] = pick([None, {}, rope_object(kind, rotary), rope_object(kind, rotary)])
    for key, chance, values in (
        ("rope_theta", 0.5, [500.0, 10000.0, 1000000]),
        ("original_max_position_embeddings", 0.4, [64, 128, 4096]),
        ("max_position_embeddings", 0.3, [128, 512, 8192]),
        ("num_key_value_heads", 0.4, [1, 2, 4, None]),
        ("num_attention_heads", 0.1, [2, 8]),
        ("head_dim", 0.15, [16]),
        ("tie_word_embeddings", 0.3, [True, False]),
        ("sliding_window", 0.2 if kind != "phi" else 0.02, [32, None, 128]),
        ("rms_norm_eps", 0.2, [1e-5, 1e-6, 1e-12]),
        ("layer_norm_eps", 0.2, [1e-5, 1e-6]),
        ("hidden_act", 0.1, [{"phi": "gelu_new"}.get(kind, "silu"), {"phi": "gelu_pytorch_tanh"}.get(kind, "swish"), "gelu"]),
        ("attention_dropout", 0.1, [0.0, 0.1]),
        ("resid_pdrop", 0.05, [0.1]),
        ("embd_pdrop", 0.05, [0.1]),
        ("dtype", 0.1, ["bfloat16", "float32", None]),
        ("torch_dtype", 0.1, ["float16"]),
        ("use_cache", 0.1, [False]),
        ("initializer_range", 0.05, [0.1]),
        ("intermediate_size", 0.1, [64, 128]),
        ("vocab_size", 0.1, [50, 128]),
        ("qk_layernorm", 0.1 if kind == "phi" else 0, [True, False]),
        ("lm_head_bias", 0.2 if kind == "phimoe" else 0, [True, False]),
        ("attention_bias", 0.2 if kind == "phimoe" else 0.03, [True, False]),
        ("router_jitter_noise", 0.2 if kind == "phimoe" else 0, [0.01, 0.1]),
        ("input_jitter_noise", 0.1 if kind == "phimoe" else 0, [0.1]),
        ("num_experts_per_tok", 0.1 if kind == "phimoe" else 0, [2]),
        ("eos_token_id", 0.1, [[2, 3], None, 5]),
        ("pad_token_id", 0.1, [0, 3]),
        ("architectures", 0.1, [["SomethingElse"], None]),
        ("_attn_implementation_internal", 0.05, ["eager"]),
        ("layer_types", 0.03, [["full_attention", "full_attention"], ["sliding_attention", "full_attention"]]),
        ("max_window_layers", 0.05, [1]),
        ("use_sliding_window", 0.05, [False]),
    ):
        if rng.random() < chance:
            changes[key] = pick(values)
    return changes


def numbers(tensor):
    return [float(f"{x:.7g}") for x in tensor.tolist()]


def config_result(kind, changes):
    config_class, rotary_class = classes[kind]
    config = config_class.from_dict(json.loads(json.dumps({**bases[kind], **changes})))
    rotary = rotary_class(config)
    rope_type = config.rope_parameters["rope_type"]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    result = {
        "heads": [config.num_attention_heads, config.num_key_value_heads, head_dim],
        "tie": config.tie_word_embeddings,
        "window": getattr(config, "sliding_window", None),
        "eps": config.layer_norm_eps if kind == "phi" else config.rms_norm_eps,
        "vocab": config.vocab_size,
        "inv": numbers(rotary.inv_freq),
        "scale": rotary.attention_scaling,
    }
    if rope_type == "longrope":
        original = config.rope_parameters["original_max_position_embeddings"]
        long, scale = ROPE_INIT_FUNCTIONS["longrope"](config, None, seq_len=original + 1)
        result["original"], result["long"] = original, numbers(long)
        if kind == "phimoe":
            # Its forward multiplies by these.
            result["scale"] = [config.rope_parameters["short_mscale"], config.rope_parameters["long_mscale"]]
    return result


# ---- generation_config.json

vocab = 48
ends = [7, 11]


def table(last):
    """The logits after `last`: test/engine/files/transformers.test.ts has the same."""
    return torch.tensor([[((i * 7919 + last * 104729 + (i * last * 31) % 997) % 1009) / 100 - 5 for i in range(vocab)]])


def ids(n, low=-1, high=vocab + 1):
    return [rng.randrange(low if rng.random() < 0.1 else 0, high if rng.random() < 0.1 else vocab) for _ in range(n)]


def generation_changes():
    result = {}
    for key, chance, value in (
        ("do_sample", 0.5, lambda: pick([True, True, False, None])),
        ("temperature", 0.4, lambda: pick([0.7, 1.0, 1.5, 1, None, 0.0, 2.0])),
        ("top_k", 0.4, lambda: pick([0, 5, 50, None, 20, 50.0, 1])),
        ("top_p", 0.4, lambda: pick([0.9, 1.0, 0.5, None, 0.1])),
        ("min_p", 0.2, lambda: pick([0.05, 0.5, None, 0.0])),
        ("repetition_penalty", 0.4, lambda: pick([1.1, 2.0, 1.0, None, 0.5, 8.0])),
        ("suppress_tokens", 0.3, lambda: pick([ids(3), ids(12), [], None])),
        ("bad_words_ids", 0.3, lambda: pick([[ids(1)], [ids(1), ids(2)], [ids(2), ids(2), ids(3)], None, [[7]], [[pick(range(vocab)), i] for i in range(0, vocab, 2)]])),
        ("min_new_tokens", 0.25, lambda: pick([0, 3, 10, None])),
        ("min_length", 0.25, lambda: pick([0, 5, 12, None])),
        ("eos_token_id", 0.5, lambda: pick([7, [7, 11], None, [7, -1], 50, 7.0, -1])),
        ("bos_token_id", 0.3, lambda: pick([1, None, -1])),
        ("stop_strings", 0.1, lambda: pick(["END", ["a", "b"], None])),
        ("max_length", 0.1, lambda: 20),
        ("max_new_tokens", 0.1, lambda: 12),
        ("num_beams", 0.05, lambda: pick([1, 4])),
        ("no_repeat_ngram_size", 0.1, lambda: pick([0, 2, None])),
        ("typical_p", 0.1, lambda: pick([1.0, 0.6])),
        ("epsilon_cutoff", 0.1, lambda: pick([0.0, 3e-4])),
        ("eta_cutoff", 0.1, lambda: pick([0.0, 3e-4])),
        ("top_h", 0.05, lambda: 0.4),
        ("guidance_scale", 0.05, lambda: pick([1, 1.5])),
        ("sequence_bias", 0.05, lambda: [[[3], 2.0]]),
        ("encoder_repetition_penalty", 0.05, lambda: pick([1.0, 1.5])),
        ("encoder_no_repeat_ngram_size", 0.05, lambda: pick([0, 2])),
        ("forced_bos_token_id", 0.05, lambda: 3),
        ("forced_eos_token_id", 0.05, lambda: 7),
        ("exponential_decay_length_penalty", 0.05, lambda: [4, 1.5]),
        ("begin_suppress_tokens", 0.1, lambda: pick([[3, 4], []])),
        ("renormalize_logits", 0.05, lambda: True),
        ("remove_invalid_values", 0.05, lambda: True),
        ("use_cache", 0.1, lambda: False),
        ("pad_token_id", 0.1, lambda: 0),
        ("transformers_version", 0.2, lambda: "4.40.0"),
        ("length_penalty", 0.05, lambda: 2.0),
        ("early_stopping", 0.05, lambda: True),
        ("some_other_field", 0.05, lambda: {"x": 1}),
    ):
        if rng.random() < chance:
            result[key] = value()
    return result


model = Phi3ForCausalLM(Phi3Config(**{**common, "vocab_size": vocab, "pad_token_id": 0}))
prompt = [3, 17, 42, 3]
# By the attribute that says how strong each is.
followed = {
    "RepetitionPenaltyLogitsProcessor": ("repetition_penalty", lambda p: p.penalty),
    "NoBadWordsLogitsProcessor": ("bad_words_ids", lambda p: sorted(list(k) for k in p.sequence_bias)),
    "MinLengthLogitsProcessor": ("min_length", lambda p: p.min_length),
    "MinNewTokensLengthLogitsProcessor": ("min_new_tokens", lambda p: p.min_new_tokens),
    "SuppressTokensLogitsProcessor": ("suppress_tokens", lambda p: sorted(set(p.suppress_tokens.tolist()))),
    "TemperatureLogitsWarper": ("temperature", lambda p: p.temperature),
    "TopKLogitsWarper": ("top_k", lambda p: p.top_k),
    "TopPLogitsWarper": ("top_p", lambda p: p.top_p),
    "MinPLogitsWarper": ("min_p", lambda p: p.min_p),
}
silent = {"InfNanRemoveLogitsProcessor", "LogitNormalization"}  # change no finite logit's order


def generation_result(changes):
    loaded = GenerationConfig.from_dict(json.loads(json.dumps(changes)))
    model.generation_config = loaded
    config, _ = model._prepare_generation_config(None)
    config.max_length = 100 if config.forced_eos_token_id is not None else config.max_length
    config.update(min_length=config.min_length)
    model._prepare_special_tokens(config, True, device="cpu", batch_size=1)
    has_min = loaded.min_length is None
    model._prepare_generated_length(config, True, has_min, "input_ids", len(prompt), torch.tensor([prompt]))
    inputs = torch.tensor([prompt])
    processors = model._get_logits_processor(config, len(prompt), inputs, device="cpu", model_kwargs={})
    result, others = {}, []
    for processor in processors:
        name = type(processor).__name__
        if name in followed:
            key, value = followed[name]
            result[key] = value(processor)
        elif name not in silent:
            others.append(name)
    if config.num_beams > 1:
        others.append("beams")
    eos = config._eos_token_tensor
    effective = {"sample": config.do_sample is True, "p": result, "others": others, "eos": [] if eos is None else eos.tolist()}
    if loaded.stop_strings is not None:
        effective["stop"] = [loaded.stop_strings] if isinstance(loaded.stop_strings, str) else loaded.stop_strings
    if not others:
        sequence = list(prompt)
        if not effective["sample"]:
            for _ in range(12):
                scores = processors(torch.tensor([sequence]), table(sequence[-1]).clone())
                if not torch.isfinite(scores).any():
                    return effective
                sequence.append(int(scores.argmax()))
                if sequence[-1] in effective["eos"]:
                    break
            effective["ids"] = sequence[len(prompt):]
        else:
            scores = processors(torch.tensor([sequence]), table(sequence[-1]).clone())
            if torch.isfinite(scores).any():
                effective["probabilities"] = {int(i): float(f"{p:.5g}") for i, p in enumerate(scores.softmax(-1)[0].tolist()) if p > 0}
    return effective


# ---- texts of models/phi-tiny

def text_changes():
    word = lambda: [pick([[12], [591, 271], [14]]), [pick([12, 14, 591, 276]), pick([591, 271, 12])]]
    result = {"bos_token_id": 0, "eos_token_id": pick([0, 0, 0, [0, 14], 12])}
    for key, chance, value in (
        ("repetition_penalty", 0.5, lambda: pick([1.1, 1.5, 8.0])),
        ("suppress_tokens", 0.5, lambda: pick([[12], [14, 12, 591]])),
        ("bad_words_ids", 0.5, word),
        ("min_new_tokens", 0.4, lambda: pick([4, 9])),
        ("min_length", 0.3, lambda: pick([8, 12])),
    ):
        if rng.random() < chance:
            result[key] = value()
    return result


def text_result(tiny, changes):
    tiny.generation_config = GenerationConfig.from_dict(json.loads(json.dumps(changes)))
    ids = torch.tensor([text_prompt])
    out = tiny.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, pad_token_id=0)
    return out[0, len(text_prompt):].tolist()


text_prompt = [593, 592, 260, 349]


def attempt(work, *arguments):
    try:
        return work(*arguments)
    except Exception as error:  # whatever transformers refuses with
        return f"{type(error).__name__}"


def main():
    torch.manual_seed(16)
    configs = []
    for _ in range(900):
        kind = pick(["phi", "phi3", "phi3", "phimoe"])
        changes = config_changes(kind)
        configs.append([kind, changes, attempt(config_result, kind, changes)])
    generations = []
    for _ in range(600):
        changes = generation_changes()
        generations.append([changes, attempt(generation_result, changes)])
    fields = {kind: sorted(f.name for f in dataclasses.fields(config_class)) for kind, (config_class, _) in classes.items()}
    fields["generation"] = sorted(key for key in vars(GenerationConfig()) if not key.startswith("_"))
    head = {"transformers": transformers.__version__, "fields": fields, "bases": bases, "prompt": prompt, "vocab": vocab}
    print(json.dumps(head)[:-1] + ', "configs": [')
    print(",\n".join(json.dumps(row, separators=(",", ":")) for row in configs))
    print('], "generations": [')
    print(",\n".join(json.dumps(row, separators=(",", ":")) for row in generations))
    tiny = AutoModelForCausalLM.from_pretrained("models/phi-tiny", dtype=torch.float32)
    texts = [[changes, text_result(tiny, changes)] for changes in (text_changes() for _ in range(40))]
    print('], "textPrompt": ' + json.dumps(text_prompt) + ', "texts": [')
    print(",\n".join(json.dumps(row, separators=(",", ":")) for row in texts))
    print("]}")
    kinds = lambda rows: sum(isinstance(row[-1], str) for row in rows)
    print(f"{len(configs)} configs, {kinds(configs)} refused; {len(generations)} generation configs, {kinds(generations)} refused", file=sys.stderr)


main()
