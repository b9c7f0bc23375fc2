"""Logits of the tiny models in bfloat16 over NF4, by transformers + PEFT + bitsandbytes: bf16.safetensors and bf16.json. Run after the
others.

As QLoRA's users compute, in their two ways: the base loaded in bfloat16 and used as it is ("plain"), or passed through
prepare_model_for_kbit_training ("prepared"), which has all but Linear4bit in fp32: residual stream, norms, attention, head. Both
with Linear4bit computing in bfloat16, LoRA in fp32 as PEFT keeps it, and every adapter that a model has (adapter/, dora/, whole/,
experts/) on the documents of its golden.json. A tensor MODEL.ADAPTER.WAY has [tokens, vocabulary], the documents one after the
other, in bfloat16 (as they come out of the plain one). bf16.json has for each the distance of the gradients of all that learns
from those in fp32 over NF4: the root of the sum of squares, relative to that of the fp32 gradients.
"""

import json
import os

import torch
import transformers
from adapters import trained  # makes make and common importable
from make import FAMILIES, HERE, load, run
from common import use_exact_bitsandbytes, versions, write_json
from peft import PeftModel, prepare_model_for_kbit_training
from safetensors.torch import load_file, save_file

KINDS = ("adapter", "dora", "whole", "experts")


def golden_files(name, kind):
    """Documents, and fp32 logits and gradients."""
    folder = os.path.join(HERE, name, "" if kind == "adapter" else kind)
    with open(os.path.join(folder, "golden.json"), encoding="utf-8") as file:
        docs = json.load(file).get("documents")
    if docs is None:
        docs = golden_files(name, "adapter")[0]
    return docs, load_file(os.path.join(folder, "golden.safetensors"))


def relative(pairs):
    """Root of the sum of squares of value - exact, relative to that of `exact`."""
    sums = torch.tensor([[(value.double() - exact.double()).square().sum(), exact.double().square().sum()] for value, exact in pairs])
    return (sums[:, 0].sum() / sums[:, 1].sum()).sqrt().item()


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    use_exact_bitsandbytes()
    tensors, gradients = {}, {}
    for name in FAMILIES:
        for kind in KINDS:
            folder = os.path.join(HERE, name, kind)
            if not os.path.isdir(folder):
                continue
            docs, exact = golden_files(name, kind)
            exact_logits = exact["logits.lora_nf4" if kind == "adapter" else "logits.nf4"]
            for way in ("plain", "prepared"):
                key = f"{name}.{kind}.{way}"
                base = load(os.path.join(HERE, name), quantized=True, dtype=torch.bfloat16)
                base.set_experts_implementation("eager")  # torch's grouped products want rows of whole 16 bytes
                if way == "prepared":
                    base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
                model = PeftModel.from_pretrained(base, folder, is_trainable=True)
                logits = run(model, docs)[0]
                assert logits.dtype == (torch.bfloat16 if way == "plain" else torch.float32)
                tensors[key] = logits.bfloat16()
                gradients[key] = relative([(p.grad, exact["grad.nf4." + k]) for k, p in trained(model).items()])
                print(key, "logits", relative([(logits, exact_logits)]), "gradients", gradients[key], flush=True)
    save_file(tensors, os.path.join(HERE, "bf16.safetensors"))
    write_json(os.path.join(HERE, "bf16.json"), {"about": "tests/golden/tiny/bf16.py", "gradients": gradients,
                                                 "versions": versions("torch", "transformers", "peft", "bitsandbytes")})


if __name__ == "__main__":
    main()
