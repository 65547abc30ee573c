"""ONNX Runtime's WebGPU through onnxruntime-genai: the same request and the same line as runner.ts."""
import json
import re
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

import onnxruntime_ep_webgpu as webgpu
import onnxruntime_genai as genai


def now():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return 1000 * time.perf_counter(), 1000 * (usage.ru_utime + usage.ru_stime)


def timed(model, prompt, tokens):
    params = genai.GeneratorParams(model)
    # min_length keeps it from ending at an end of text.
    length = len(prompt) + tokens
    params.set_search_options(do_sample=False, min_length=length, max_length=length)
    generator = genai.Generator(model, params)
    began = now()
    generator.append_tokens(prompt)
    generator.generate_next_token()
    ids = [int(generator.get_next_tokens()[0])]
    first = now()
    while len(ids) < tokens:
        generator.generate_next_token()
        ids.append(int(generator.get_next_tokens()[0]))
    return ids, began, first, now()


def loaded_drivers():
    maps = Path("/proc/self/maps")
    found = re.findall(r"/(libvulkan_\w+|libvk_\w+)\.so", maps.read_text()) if maps.exists() else ["unknown"]
    return ", ".join(dict.fromkeys(found))


def main():
    request = json.loads(sys.argv[1])
    short, long, new_tokens = request["shortPrompt"], request["longPrompt"], request["newTokens"]
    began_ms, _ = now()
    genai.register_execution_provider_library(webgpu.get_ep_name(), webgpu.get_library_path())
    model = genai.Model(str(Path(request["folder"]) / "model"))
    load_ms = now()[0] - began_ms
    if model.device_type != "WebGPU":
        sys.exit(f"expected WebGPU, got {model.device_type}")
    timed(model, short, 3)
    ids, began, first, last = timed(model, short, new_tokens + 1)
    _, prefill_began, prefilled, _ = timed(model, long, 1)
    packages = ("onnxruntime-genai", "onnxruntime", "onnxruntime-ep-webgpu")
    measured = {
        "versions": ", ".join(f"{package} {version(package)}" for package in packages),
        "adapter": loaded_drivers(),
        "loadMs": load_ms,
        "firstTokenMs": first[0] - began[0],
        "decodeMs": last[0] - first[0],
        "decodeCpuMs": last[1] - first[1],
        "prefillTokens": len(long),
        "prefillMs": prefilled[0] - prefill_began[0],
        "prefillCpuMs": prefilled[1] - prefill_began[1],
        "ids": ids,
    }
    print("\n" + json.dumps(measured), flush=True)


main()
