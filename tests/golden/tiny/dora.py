"""DoRA on some tiny models by PEFT over transformers and bitsandbytes: MODEL/dora/. Run after make.py, which removes it.

The adapter has the targets and the A and B of make.py's, and magnitudes a fifth or so away from the base's row norms. Beside what
adapters.py records: PEFT's own first magnitudes over NF4.
"""

import os

from adapters import documents, make_all, record, trained  # makes make and common importable
from make import HERE, load
from peft import LoraConfig, get_peft_model


def attach(model):
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear",
                                            use_dora=True, task_type="CAUSAL_LM"))


def make(name):
    first = trained(attach(load(os.path.join(HERE, name), quantized=True)))
    magnitudes = {"initial.nf4." + key: value.detach().clone() for key, value in first.items() if key.endswith("magnitude_vector")}
    record(name, "dora", attach, 200, documents(name), tensors=magnitudes)


if __name__ == "__main__":
    make_all(("llama", "llama_bias", "gemma3", "gpt2"), make)
