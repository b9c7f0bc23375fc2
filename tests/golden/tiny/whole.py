"""Adapters that train weights of the base themselves (modules_to_save, bias), by PEFT over transformers and bitsandbytes: MODEL/whole/.
Run after make.py, which removes it.

Beside LoRA each model trains embedding, head or both, of tied models too (PEFT unties them), or biases. The documents are make.py's
with some padding tokens inside, whose row torch's Embedding gives no gradient. Recorded, as in dora.py: logits, losses and gradients
in fp32, on the plain base and over NF4, and the losses of twenty AdamW steps over NF4, with a weight decay of what transformers' Trainer
lets decay.
"""

import json
import os
import shutil

import torch
import transformers
from make import FAMILIES, HERE, load, run, save_adapter  # makes common importable
from train import LEARNING_RATE, STEPS
from common import use_exact_nested_codes, versions, write_json
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import Trainer

MODELS = {
    "llama": dict(modules_to_save=["embed_tokens", "lm_head"]),
    "llama_tied": dict(modules_to_save=["lm_head"]),
    "gemma3": dict(modules_to_save=["model.embed_tokens"]),
    "gpt2": dict(modules_to_save=["wte", "lm_head"], bias="all"),
    "starcoder2": dict(bias="all"),
    "llama_bias": dict(bias="lora_only", target_modules=["q_proj", "o_proj", "down_proj"]),
}
WEIGHT_DECAY = 0.1


def attach(model, name):
    options = {"target_modules": "all-linear"} | MODELS[name]
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **options))


def trained(model):
    """Name in the adapter's file and parameter of everything that learns."""
    return {name.replace(".modules_to_save.default", "").replace(".default", ""): parameter
            for name, parameter in sorted(model.named_parameters()) if parameter.requires_grad}


def set_parameters(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in trained(model).items():
        noise = torch.randn(parameter.shape, generator=generator)
        if "lora_" in name:
            parameter.data = noise * (1 / parameter.shape[1] ** 0.5 if "lora_A" in name else 0.2)
        else:
            parameter.data = parameter.data + 0.05 * noise


def documents(base):
    with open(os.path.join(base, "golden.json"), encoding="utf-8") as file:
        docs = json.load(file)["documents"]
    for doc in docs:
        doc["input_ids"][2] = doc["input_ids"][5] = 0
        doc["labels"][2] = -100
    return docs


def make(name):
    base, folder = os.path.join(HERE, name), os.path.join(HERE, name, "whole")
    shutil.rmtree(folder, ignore_errors=True)
    docs = documents(base)
    golden = {"about": "tests/golden/tiny/whole.py", "versions": versions("torch", "transformers", "peft", "bitsandbytes"),
              "documents": docs, "loss": {}, "grad_norm": {}, "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "losses": []}
    tensors = {}
    for kind in ("fp32", "nf4"):
        if kind == "fp32":
            model = attach(load(base, quantized=False), name)
            set_parameters(model, 300 + list(FAMILIES).index(name))
            save_adapter(model, folder, name)
        else:
            model = PeftModel.from_pretrained(load(base, quantized=True), folder, is_trainable=True)
        tensors["logits." + kind], golden["loss"][kind] = run(model, docs)
        gradients = {key: parameter.grad.clone() for key, parameter in trained(model).items()}
        golden["grad_norm"][kind] = float(sum(g.double().square().sum() for g in gradients.values()).sqrt())
        tensors |= {f"grad.{kind}.{key}": value for key, value in gradients.items()}
    decaying = Trainer.get_decay_parameter_names(None, model)
    groups = [{"params": [p for n, p in model.named_parameters() if p.requires_grad and (n in decaying) == decays],
               "weight_decay": WEIGHT_DECAY if decays else 0.0} for decays in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)
    for _ in range(STEPS):
        golden["losses"].append(run(model, docs)[1])
        optimizer.step()
    save_file({key: value.contiguous() for key, value in tensors.items()}, os.path.join(folder, "golden.safetensors"))
    write_json(os.path.join(folder, "golden.json"), golden)
    print(name, golden["loss"], golden["grad_norm"], golden["losses"][-1])


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    use_exact_nested_codes()
    for name in MODELS:
        make(name)


if __name__ == "__main__":
    main()
