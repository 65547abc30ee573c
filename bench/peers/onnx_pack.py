"""Arranges the model that onnxruntime-genai's builder wrote as transformers.js wants it: SOURCE CHECKPOINT OUT."""
import json
import shutil
import sys
from pathlib import Path

import onnx

source, checkpoint, out = map(Path, sys.argv[1:])
(out / "onnx").mkdir(parents=True, exist_ok=True)
graph = onnx.load(source / "model.onnx", load_external_data=False)
head = json.loads((source / "genai_config.json").read_text())["model"]["decoder"]["head_size"]
for value in [*graph.graph.input, *graph.graph.output]:
    for dimension in value.type.tensor_type.shape.dim:
        # transformers.js makes an unknown dimension of an empty cache 0, which the attention refuses.
        if dimension.dim_param == "kv_cache_dim":
            dimension.dim_value = head
for tensor in graph.graph.initializer:
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = "model_q4.onnx_data"
onnx.save(graph, out / "onnx" / "model_q4.onnx")
shutil.copy(source / "model.onnx.data", out / "onnx" / "model_q4.onnx_data")
for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
    shutil.copy(checkpoint / name, out)
