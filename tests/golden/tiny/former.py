"""An adapter of a mixture of experts as PEFT wrote it before transformers 5, when every matrix of every expert and the router were
linears of their own: MODEL/former/. Run after make.py, which removes it.

Recorded: logits of the adapter as PEFT of today loads it, which fuses it, on the plain base and over NF4.
"""

import json
import os
import shutil

import torch
from adapters import documents, make_all  # makes make and common importable
from make import HERE, load, run
from common import versions, write_json
from peft import PeftModel
from safetensors.torch import load_file, save_file

R = 3
# The names of router, gate, up and down, and of the module they are in.
NAMES = {"mixtral": ("block_sparse_moe", "gate", "w1", "w3", "w2"),
         "qwen3_moe": ("mlp", "gate", "gate_proj", "up_proj", "down_proj")}
ATTENTION = ("q_proj", "v_proj")


def linears(name):
    """Path and shape of what is adapted. A layer without experts is left alone: PEFT of today takes its names for experts'."""
    module, router, *experts = NAMES[name]
    for key, weight in sorted(load_file(os.path.join(HERE, name, "model.safetensors")).items()):
        path = key.removesuffix(".weight")
        last = path.rsplit(".", 1)[-1]
        if last in ATTENTION or path.endswith(f"{module}.{router}") or (".experts." in path and last in experts):
            yield path, weight.shape


def make(name):
    folder = os.path.join(HERE, name, "former")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    generator = torch.Generator().manual_seed(400)
    tensors = {}
    for path, (rows, cols) in linears(name):
        tensors[f"base_model.model.{path}.lora_A.weight"] = torch.randn(R, cols, generator=generator) / cols ** 0.5
        tensors[f"base_model.model.{path}.lora_B.weight"] = 0.2 * torch.randn(rows, R, generator=generator)
    save_file(tensors, os.path.join(folder, "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {"base_model_name_or_path": name, "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "lora_alpha": 6,
              "lora_dropout": 0.0, "peft_type": "LORA", "r": R, "target_modules": sorted([*ATTENTION, *NAMES[name][1:]]),
              "task_type": "CAUSAL_LM"}
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
    logits = {}
    for precision in ("fp32", "nf4"):
        model = PeftModel.from_pretrained(load(os.path.join(HERE, name), quantized=precision == "nf4"), folder, is_trainable=True)
        logits["logits." + precision], loss = run(model, documents(name))
        print(name, precision, loss)
    save_file(logits, os.path.join(folder, "golden.safetensors"))
    write_json(os.path.join(folder, "golden.json"),
               {"about": "tests/golden/tiny/former.py", "versions": versions("torch", "transformers", "peft", "bitsandbytes")})


if __name__ == "__main__":
    make_all(NAMES, make)
