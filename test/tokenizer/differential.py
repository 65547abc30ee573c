"""
Makes test/fixtures/tokenizers/differential.json: seeded variants of small tokenizers (added tokens with all flags, the
files beside tokenizer.json, components, fields of the model), each with texts, their ids and decoded texts as
transformers 5.23 and tokenizers 0.23 give them.

    pip install transformers==5.23.0 tokenizers==0.23.3
    python test/tokenizer/differential.py

A variant that they cannot load or run is left out. Named unknown tokens that no vocabulary has are left out too: there
we differ on purpose (tokenizer/files.ts).
"""
import json
import os
import random
import sys
import tempfile

import tokenizers
import transformers
from transformers import PreTrainedTokenizerFast

transformers.logging.set_verbosity_error()
VARIANTS = 240
rng = random.Random(20231)
here = os.path.dirname(os.path.abspath(__file__))
target = os.path.join(here, "../fixtures/tokenizers/differential.json")


def byte_characters():
    moved, characters = 0, []
    for byte in range(256):
        if 0x20 < byte < 0x7F or (byte > 0xA0 and byte != 0xAD):
            characters.append(chr(byte))
        else:
            characters.append(chr(0x100 + moved))
            moved += 1
    return characters


def model(tokens, merges, **fields):
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocab, "merges": merges, **fields}


def merged(merges, prefix=""):
    return [left + right[len(prefix):] for left, right in merges]


byte_merges = [["Ġ", "t"], ["h", "e"], ["Ġt", "he"], ["a", "b"], ["ab", "ab"], ["Ġ", "Ġ"], ["Ã", "©"], ["|", ">"], ["<", "|"]]
sp_merges = [["▁", "t"], ["h", "e"], ["▁t", "he"], ["a", "b"], ["▁", "ab"], ["▁", "▁"], ["▁▁", "▁▁"], ["▁", "A"], ["c", "a"]]
letters = list("▁abcdehtxA <|>.,1é\n")
bytes_of_sp = [f"<0x{byte:02X}>" for byte in range(256)]
prefix_merges = [["a", "##b"], ["ab", "##c"], ["t", "##h"]]
BASES = {
    "bytes": model(byte_characters() + merged(byte_merges), byte_merges),
    "bytes-unk": model(["<unk>"] + byte_characters()[:100] + merged(byte_merges)
                       + ["Ġ", "Ã", "©", "<", "|", ">"], byte_merges, unk_token="<unk>"),
    "sp": model(["<unk>", "<s>", "</s>"] + bytes_of_sp + letters + merged(sp_merges), sp_merges, unk_token="<unk>",
                fuse_unk=True, byte_fallback=True),
    "sp-some-bytes": model(["<unk>", "<s>", "</s>"] + bytes_of_sp[0xB0:] + letters + merged(sp_merges), sp_merges,
                           unk_token="<unk>", byte_fallback=True),
    "letters": model(["<unk>"] + letters + merged(sp_merges), sp_merges, unk_token="<unk>"),
    "prefix": model(["<unk>"] + letters + ["##" + letter for letter in letters] + merged(prefix_merges, "##"), prefix_merges,
                    unk_token="<unk>", continuing_subword_prefix="##"),
    "suffix": model(["<unk>"] + letters + [letter + "</w>" for letter in letters] + ["ab</w>", "the</w>", "he</w>"],
                    [["a", "b</w>"], ["h", "e</w>"], ["t", "he</w>"]], unk_token="<unk>", end_of_word_suffix="</w>"),
}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DUMMY = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
LLAMA = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
         {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
NORMALIZERS = [None, None, None, {"type": "Lowercase"}, {"type": "NFC"}, {"type": "NFKC"}, {"type": "StripAccents"},
               {"type": "Strip", "strip_left": True, "strip_right": False},
               {"type": "Replace", "pattern": {"Regex": "b+"}, "content": "a"},
               {"type": "Replace", "pattern": {"String": "x"}, "content": ""},
               {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]}]
SPLITS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
CONTENTS = ["<|x|>", "<|end|>", "<|x", "|>", "[MASK]", "  ", " ", "\n", "ab", "a", "the", " the", "é", "▁t", "▁", "b a", "A",
            "<s>", "</s>", "<unk>", "x", "e\u0301", "<X>", "tab", "1"]
WORDS = ["a", "ab", " ab", " the", "  ", "   ", " ", "\n", "é", "漢", "x", "A", ".", ",", "1", "the", "\t", "e\u0301", "_", "Σ",
         "\u200d", "▁", "bbb", "<", "|>"]


def sequence(kind, steps):
    return steps[0] if len(steps) == 1 else {"type": "Sequence", kind: steps}


def pre_tokenizer(base):
    steps = []
    if rng.random() < 0.35:
        steps.append(rng.choice([
            {"type": "Digits", "individual_digits": rng.random() < 0.5},
            {"type": "Punctuation", "behavior": rng.choice(SPLITS)},
            {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": rng.choice(SPLITS), "invert": rng.random() < 0.3},
            {"type": "Split", "pattern": {"String": "a"}, "behavior": rng.choice(SPLITS), "invert": rng.random() < 0.3},
            {"type": "Whitespace"}, {"type": "WhitespaceSplit"}]))
    if base.startswith("bytes"):
        steps.append({**BYTES, "add_prefix_space": rng.random() < 0.3, "use_regex": rng.random() < 0.7})
    elif rng.random() < 0.4:
        scheme = rng.choice(["always", "first", "never"])
        if not steps:
            steps.append({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": rng.random() < 0.5})
    return sequence("pretokenizers", steps) if steps else None


def decoder(base):
    if base.startswith("bytes"):
        return BYTES
    return rng.choice([None, {"type": "Sequence", "decoders": LLAMA}, {"type": "Sequence", "decoders": LLAMA},
                       {"type": "Metaspace", "replacement": "▁", "prepend_scheme": rng.choice(["always", "never"]), "split": True},
                       {"type": "Sequence", "decoders": [{"type": "Strip", "content": "a", "start": 1, "stop": 0}, {"type": "Fuse"}]},
                       {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 2, "stop": 1}]}])


def flags(content, special=None):
    special = rng.random() < 0.5 if special is None else special
    return {"content": content, "single_word": rng.random() < 0.15, "lstrip": rng.random() < 0.25,
            "rstrip": rng.random() < 0.25, "normalized": rng.random() < 0.5, "special": special}


def variant():
    base = rng.choice(list(BASES))
    vocab = BASES[base]["vocab"]
    contents = rng.sample(CONTENTS, rng.randrange(0, 7))
    added = []
    next_id = len(vocab)
    for content in contents:
        stated = vocab.get(content)
        if stated is None:
            stated, next_id = next_id, next_id + 1
        added.append({"id": stated + (7 if rng.random() < 0.05 else 0), **flags(content)})
    normalizer = {"type": "Sequence", "normalizers": DUMMY} if base.startswith("sp") and rng.random() < 0.5 else rng.choice(NORMALIZERS)
    patch = {"added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer(base), "decoder": decoder(base)}
    fields = {}
    if rng.random() < 0.2:
        fields["ignore_merges"] = True
    if rng.random() < 0.2:
        fields["fuse_unk"] = not BASES[base]["fuse_unk"]
    some = list(vocab.items())[:3]
    if rng.random() < 0.3:
        (first, first_id), (last, last_id) = some[0], some[1]
        patch["post_processor"] = rng.choice([
            {"type": "RobertaProcessing", "sep": [last, last_id], "cls": [first, first_id], "trim_offsets": True, "add_prefix_space": False},
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
             "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
             "special_tokens": {first: {"id": first, "ids": [first_id], "tokens": [first]}}}])
    files = {}
    config = {}
    if rng.random() < 0.5:
        for role in rng.sample(["bos_token", "eos_token", "pad_token", "image_token"], rng.randrange(1, 4)):
            content = rng.choice(CONTENTS + ["<new>", "[PAD]"])
            config[role] = content if rng.random() < 0.7 else {"__type": "AddedToken", **flags(content)}
        if rng.random() < 0.3:
            name = rng.choice(["extra_special_tokens", "additional_special_tokens"])
            config[name] = rng.sample(CONTENTS + ["<extra>"], rng.randrange(1, 3))
        if rng.random() < 0.1:
            config["extra_special_tokens"] = {"named_token": rng.choice(CONTENTS + ["<extra>"])}
        if rng.random() < 0.5:
            entries = {}
            for token in added:
                if rng.random() < 0.7:
                    other = flags(token["content"]) if rng.random() < 0.3 else {k: v for k, v in token.items() if k != "id"}
                    entries[str(token["id"])] = other
            for content in rng.sample(CONTENTS, rng.randrange(0, 3)):
                if content not in contents:
                    entries[str(next_id)] = flags(content)
                    next_id += rng.choice([1, 1, 4])
            config["added_tokens_decoder"] = entries
        if rng.random() < 0.1:
            config["split_special_tokens"] = True
        if rng.random() < 0.1:
            config["add_bos_token"] = True
        if rng.random() < 0.1:
            config["clean_up_tokenization_spaces"] = True
        files["tokenizer_config.json"] = config
    if rng.random() < 0.25:
        files["special_tokens_map.json"] = {
            role: content if rng.random() < 0.5 else flags(content, True)
            for role, content in zip(["eos_token", "pad_token"], rng.sample(CONTENTS + ["<map>"], 2))}
    if rng.random() < 0.2:
        files["added_tokens.json"] = {content: next_id + i for i, content in enumerate(rng.sample(CONTENTS, 2)) if content not in contents}
    return base, patch, fields, files


def texts_of(files, patch):
    found = [token["content"] for token in patch["added_tokens"]]
    for name, content in files.items():
        found += content.keys() if name == "added_tokens.json" else []
        for value in content.values():
            for token in value if isinstance(value, list) else value.values() if isinstance(value, dict) and "content" not in value else [value]:
                if isinstance(token, dict) and isinstance(token.get("content"), str):
                    found.append(token["content"])
                elif isinstance(token, str):
                    found.append(token)
    parts = WORDS + found * 3
    return ["".join(rng.choice(parts) for _ in range(rng.randrange(1, 9))) for _ in range(5)]


def main():
    cases, left_out = [], 0
    while len(cases) < VARIANTS:
        base, patch, fields, files = variant()
        texts = texts_of(files, patch)
        whole = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None, **patch, "model": {**BASES[base], **fields}}
        try:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in {"tokenizer.json": whole, **files}.items():
                    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                        json.dump(content, file)
                tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            normalizer = tokenizer.backend_tokenizer.normalizer
            # A token of which the normalizer leaves nothing is found everywhere, without end; of two that it makes equal
            # now one is found, now the other.
            written = [normalizer.normalize_str(t.content) if normalizer else t.content
                       for t in tokenizer.added_tokens_decoder.values() if t.normalized]
            if "" in written or len(set(written)) < len(written):
                left_out += 1
                continue
            runs = []
            for text in texts:
                ids = tokenizer.encode(text, add_special_tokens=False)
                around = tokenizer.encode(text)
                run = {"text": text, "ids": ids, "decoded": tokenizer.decode(ids)}
                skipped = tokenizer.decode(ids, skip_special_tokens=True)
                if around != ids:
                    run["around"] = around
                if skipped != run["decoded"]:
                    run["skipped"] = skipped
                runs.append(run)
        except BaseException as error:  # a panic of the Rust library is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            left_out += 1
            continue
        case = {"base": base, "patch": {k: v for k, v in patch.items() if v not in (None, [])}, "runs": runs}
        if fields:
            case["fields"] = fields
        if files:
            case["files"] = files
        cases.append(case)
    versions = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    with open(target, "w", encoding="utf-8") as file:
        file.write("{" + f'"versions": {json.dumps(versions)},\n"bases": {json.dumps(BASES, ensure_ascii=True, separators=(",", ":"))},\n"cases": [\n')
        file.write(",\n".join(json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases))
        file.write("\n]}\n")
    print(f"{len(cases)} variants, {sum(len(c['runs']) for c in cases)} texts; {left_out} left out; {os.path.getsize(target)} bytes", file=sys.stderr)


main()
