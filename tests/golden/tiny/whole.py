"""Adapters that train weights of the base themselves (modules_to_save, bias), by PEFT over transformers and bitsandbytes: MODEL/whole/.
Run after make.py, which removes it.

Beside LoRA each model trains embedding, head or both, of tied models too (PEFT unties them), or biases. The documents are make.py's
with some padding tokens inside, whose row torch's Embedding gives no gradient. Recorded is what adapters.py says, with a weight decay of
what transformers' Trainer lets decay.
"""

import torch
from adapters import documents, make_all, record  # makes train importable
from train import LEARNING_RATE
from peft import LoraConfig, get_peft_model
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


def padded_documents(name):
    docs = documents(name)
    for doc in docs:
        doc["input_ids"][2] = doc["input_ids"][5] = 0
        doc["labels"][2] = -100
    return docs


def decaying_adamw(model):
    decaying = Trainer.get_decay_parameter_names(None, model)
    groups = [{"params": [p for n, p in model.named_parameters() if p.requires_grad and (n in decaying) == decays],
               "weight_decay": WEIGHT_DECAY if decays else 0.0} for decays in (True, False)]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE)


def make(name):
    docs = padded_documents(name)
    record(name, "whole", lambda model: attach(model, name), 300, docs,
           facts={"documents": docs, "weight_decay": WEIGHT_DECAY}, optimizer_of=decaying_adamw)


if __name__ == "__main__":
    make_all(MODELS, make)
