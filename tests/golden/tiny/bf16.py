"""Logits of the tiny models in bfloat16 over NF4, by transformers + PEFT + bitsandbytes: bf16.safetensors and bf16.json. Run after the
others.

As QLoRA's users compute: the base loaded in bfloat16, Linear4bit computing in bfloat16, LoRA in fp32 as PEFT keeps it, with every
adapter that a model has (adapter/, dora/, whole/, experts/) on the documents of its golden.json. A tensor MODEL.ADAPTER has
[tokens, vocabulary], the documents one after the other, bfloat16 as they come out. bf16.json has the distance of each from the fp32
logits of the same weights over NF4: the largest, and the root of the mean square, relative to that of the fp32 logits.
"""

import json
import os

import torch
import transformers
from make import FAMILIES, HERE, load, run  # makes common importable
from common import use_exact_nested_codes, versions, write_json
from peft import PeftModel
from safetensors.torch import load_file, save_file

KINDS = ("adapter", "dora", "whole", "experts")


def golden_files(name, kind):
    """Documents and fp32 logits over NF4."""
    folder = os.path.join(HERE, name, "" if kind == "adapter" else kind)
    with open(os.path.join(folder, "golden.json"), encoding="utf-8") as file:
        docs = json.load(file).get("documents")
    if docs is None:
        docs = golden_files(name, "adapter")[0]
    logits = load_file(os.path.join(folder, "golden.safetensors"))
    return docs, logits["logits.lora_nf4" if kind == "adapter" else "logits.nf4"]


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    use_exact_nested_codes()
    tensors, distances = {}, {}
    for name in FAMILIES:
        for kind in KINDS:
            folder = os.path.join(HERE, name, kind)
            if not os.path.isdir(folder):
                continue
            docs, exact = golden_files(name, kind)
            base = load(os.path.join(HERE, name), quantized=True, dtype=torch.bfloat16)
            base.set_experts_implementation("eager")  # torch's grouped products want rows of whole 16 bytes
            model = PeftModel.from_pretrained(base, folder)
            logits = run(model, docs)[0]
            assert torch.equal(logits, logits.bfloat16().float())
            tensors[f"{name}.{kind}"] = logits.bfloat16()
            error = logits.double() - exact.double()
            distances[f"{name}.{kind}"] = {"largest": error.abs().max().item(),
                                           "relative": (error.square().mean() / exact.double().square().mean()).sqrt().item()}
            print(name, kind, distances[f"{name}.{kind}"], exact.abs().max().item(), flush=True)
    save_file(tensors, os.path.join(HERE, "bf16.safetensors"))
    write_json(os.path.join(HERE, "bf16.json"), {"about": "tests/golden/tiny/bf16.py", "distances": distances,
                                                 "versions": versions("torch", "transformers", "peft", "bitsandbytes")})


if __name__ == "__main__":
    main()
